"""Figures of a classifier with three classes, and their bootstrap intervals over questions."""

from collections.abc import Callable
from typing import cast

import numpy as np
from numpy.typing import NDArray

from training.common import metrics
from training.common.metrics import NUM_RESAMPLES, Floats, Interval, interval

Labels = NDArray[np.int64]


def macro_f1(truth: Labels, guesses: Labels, seed: int) -> Interval:
    """Mean of the classes' F1; a class that occurs in neither counts as 0, as in scikit-learn.

    Args:
        truth: Shape (questions,).
        guesses: Shape (questions,), or (repeats, questions) for the mean over the repeats.
        seed: Of the resamples.
    """
    return interval(*_resampled(truth, guesses, _macro_f1, seed))


def difference(truth: Labels, guesses: Labels, others: Labels, seed: int) -> Interval:
    """Macro-F1 of `guesses` minus that of `others`, on the same resamples."""
    value, values = _resampled(truth, guesses, _macro_f1, seed)
    other, other_values = _resampled(truth, others, _macro_f1, seed)
    return interval(value - other, values - other_values)


def accuracy(truth: Labels, guesses: Labels, seed: int) -> Interval:
    """Share of the right guesses; arguments as of `macro_f1`."""
    return interval(*_resampled(truth, guesses, _accuracy, seed))


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
    weights = chance.multinomial(len(truth), np.full(len(truth), 1 / len(truth)), NUM_RESAMPLES)
    shape = (-1, len(rows), 3, 3)
    values = figure((weights @ cells).reshape(shape)).mean(1)
    return float(figure(cells.sum(0).reshape(shape)).mean()), values


def expected_calibration_error(truth: Labels, probabilities: Floats) -> float:
    """Mean gap between confidence and accuracy of the likeliest class, weighted by bin size.

    Args:
        truth: Shape (questions,).
        probabilities: Shape (questions, classes).
    """
    return metrics.calibration_error(*_likeliest(truth, probabilities))


def reliability(truth: Labels, probabilities: Floats) -> list[tuple[float, float, float]]:
    """Share of the questions, mean confidence and accuracy of every bin that is not empty."""
    return metrics.reliability(*_likeliest(truth, probabilities))


def _likeliest(truth: Labels, probabilities: Floats) -> tuple[Floats, Floats]:
    """Confidence of the likeliest class, and whether it is right."""
    return probabilities.max(1), (probabilities.argmax(1) == truth).astype(np.float64)
