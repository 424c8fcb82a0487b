"""Fits the predictor `likelihood`, calibrates it and measures its coverage. Pure."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from probes.conformal import Calibration, Coverage, conformal_threshold
from probes.inquiry.likelihood import AnswerModel, answer_logprobs, fit_answers
from probes.inquiry.turn import Rule
from training.inquiry.simulate import (
    GameStep,
    Turns,
    answered_questions,
    coverage,
    play_game,
    predictions,
    random_histories,
    true_answers,
    true_scores,
)


class LabelSplit(NamedTuple):
    """Labels by purpose."""

    fitted: list[int]
    calibrated: list[int]


class SimulatedGames(NamedTuple):
    """Games of one rule: results after each number of questions."""

    name: str
    games: list[list[GameStep]]

    def accuracy(self, questions: int) -> float:
        """Share of games whose most probable label is the true one by then."""
        return sum(_step_at(steps, questions).correct for steps in self.games) / len(self.games)

    def size(self, questions: int) -> float:
        """Mean size of the prediction set by then."""
        return sum(_step_at(steps, questions).size for steps in self.games) / len(self.games)

    def coverage(self) -> dict[int, Coverage]:
        """Coverage by history length."""
        return coverage(self.games)


def _step_at(steps: Sequence[GameStep], questions: int) -> GameStep:
    return steps[min(questions, len(steps) - 1)]


def split_labels(num_labels: int, seed: int) -> LabelSplit:
    """Half of the labels for the fit, the others for calibration."""
    order = torch.randperm(num_labels, generator=torch.Generator().manual_seed(seed)).tolist()
    half = num_labels // 2
    return LabelSplit(sorted(order[:half]), sorted(order[half:]))


def fit_half(table: Tensor, answers: Tensor, fitted: Sequence[int], ridge: float) -> AnswerModel:
    """Fit the answer model on some labels' known answers; tables of shape (K, Q)."""
    seen = torch.full_like(answers, torch.nan)
    seen[list(fitted)] = answers[list(fitted)]
    return fit_answers(table, seen, ridge)


def calibration_scores(
    logprobs: Tensor, answers: Tensor, labels: Sequence[int], lengths: int, samples: int, seed: int
) -> Tensor:
    """Scores of the true labels on random histories, ascending, shape (lengths, samples).

    Args:
        logprobs: ln P(answer | question, label), shape (Q, 2, K).
        answers: Known answers, shape (K, Q).
        labels: Labels to draw from.
        lengths: Lengths 0 to `lengths` - 1.
        samples: Histories of each.
        seed: Of the draw.
    """
    draw = torch.Generator().manual_seed(seed)
    rows = []
    for length in range(lengths):
        histories = random_histories(answers, labels, length, samples, draw)
        rows.append(true_scores(predictions(logprobs, histories), histories.labels))
    return torch.stack(rows)


def exchangeable_coverage(
    logprobs: Tensor, answers: Tensor, labels: Sequence[int], calibration: Calibration, games: int
) -> dict[int, Coverage]:
    """Coverage by length on new random histories."""
    draw = torch.Generator().manual_seed(2**31)  # larger than any seed of a calibration
    found = {}
    for length in range(len(calibration.thresholds)):
        histories = random_histories(answers, labels, length, games, draw)
        sets = calibration.sets(predictions(logprobs, histories), length)
        held = sets.gather(-1, histories.labels.unsqueeze(-1))
        found[length] = Coverage(games, int(held.sum()))
    return found


def play_games(
    name: str,
    logprobs: Tensor,
    answers: Tensor,
    labels: Sequence[int],
    calibration: Calibration,
    rule: Rule,
    games: int,
) -> SimulatedGames:
    """Play a rule's games about the labels in turn, with new answers for each game."""
    draw = torch.Generator().manual_seed(2**31 + 1)
    found = []
    turns: Turns = {}
    for game in range(games):
        truth = true_answers(answers, draw)
        known = answered_questions(answers)
        label = labels[game % len(labels)]
        row = torch.full((len(logprobs),), -1)
        row[known] = truth[label, known]
        shared = None if rule.policy == "random" else turns
        seeded = rule._replace(seed=game)
        found.append(play_game(logprobs, row, label, calibration, seeded, shared))
    return SimulatedGames(name, found)


def likelihood_logprobs(table: Tensor, model: AnswerModel) -> Tensor:
    """ln P(answer | question, label) as a server computes it from what is stored."""
    stored = AnswerModel(*(one.float().double() for one in model))
    return answer_logprobs(table.float().double(), stored)


def calibrate_at(scores: Tensor, level: float) -> Calibration:
    """Thresholds from ascending scores of shape (lengths, samples)."""
    return Calibration(conformal_threshold(scores, level), scores.shape[-1], level, "lac")
