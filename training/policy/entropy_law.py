"""The entropy law R = -a e^H + b, which relates reward and entropy of a run. Pure functions."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch

MIN_POINTS = 8
MIN_SPREAD = 0.05
"""Smallest range of e^H relative to its mean from which a slope can be estimated."""


class Prediction(NamedTuple):
    """A predicted reward and its standard error, both in units of reward."""

    reward: float
    standard_error: float


class EntropyLaw(NamedTuple):
    """R = -a e^H + b, fitted to the checkpoints of one run.

    The law describes how a run without entropy intervention exchanges entropy for reward. It does
    not hold for runs with an intervention.
    """

    a: float
    """Reward per unit of e^H."""
    b: float
    """Intercept; the reward at H = 0, the ceiling, is b - a."""
    a_error: float
    """Standard error."""
    b_error: float
    """Standard error."""
    r_squared: float
    """Share of the variance of R that the law explains."""
    rmse: float
    """Root mean square of the residuals, units of reward."""
    num_points: int
    x_mean: float
    """Mean of x = e^H."""
    x_min: float
    x_max: float
    x_variance: float
    """Sum of (x - x_mean)^2."""

    def predict(self, entropy: float) -> Prediction:
        """Predict the reward at an entropy, with the standard error of the fitted line.

        Args:
            entropy: Nats, >= 0.

        Raises:
            ValueError: The entropy lies outside the fitted range, and the fit has fewer than
                `MIN_POINTS` points or e^H varies by less than `MIN_SPREAD`.
        """
        x = math.exp(entropy)
        if not self.x_min <= x <= self.x_max and (reason := self.extrapolation_problem()):
            low, high = math.log(self.x_min), math.log(self.x_max)
            raise ValueError(
                f"H = {entropy:.3g} lies outside the fitted range [{low:.3g}, {high:.3g}] and "
                f"{reason}; train longer before extrapolating"
            )
        noise = self.rmse**2 * self.num_points / (self.num_points - 2)
        spread = 1 / self.num_points + (x - self.x_mean) ** 2 / self.x_variance
        return Prediction(self.b - self.a * x, math.sqrt(noise * spread))

    def ceiling(self) -> Prediction:
        """Predict the reward at H = 0.

        Raises:
            ValueError: See `predict`.
        """
        return self.predict(0.0)

    def extrapolation_problem(self) -> str:
        """Reason why the fit cannot be extrapolated; empty if it can."""
        if self.num_points < MIN_POINTS:
            return f"the fit has {self.num_points} points where {MIN_POINTS} are needed"
        spread = (self.x_max - self.x_min) / self.x_mean
        if spread < MIN_SPREAD:
            return f"e^H varies by {spread:.1%} where {MIN_SPREAD:.0%} are needed"
        return ""


def fit_entropy_law(entropies: Sequence[float], rewards: Sequence[float]) -> EntropyLaw:
    """Fit R = -a e^H + b by least squares.

    Args:
        entropies: Mean token entropy of the rollouts at each checkpoint, nats.
        rewards: Validation score at the same checkpoints.

    Raises:
        ValueError: Lengths differ, there are fewer than 3 points, values are not finite, or all
            entropies are equal.

    Source: The Entropy Mechanism of RL (arXiv 2505.22617), the law of its abstract.
    """
    if len(entropies) != len(rewards):
        raise ValueError(f"{len(entropies)} entropies but {len(rewards)} rewards")
    n = len(entropies)
    x = torch.tensor(entropies, dtype=torch.float64).exp()
    y = torch.tensor(rewards, dtype=torch.float64)
    if n < 3 or not bool((x.isfinite() & y.isfinite()).all()):
        raise ValueError("the law needs at least 3 checkpoints with finite entropy and reward")
    dx, dy = x - x.mean(), y - y.mean()
    variance = float(dx.square().sum())
    if variance <= 1e-20 * float(x.square().sum()):
        raise ValueError("the entropy is the same at all checkpoints: no slope can be fitted")
    slope = float((dx * dy).sum()) / variance
    mean = float(x.mean())
    squares = float((dy - slope * dx).square().sum())
    total = float(dy.square().sum())
    noise = squares / (n - 2)
    return EntropyLaw(
        a=-slope,
        b=float(y.mean()) - slope * mean,
        a_error=math.sqrt(noise / variance),
        b_error=math.sqrt(noise * (1 / n + mean**2 / variance)),
        r_squared=1 - squares / total if total > 0 else math.nan,
        rmse=math.sqrt(squares / n),
        num_points=n,
        x_mean=mean,
        x_min=float(x.min()),
        x_max=float(x.max()),
        x_variance=variance,
    )
