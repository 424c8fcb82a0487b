"""Accuracy of laws and of their controls from the tree of all answers to a question.

The answers of all arms to a question form a tree: every prefix that somebody drew is a node, with
the distribution of its next token at any temperature, and every whole answer is a leaf. The
probability p of a leaf follows for any law of the entropy, and for its controls: a fixed
temperature, and the law's temperatures in random order, whose average over all orders is exact.
So no control has to be drawn, and all are compared on the same answers.

The accuracy of a law is the sum of p over the right leaves, which has no noise, and a part for the
leaves that nobody drew. Their probability is known, 1 minus the sum of p; how many of them are
right is estimated from the leaves that were drawn, each weighted by p (1 - q) / q, where q is the
probability that any of the draws found it. For short answers that part is small.

Source: the estimator of the missed part is that of Horvitz and Thompson 1952 as a ratio.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from probes.laws import ShuffledLaw
from training.common.metrics import Floats
from training.common.server_pool import RolloutRecord
from training.evaluation.arms import EvaluationArm, is_law_of_entropy
from training.evaluation.probabilities import (
    MeasuredTokens,
    answer_logprobs,
    is_complete,
    law_temperatures,
    read_tokens,
    token_logprobs,
)

_LEAST = 1e-300


class TreeAnswers(NamedTuple):
    """What trees tell about every arm; arrays have the shape (questions,)."""

    questions: list[int]
    """Index of the questions whose answers were measured in full."""
    accuracy: dict[str, Floats]
    """By the name of the arm."""
    unseen: dict[str, Floats]
    """Probability of the answers that nobody drew, by the name of the arm."""


def has_probabilities(arm: EvaluationArm) -> bool:
    """Whether the probability of an answer under an arm follows from what is recorded."""
    if arm.kind == "fixed":
        return True
    return arm.kind in ("law", "mean", "shuffled") and is_law_of_entropy(arm.control)


def tree_accuracy(logprobs: Floats, draws: Floats, right: Floats) -> tuple[Floats, Floats]:
    """Accuracy of every arm on one question, and the probability of the leaves that nobody drew.

    Args:
        logprobs: Of every leaf under every arm, shape (arms, leaves).
        draws: Answers that were drawn from every arm, 0 for one that is only computed,
            shape (arms,).
        right: Whether the leaves are right, shape (leaves,).
    """
    p = np.exp(np.minimum(logprobs, 0.0))
    log_missed = draws @ np.log1p(-np.minimum(p, 1 - 1e-12))
    found = np.maximum(-np.expm1(log_missed), _LEAST)
    missed = p * np.exp(log_missed) / found
    seen = p.sum(1)
    unseen = np.maximum(1.0 - seen, 0.0)
    rest = (missed @ right) / np.maximum(missed.sum(1), _LEAST)
    return (p @ right + unseen * rest) / (seen + unseen), unseen


def measure_trees(
    arms: Sequence[EvaluationArm],
    plain: str,
    base: float,
    records: Mapping[str, Sequence[Sequence[RolloutRecord]]],
    right: Mapping[str, Floats],
) -> TreeAnswers | None:
    """Trees of all questions.

    Args:
        arms: Those that `has_probabilities`, drawn or not.
        plain: Name of the plain request.
        base: T0.
        records: Answers of the arms that were drawn, by question and sample.
        right: Whether they are right, shape (questions, samples).

    Returns:
        None if no question was measured in full.
    """
    drawn = [arm for arm in arms if arm.name in records]
    rows = [records[arm.name] for arm in drawn]
    whole = [
        question
        for question in range(len(right[plain]))
        if all(is_complete(one) for answers in rows for one in answers[question])
    ]
    if not whole:
        return None
    flat = [one for answers in rows for question in whole for one in answers[question]]
    samples = len(rows[0][whole[0]])
    shape = len(drawn), len(whole), samples
    logprobs = _logprobs(arms, drawn, base, read_tokens(flat), shape)
    draws = np.array([samples if name in records else 0 for name in logprobs], np.float64)
    table = np.stack(list(logprobs.values()))
    verdicts = np.stack([right[arm.name][whole] for arm in drawn])
    found = []
    for place in range(len(whole)):
        leaves = _leaves(flat, shape, place)
        arm, sample = np.unravel_index(leaves, (len(drawn), samples))
        found.append(
            tree_accuracy(table[:, arm, place, sample], draws, verdicts[arm, place, sample])
        )
    accuracy, unseen = (np.stack(column, 1) for column in zip(*found, strict=True))
    return TreeAnswers(
        whole,
        dict(zip(logprobs, accuracy, strict=True)),
        dict(zip(logprobs, unseen, strict=True)),
    )


def _logprobs(
    arms: Sequence[EvaluationArm],
    drawn: Sequence[EvaluationArm],
    base: float,
    tokens: MeasuredTokens,
    shape: tuple[int, int, int],
) -> dict[str, Floats]:
    """Log-probability of every answer under every arm, of `shape`."""
    source = tokens.answer // (shape[1] * shape[2])  # which of the drawn arms a token is of
    places = {arm.name: number for number, arm in enumerate(drawn)}
    found = {}
    for arm in arms:
        own = source == places.get(arm.name, -1)
        found[arm.name] = answer_logprobs(_logprobs_of(arm, base, tokens, own), tokens, shape)
    return found


def _logprobs_of(
    arm: EvaluationArm, base: float, tokens: MeasuredTokens, own: NDArray[np.bool_]
) -> Floats:
    """Log-probability of every token under an arm, shape (tokens,)."""
    assert arm.sampling is not None
    if arm.kind == "shuffled":
        return _shuffled_logprobs(
            tokens, ShuffledLaw.model_validate(arm.sampling.control["temperature"])
        )
    if arm.kind == "law":
        temperatures = law_temperatures(arm.control, base, tokens, own)
        assert temperatures is not None
        return token_logprobs(tokens, temperatures)
    return token_logprobs(tokens, np.full(len(tokens.entropy), arm.sampling.temperature))


def _shuffled_logprobs(tokens: MeasuredTokens, law: ShuffledLaw) -> Floats:
    """At temperatures that are drawn for every token on its own."""
    total = np.full(len(tokens.entropy), -np.inf)
    shares = np.diff(law.cumulative(), prepend=0.0)
    for temperature, share in zip(law.temperatures, shares, strict=True):
        each = token_logprobs(tokens, np.full(len(tokens.entropy), temperature))
        total = np.logaddexp(total, each + np.log(np.maximum(share, _LEAST)))
    return total


def _leaves(flat: Sequence[RolloutRecord], shape: tuple[int, int, int], question: int) -> list[int]:
    """The first draw of every different answer to a question, as arm * samples + sample."""
    arms, questions, samples = shape
    first: dict[tuple[object, ...], int] = {}
    for arm in range(arms):
        for sample in range(samples):
            record = flat[(arm * questions + question) * samples + sample]
            key = (record.text, tuple(record.pieces or ()), record.finish_reason)
            first.setdefault(key, arm * samples + sample)
    return list(first.values())
