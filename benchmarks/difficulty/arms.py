"""Ways to choose a strategy for each question, as accuracy and tokens: pure functions of arrays."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from probes.difficulty.strategies import Difficulty

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]
_RESAMPLES = 10_000
PERMUTATIONS = 20
"""Probes of permuted labels to average."""


class Arm(NamedTuple):
    """A way to answer, measured on every question."""

    name: str
    accuracy: Floats
    """Share of right answers, shape (questions,)."""
    tokens: Floats
    """Mean generated tokens, those of a pre-pass included, shape (questions,)."""


class Comparison(NamedTuple):
    """An arm beside another one on the same questions: means and 95 % intervals."""

    accuracy: tuple[float, float, float]
    """Difference of accuracies, then its interval."""
    saved: tuple[float, float, float]
    """Share of the other's tokens that is saved, then its interval."""


def chosen(name: str, accuracy: Floats, tokens: Floats, labels: Labels, extra: float = 0.0) -> Arm:
    """Each question by the strategy of its label.

    Args:
        name: Of the arm.
        accuracy: By strategy and question, shape (3, questions).
        tokens: Likewise.
        labels: Values of `Difficulty`, shape (questions,).
        extra: Tokens that choosing costs for each question.
    """
    questions = np.arange(len(labels))
    return Arm(name, accuracy[labels, questions], tokens[labels, questions] + extra)


def at_random(
    name: str, accuracy: Floats, tokens: Floats, shares: Floats, extra: float = 0.0
) -> Arm:
    """The mean over all ways to give out classes with these shares, without looking.

    Args:
        name: Of the arm.
        accuracy: As in `chosen`.
        tokens: As in `chosen`.
        shares: Of every class, shape (3,).
        extra: As in `chosen`.
    """
    return Arm(name, shares @ accuracy, shares @ tokens + extra)


def oracle(accuracy: Floats, tokens: Floats) -> Labels:
    """The strategy that answers most often right; of equal ones that with fewer tokens."""
    most = accuracy.max(0)
    cost = np.where(accuracy >= most - 1e-12, tokens, np.inf)
    return np.asarray(cost.argmin(0), dtype=np.int64)


def compare(arm: Arm, other: Arm, seed: int = 0) -> Comparison:
    """Bootstrap over questions, paired."""
    chance = np.random.default_rng(seed)
    number = len(arm.tokens)
    draws = chance.multinomial(number, np.full(number, 1 / number), _RESAMPLES) / number
    gains = draws @ (arm.accuracy - other.accuracy)
    savings = 1 - (draws @ arm.tokens) / (draws @ other.tokens)
    return Comparison(
        _with_interval(float(arm.accuracy.mean() - other.accuracy.mean()), gains),
        _with_interval(float(1 - arm.tokens.mean() / other.tokens.mean()), savings),
    )


def _with_interval(value: float, resampled: Floats) -> tuple[float, float, float]:
    low, high = np.quantile(resampled, (0.025, 0.975))
    return value, float(low), float(high)


def at_equal_tokens(budgets: list[Arm], tokens: float) -> Arm:
    """The mixture of two neighboring budgets with the same average cost.

    Args:
        budgets: Fixed budgets, in any order.
        tokens: Mean tokens wanted; clipped to what the budgets span.
    """
    ordered = sorted(budgets, key=lambda arm: float(arm.tokens.mean()))
    means = np.array([arm.tokens.mean() for arm in ordered])
    upper = int(np.clip(np.searchsorted(means, tokens), 1, len(means) - 1))
    low, high = ordered[upper - 1], ordered[upper]
    gap = means[upper] - means[upper - 1]
    weight = 1.0 if gap <= 0 else float(np.clip((tokens - means[upper - 1]) / gap, 0, 1))
    return Arm(
        "fixed budget, equal tokens",
        (1 - weight) * low.accuracy + weight * high.accuracy,
        (1 - weight) * low.tokens + weight * high.tokens,
    )


def frequencies(labels: Labels) -> Floats:
    """Share of every class."""
    return np.bincount(labels, minlength=len(Difficulty)) / len(labels)


def all_arms(
    accuracy: Floats, tokens: Floats, labels: Labels, shuffled: list[Labels], prepass: int
) -> dict[str, Arm]:
    """Everything that chooses among the strategies' answers, by name.

    Args:
        accuracy: By strategy and question, shape (3, questions).
        tokens: Likewise.
        labels: The probe's classes, shape (questions,).
        shuffled: Classes by probes of permuted labels.
        prepass: Tokens that a class costs.
    """
    draws = [chosen("", accuracy, tokens, one, prepass) for one in shuffled]
    arms = [
        *(Arm(f"fixed {one.word}", accuracy[one], tokens[one]) for one in Difficulty),
        chosen("probe", accuracy, tokens, labels, prepass),
        at_random("random, same shares", accuracy, tokens, frequencies(labels), prepass),
        Arm(
            "probe of shuffled labels",
            np.mean([arm.accuracy for arm in draws], axis=0),
            np.mean([arm.tokens for arm in draws], axis=0),
        ),
        chosen("oracle", accuracy, tokens, oracle(accuracy, tokens)),
    ]
    return {arm.name: arm for arm in arms}
