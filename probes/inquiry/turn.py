"""One turn of an inquiry: from what was heard to the next question, or to the end. Pure."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from probes.conformal import SetRule
from probes.inquiry.likelihood import UNKNOWN, posterior, posteriors_after
from probes.inquiry.lookahead import answer_weights
from probes.inquiry.pursuit import Selection, select, stop_reason
from probes.inquiry.words import TOLERANCE, EmptySets, LabelWeights, Policy, StopReason

History = Sequence[tuple[int, int]]
"""Pairs of question and answer index, `UNKNOWN` among the answers."""


class Rule(NamedTuple):
    """How questions are chosen."""

    policy: Policy = "set_size"
    empty: EmptySets = "full"
    label_weights: LabelWeights = "posterior"
    budget: int = 20
    """Most questions."""
    seed: int = 0
    tolerance: float = TOLERANCE
    """Share by which an expected set may be larger than the smallest and still tie with it."""


class Lookahead(NamedTuple):
    """What is believed now, and would be after each answer to each question left."""

    questions: list[int]
    """Indices of the questions left."""
    current: Tensor
    """Label probabilities now, shape (K,)."""
    after: Tensor
    """Label probabilities after each answer, shape (questions, 2, K)."""
    answers: Tensor
    """P(answer | question, label), shape (questions, 2, K)."""


class Turn(NamedTuple):
    """What to do now."""

    probabilities: Tensor
    """Of the labels, shape (K,)."""
    members: Tensor
    """The prediction set, bool, shape (K,)."""
    length: int
    """Answers that said something."""
    stop: StopReason | None
    """Why to answer now; None to ask."""
    question: int | None
    """The best question left, also where it is not worth asking; None if there is none."""
    runner_up: int | None
    selection: Selection | None
    """What each question left promised; None where there is none."""

    @property
    def guess(self) -> int:
        """The most probable label."""
        return int(self.probabilities.argmax())


def heard(history: History) -> int:
    """How many questions got an answer that says something."""
    return len({question for question, answer in history if answer != UNKNOWN})


def likelihood_lookahead(
    logprobs: Tensor, history: History, candidates: Iterable[int] | None = None
) -> Lookahead:
    """What follows from ln P(answer | question, label) by Bayes' rule.

    Log-probabilities divided by a temperature soften the beliefs; answers still sum to 1.

    Args:
        logprobs: Shape (Q, 2, K).
        history: What was asked.
        candidates: Questions that may be asked, if they were not; None takes all.
    """
    asked = {question for question, _ in history}
    allowed = range(len(logprobs)) if candidates is None else candidates
    left = [question for question in allowed if question not in asked]
    current = posterior(logprobs, history)
    return Lookahead(
        left, current, posteriors_after(logprobs[left], current), logprobs[left].softmax(1)
    )


def take_turn(lookahead: Lookahead, history: History, calibration: SetRule, rule: Rule) -> Turn:
    """Choose the next question, or stop.

    Args:
        lookahead: Predictions.
        history: What was asked; an `UNKNOWN` counts as a question and not as an answer, and a
            repeated question counts each time towards the budget.
        calibration: Thresholds of the predictor that made the lookahead.
        rule: How to choose.
    """
    length, num_asked = heard(history), len(history)
    current = lookahead.current
    members = calibration.sets(current, length, rule.empty)
    selection, gains = None, torch.empty(0)
    if lookahead.questions:
        weights = answer_weights(lookahead.answers, current, rule.label_weights)
        seed = rule.seed * 1_000_003 + num_asked  # another draw at each turn
        selection = select(
            rule.policy,
            lookahead.after,
            weights,
            calibration,
            length + 1,
            empty=rule.empty,
            tolerance=rule.tolerance,
            seed=seed,
        )
        gains = selection.gain
    stop = stop_reason(int(members.sum()), gains, num_asked, rule.budget)
    question = runner_up = None
    if selection is not None:
        question = lookahead.questions[selection.chosen]
        if selection.runner_up is not None:
            runner_up = lookahead.questions[selection.runner_up]
    return Turn(current, members, length, stop, question, runner_up, selection)
