"""One turn of an inquiry: from the history to the next question or the final answer."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from probes.conformal import EmptySets, SetRule
from probes.inquiry.likelihood import UNKNOWN, posterior, posteriors_after
from probes.inquiry.lookahead import answer_weights
from probes.inquiry.pursuit import Selection, select_question, stop_reason
from probes.inquiry.words import TOLERANCE, LabelWeights, Policy, StopReason

History = Sequence[tuple[int, int]]
"""Pairs of question and answer index, `UNKNOWN` among the answers."""


class Rule(NamedTuple):
    """How questions are chosen."""

    policy: Policy = "set_size"
    empty: EmptySets = "full"
    label_weights: LabelWeights = "posterior"
    budget: int = 20
    """Maximum number of questions."""
    seed: int = 0
    tolerance: float = TOLERANCE
    """Share by which an expected set may be larger than the smallest and still tie with it."""


class Lookahead(NamedTuple):
    """Predictions now and after each answer to each remaining question."""

    questions: list[int]
    """Indices of the remaining questions."""
    current: Float[Tensor, " labels"]
    """Label probabilities now, shape (K,)."""
    after: Float[Tensor, "questions answers labels"]
    """Label probabilities after each answer, shape (questions, 2, K)."""
    answers: Float[Tensor, "questions answers labels"]
    """P(answer | question, label), shape (questions, 2, K)."""


class Turn(NamedTuple):
    """Result of a turn: ask or answer."""

    probabilities: Float[Tensor, " labels"]
    """Of the labels, shape (K,)."""
    members: Bool[Tensor, " labels"]
    """The prediction set, bool, shape (K,)."""
    length: int
    """Number of answers other than `UNKNOWN`."""
    stop: StopReason | None
    """Reason to answer now; None to ask."""
    question: int | None
    """The best remaining question, even if it is not worth asking; None if there is none."""
    runner_up: int | None
    selection: Selection | None
    """Figures of the remaining questions; None if there are none."""

    @property
    def guess(self) -> int:
        """The most probable label."""
        return int(self.probabilities.argmax())


def num_interpreted(history: History) -> int:
    """Number of questions with an answer other than `UNKNOWN`."""
    return len({question for question, answer in history if answer != UNKNOWN})


def likelihood_lookahead(
    logprobs: Float[Tensor, "questions answers labels"],
    history: History,
    candidates: Iterable[int] | None = None,
) -> Lookahead:
    """Compute the lookahead from ln P(answer | question, label) by Bayes' rule.

    Log-probabilities divided by a temperature soften the predictions; answers still sum to 1.

    Args:
        logprobs: Shape (Q, 2, K).
        history: Questions and answers so far.
        candidates: Questions that may be asked; None allows all. Asked ones are excluded.
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
        history: Questions and answers so far. `UNKNOWN` counts as a question but not as an answer,
            and a repeated question counts each time toward the budget.
        calibration: Thresholds of the predictor that made the lookahead.
        rule: Selection rule.
    """
    length, num_asked = num_interpreted(history), len(history)
    current = lookahead.current
    members = calibration.sets(current, length, rule.empty)
    selection, gains = None, torch.empty(0)
    if lookahead.questions:
        weights = answer_weights(lookahead.answers, current, rule.label_weights)
        seed = rule.seed * 1_000_003 + num_asked  # a different random number in each turn
        selection = select_question(
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
