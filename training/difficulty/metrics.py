"""Figures of a classifier with three classes, and their bootstrap intervals over questions."""

from collections.abc import Callable
from typing import NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

_RESAMPLES = 2000
_BINS = 10

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]


class Interval(NamedTuple):
    """A figure and its 95 % bootstrap interval over questions."""

    value: float
    low: float
    high: float


def macro_f1(truth: Labels, guesses: Labels, seed: int) -> Interval:
    """Mean of the classes' F1; a class that neither holds counts as 0, as in scikit-learn.

    Args:
        truth: Shape (questions,).
        guesses: Shape (questions,), or (repeats, questions) for the mean over the repeats.
        seed: Of the resamples.
    """
    return _interval(*_resampled(truth, guesses, _macro_f1, seed))


def difference(truth: Labels, guesses: Labels, others: Labels, seed: int) -> Interval:
    """How far the macro-F1 of `guesses` is above that of `others`, on the same resamples."""
    value, values = _resampled(truth, guesses, _macro_f1, seed)
    other, other_values = _resampled(truth, others, _macro_f1, seed)
    return _interval(value - other, values - other_values)


def accuracy(truth: Labels, guesses: Labels, seed: int) -> Interval:
    """Share of the right guesses; arguments as of `macro_f1`."""
    return _interval(*_resampled(truth, guesses, _accuracy, seed))


def _macro_f1(confusion: Floats) -> Floats:
    hits = np.diagonal(confusion, axis1=-2, axis2=-1)
    both = confusion.sum(-1) + confusion.sum(-2)
    return cast(Floats, (2 * hits / np.maximum(both, 1)).mean(-1))


def _accuracy(confusion: Floats) -> Floats:
    return cast(Floats, np.trace(confusion, axis1=-2, axis2=-1) / confusion.sum((-2, -1)))


def _resampled(
    truth: Labels, guesses: Labels, figure: Callable[[Floats], Floats], seed: int
) -> tuple[float, Floats]:
    """A figure of the confusion matrix, and the same on resampled questions.

    From counts of its nine cells: scikit-learn's figures take a millisecond for each resample.
    """
    rows = np.atleast_2d(guesses)
    cells = np.eye(9)[3 * truth + rows].transpose(1, 0, 2).reshape(len(truth), -1)
    chance = np.random.default_rng(seed)
    weights = chance.multinomial(len(truth), np.full(len(truth), 1 / len(truth)), _RESAMPLES)
    shape = (-1, len(rows), 3, 3)
    values = figure((weights @ cells).reshape(shape)).mean(1)
    return float(figure(cells.sum(0).reshape(shape)).mean()), values


def _interval(value: float, values: Floats) -> Interval:
    low, high = np.quantile(values, (0.025, 0.975))
    return Interval(value, float(low), float(high))


def expected_calibration_error(truth: Labels, probabilities: Floats) -> float:
    """Mean gap between confidence and accuracy of the likeliest class, weighted by bin size.

    Args:
        truth: Shape (questions,).
        probabilities: Shape (questions, classes).
    """
    return sum(
        weight * abs(confidence - right)
        for weight, confidence, right in reliability(truth, probabilities)
    )


def reliability(truth: Labels, probabilities: Floats) -> list[tuple[float, float, float]]:
    """Share of the questions, mean confidence and accuracy of every bin that is not empty."""
    confidence, right = probabilities.max(1), probabilities.argmax(1) == truth
    bins = np.minimum((confidence * _BINS).astype(int), _BINS - 1)
    return [
        (
            float((bins == b).mean()),
            float(confidence[bins == b].mean()),
            float(right[bins == b].mean()),
        )
        for b in np.unique(bins)
    ]
