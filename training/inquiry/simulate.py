"""Simulated inquiries: random histories for calibration, and games played by a rule."""

from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

from probes.conformal import Calibration, Coverage, CoverageMonitor, conformity_scores
from probes.inquiry.likelihood import NO, YES
from probes.inquiry.turn import Rule, Turn, likelihood_lookahead, take_turn


class Histories(NamedTuple):
    """Random histories of one length."""

    labels: Tensor
    """True labels, shape (samples,)."""
    questions: Tensor
    """Distinct questions, shape (samples, length)."""
    answers: Tensor
    """`YES` or `NO`, shape (samples, length)."""

    def pairs(self, sample: int) -> list[tuple[int, int]]:
        """One history as pairs of question and answer."""
        questions, answers = self.questions[sample].tolist(), self.answers[sample].tolist()
        return list(zip(questions, answers, strict=True))


def answered_questions(table: Tensor) -> Tensor:
    """Indices of the questions with at least one known answer; table of shape (K, Q)."""
    return (~table.isnan()).any(0).nonzero().squeeze(-1)


def true_answers(table: Tensor, draw: torch.Generator) -> Tensor:
    """One answer per label and question, shape (K, Q); unknown ones are drawn at random."""
    coins = torch.rand(table.shape, generator=draw, dtype=torch.float64).round()
    yes = torch.where(table.isnan(), coins, table)
    return torch.where(yes == 1, YES, NO)


def random_histories(
    table: Tensor, labels: Sequence[int], length: int, num_samples: int, draw: torch.Generator
) -> Histories:
    """Histories of distinct questions drawn uniformly, about labels drawn uniformly.

    Args:
        table: Known answers, shape (K, Q).
        labels: Labels to draw from.
        length: Questions in each history.
        num_samples: How many.
        draw: Randomness.

    Source: C-IP (arXiv 2507.03279), calibration on the closed set.
    """
    known = answered_questions(table)
    picked = torch.randint(len(labels), (num_samples,), generator=draw)
    truth = torch.tensor(labels)[picked]
    order = torch.rand(num_samples, len(known), generator=draw).argsort(-1)
    questions = known[order[:, :length]]
    coins = torch.rand(questions.shape, generator=draw, dtype=torch.float64).round()
    answers = table[truth.unsqueeze(-1), questions]
    answers = torch.where(answers.isnan(), coins, answers)
    return Histories(truth, questions, torch.where(answers == 1, YES, NO))


def predictions(logprobs: Tensor, histories: Histories) -> Tensor:
    """Label probabilities after each history by Bayes' rule, shape (samples, K).

    Args:
        logprobs: ln P(answer | question, label), shape (Q, 2, K).
        histories: All of one length.
    """
    return torch.softmax(logprobs[histories.questions, histories.answers].sum(1), -1)


def true_scores(probabilities: Tensor, labels: Tensor) -> Tensor:
    """LAC scores of the true labels, ascending, shape (samples,)."""
    scores = conformity_scores(probabilities, "lac")
    return scores.gather(-1, labels.unsqueeze(-1)).squeeze(-1).sort().values


Turns: TypeAlias = dict[tuple[tuple[int, int], ...], Turn]
"""Turns by the history that they follow."""


class GameStep(NamedTuple):
    """One turn of a simulated game."""

    correct: bool
    """Whether the most probable label is the true one."""
    covered: bool
    """Whether the prediction set contains it."""
    size: int
    length: int


def play_game(
    logprobs: Tensor,
    answers: Tensor,
    label: int,
    calibration: Calibration,
    rule: Rule,
    known: Turns | None = None,
) -> list[GameStep]:
    """Play one game until the budget is used up, so that every length occurs.

    Args:
        logprobs: ln P(answer | question, label), shape (Q, 2, K).
        answers: What is answered to each question, shape (Q,).
        label: The true one.
        calibration: Thresholds.
        rule: How to choose.
        known: Turns by history, of games with the same predictor and the same rule, seed included;
            filled here. Games about one label are alike, so most turns are.

    Returns:
        One step before each question and one after the last.
    """
    history: list[tuple[int, int]] = []
    steps: list[GameStep] = []
    known = {} if known is None else known
    while True:
        turn = known.get(tuple(history))
        if turn is None:
            lookahead = likelihood_lookahead(logprobs, history)
            turn = take_turn(lookahead, history, calibration, rule)
            known[tuple(history)] = turn
        steps.append(_step(turn, label))
        if turn.question is None or len(history) == rule.budget:
            return steps
        history.append((turn.question, int(answers[turn.question])))


def _step(turn: Turn, label: int) -> GameStep:
    covered = bool(turn.members[label])
    return GameStep(turn.guess == label, covered, int(turn.members.sum()), turn.length)


def coverage(games: Sequence[Sequence[GameStep]]) -> dict[int, Coverage]:
    """Coverage by history length over games."""
    monitor = CoverageMonitor()
    for steps in games:
        for step in steps:
            monitor.observe(step.length, step.covered)
    return monitor.by_length()
