"""Figures with bootstrap intervals over questions, and calibration."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

NUM_RESAMPLES = 2000
_BINS = 10
_POWER = 2.8
"""Standard errors to a difference that is found in 80 % of experiments at the 5 % level."""


class Interval(NamedTuple):
    """A figure and its 95 % bootstrap interval over questions."""

    value: float
    low: float
    high: float

    @property
    def negated(self) -> "Interval":
        """The figure with the opposite sign."""
        return Interval(-self.value, -self.high, -self.low)


def interval(value: float, resampled: Floats) -> Interval:
    """A figure with the 95 % interval of its resamples."""
    low, high = np.quantile(resampled, (0.025, 0.975))
    return Interval(value, float(low), float(high))


def resample_weights(number: int, seed: int, resamples: int = NUM_RESAMPLES) -> Floats:
    """Shares of questions in bootstrap resamples, shape (resamples, number); rows sum to 1.

    The same weights for two arms make the comparison paired.
    """
    draws = np.random.default_rng(seed).multinomial(
        number, np.full(number, 1 / number), size=resamples
    )
    return np.asarray(draws / number, dtype=np.float64)


def smallest_difference(resampled: Floats) -> float:
    """The difference that so many questions would show in 80 % of experiments, at 5 %."""
    return _POWER * float(np.std(resampled))


def reliability(confidence: Floats, right: Floats) -> list[tuple[float, float, float]]:
    """Share of the questions, mean confidence and accuracy of every bin that is not empty."""
    bins = np.minimum((confidence * _BINS).astype(int), _BINS - 1)
    return [
        (
            float((bins == b).mean()),
            float(confidence[bins == b].mean()),
            float(right[bins == b].mean()),
        )
        for b in np.unique(bins)
    ]


def calibration_error(confidence: Floats, right: Floats) -> float:
    """Mean gap between confidence and accuracy over ten bins, weighted by their size (ECE)."""
    bins = reliability(confidence, right)
    return sum(weight * abs(expected - found) for weight, expected, found in bins)


def chance_calibration_error(confidence: Floats, seed: int = 0, draws: int = 1000) -> float:
    """Mean ECE that so few answers would show if the confidence were exactly right.

    Args:
        confidence: Of each answer, shape (answers,).
        seed: Of the outcomes.
        draws: Number of simulated outcomes of all answers.
    """
    bins = np.minimum((confidence * _BINS).astype(int), _BINS - 1)
    members = np.eye(_BINS)[bins]
    right = np.random.default_rng(seed).random((draws, len(confidence))) < confidence
    return float(np.abs((right - confidence) @ members).sum(1).mean() / len(confidence))
