"""Question selection and stopping: information pursuit and its conformal form (C-IP).

Works on tensors of Q candidate questions, A answers to each and K labels; the caller provides the
predictions. Candidates are questions that were not asked before.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from probes.conformal import EmptySets, SetRule
from probes.inquiry.lookahead import (
    entropy_bound,
    expected_entropy,
    expected_size,
    information_gain,
)
from probes.inquiry.text import normalize_question
from probes.inquiry.words import Policy, StopReason

MIN_GAIN = 1e-3
"""Nats; smallest gain that is worth a question."""
_TIE = 1e-9  # float64 sums of the same weights in another order differ by less


def label_probabilities(logits: Float[Tensor, "*batch labels"]) -> Float[Tensor, "*batch labels"]:
    """Softmax over the labels; one whose logit is not finite gets 0.

    Args:
        logits: Logits or log-likelihoods, shape (..., labels).

    Raises:
        ValueError: All labels of a row are masked.
    """
    finite = logits.isfinite()
    if not bool(finite.any(-1).all()):
        raise ValueError("no label has a finite logit")
    return torch.softmax(logits.double().masked_fill(~finite, -torch.inf), -1)


class Selection(NamedTuple):
    """The question to ask and the figures of each candidate."""

    chosen: int
    """Index of the question to ask."""
    runner_up: int | None
    """Index of the second-best question; None if there is no other."""
    expected_size: Float[Tensor, " questions"]
    """Labels, shape (Q,)."""
    expected_entropy: Float[Tensor, " questions"]
    """Nats, shape (Q,)."""
    gain: Float[Tensor, " questions"]
    """Nats, shape (Q,)."""


def select_question(
    policy: Policy,
    posteriors: Float[Tensor, "questions answers labels"],
    weights: Float[Tensor, "questions answers labels"],
    calibration: SetRule,
    length: int,
    *,
    empty: EmptySets = "full",
    tolerance: float = 0.0,
    seed: int = 0,
) -> Selection:
    """Choose among the candidates; ties go to the lower expected entropy, then to the first.

    Set sizes are small integers, so ties are frequent. With many candidates the smallest expected
    size is often an estimation error, and a set that is small by mistake loses the true label.
    `tolerance` therefore treats almost equal sizes as ties.

    Args:
        policy: Quantity to minimize.
        posteriors: Label probabilities after each answer, shape (Q, A, K), Q >= 1.
        weights: From `answer_weights`, shape (Q, A, K).
        calibration: Thresholds for the sets.
        length: Length of the history after the answer.
        empty: How empty sets are counted.
        tolerance: Expected sizes up to this share above the smallest tie with it.
        seed: Of the random policy; the same seed chooses the same question.

    Raises:
        ValueError: There is no candidate, or a probability is not a finite number.
    """
    if not len(posteriors):
        raise ValueError("there is no question to choose from")
    if not bool(posteriors.isfinite().all()) or not bool(weights.isfinite().all()):
        raise ValueError("a probability is not a finite number")
    sets = calibration.sets(posteriors, length, empty)
    size, entropy = expected_size(sets, weights), expected_entropy(posteriors, weights)
    match policy:
        case "set_size":
            objective = size
        case "entropy_bound":
            level, num_samples = calibration.confidence_level, calibration.num_samples
            objective = entropy_bound(sets, weights, level, num_samples)
        case "entropy":
            objective = entropy
        case "random":
            generator = torch.Generator().manual_seed(seed)
            objective = torch.rand(len(size), generator=generator, dtype=size.dtype)
    slack = 1 + tolerance if policy == "set_size" else 1.0
    chosen, runner_up = _argmin_with_slack(objective, entropy, slack), None
    if len(objective) > 1:
        others = objective.clone()
        others[chosen] = torch.inf
        runner_up = _argmin_with_slack(others, entropy, slack)
    return Selection(chosen, runner_up, size, entropy, information_gain(posteriors, weights))


def _argmin_with_slack(
    objective: Float[Tensor, " questions"], entropy: Float[Tensor, " questions"], slack: float
) -> int:
    """Index of the lowest entropy among objectives up to `slack` times the minimum."""
    least = objective <= objective.min() * slack + _TIE
    entropy = torch.where(least, entropy, torch.inf)
    return int((entropy <= entropy.min() + _TIE).int().argmax())


def stop_reason(
    set_size: int,
    gains: Float[Tensor, " questions"],
    num_asked: int,
    budget: int,
    min_gain: float = MIN_GAIN,
) -> StopReason | None:
    """Reason to answer now, or None to ask another question.

    `no_gain` means that no candidate changes the prediction. The paper stops when all candidates
    have the same score; that would also stop before a single useful question, or at the start while
    all sets are still full.

    Args:
        set_size: Size of the prediction set now.
        gains: `information_gain` of the candidates left, nats, shape (Q,), possibly none.
        num_asked: Questions asked so far.
        budget: Maximum number of questions.
        min_gain: Nats.
    """
    if set_size == 1:
        return "singleton"
    if num_asked >= budget:
        return "budget"
    if not len(gains):
        return "exhausted"
    return "no_gain" if float(gains.max()) <= min_gain else None


def fresh_questions(proposed: Sequence[str], asked: Iterable[str]) -> list[int]:
    """Indices of the proposals that are new, by wording without case, spaces and punctuation."""
    seen = {"", *map(normalize_question, asked)}
    fresh = []
    for index, question in enumerate(proposed):
        if (words := normalize_question(question)) not in seen:
            seen.add(words)
            fresh.append(index)
    return fresh
