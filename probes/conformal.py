"""Split conformal prediction: sets of labels that hold the true one as often as promised.

The promise is marginal: over calibration and test histories that are exchangeable, the set holds
the true label with probability in [level, level + 1 / (n + 1)] (the upper end where scores do not
tie). Histories that a policy chose are not exchangeable with random ones; `CoverageMonitor` says
what they get. Torch, because thresholds are stored in artifacts as tensors.
"""

import math
import warnings
from fractions import Fraction
from typing import Literal, NamedTuple, Protocol

import torch
from torch import Tensor

from probes.inquiry.words import EmptySets

Score = Literal["lac", "aps"]
"""How badly a label fits a distribution; see `conformity_scores`."""


def conformity_scores(probabilities: Tensor, score: Score = "lac") -> Tensor:
    """Score of every label, the higher the worse it fits; labels of equal probability score alike.

    `lac`: minus the label's probability. `aps`: the probability of all labels strictly more
    probable than it. Leaving the label's own probability out makes `aps` the least threshold at
    which the sets of Romano et al. contain it, so the most probable label always passes: with it,
    the surest predictions would have empty sets.

    Args:
        probabilities: Shape (..., labels), each row sums to 1.
        score: Which score.

    Returns:
        Shape (..., labels).

    Source: LAC, Sadinle, Lei and Wasserman (2019) and C-IP (arXiv 2507.03279); APS, Romano, Sesia
    and Candes (arXiv 2006.02544), eq. 4 without its random term.
    """
    if score == "lac":
        return -probabilities
    ascending = -probabilities.sort(dim=-1, descending=True).values
    num_above = torch.searchsorted(ascending.contiguous(), -probabilities.contiguous())
    mass = torch.nn.functional.pad(-ascending.cumsum(-1), (1, 0))
    return mass.gather(-1, num_above)


def conformal_rank(num_scores: int, confidence_level: float) -> int:
    """Which of the sorted calibration scores is the threshold, from 1: ceil((n + 1) level).

    `num_scores + 1` where no score is high enough: n < level / (1 - level). Exact in the decimal
    that was written, since (n + 1) * 0.07 is 7.000000000000001 for n = 99.

    Raises:
        ValueError: The level is not between 0 and 1.

    Source: Vovk et al. (2005). The published code of C-IP takes the rank ceil((n - 1) level) + 1,
    which is up to one lower and then promises less than the level.
    """
    if not 0 < confidence_level < 1:
        raise ValueError(f"confidence_level must lie between 0 and 1, not {confidence_level}")
    return math.ceil((num_scores + 1) * Fraction(str(float(confidence_level))))


def conformal_threshold(scores: Tensor, confidence_level: float) -> Tensor:
    """The score up to which a label belongs to the prediction set.

    Args:
        scores: Conformity scores of the true labels, shape (..., samples).
        confidence_level: Wanted coverage, in (0, 1).

    Returns:
        Shape (...). +inf, with a `UserWarning`, where there are too few samples for the level:
        then every set is full.

    Raises:
        ValueError: A score is NaN, or the level is not between 0 and 1.
    """
    num = scores.shape[-1]
    rank = conformal_rank(num, confidence_level)
    if bool(scores.isnan().any()):
        raise ValueError("a conformity score is not a number")
    if rank > num:
        warnings.warn(
            f"{num} calibration samples are too few for confidence_level {confidence_level}: "
            "every prediction set is full",
            stacklevel=2,
        )
        return scores.new_full(scores.shape[:-1], math.inf)
    return scores.sort(dim=-1).values[..., rank - 1]


def prediction_sets(
    probabilities: Tensor,
    threshold: Tensor | float,
    score: Score = "lac",
    empty: EmptySets = "full",
) -> Tensor:
    """The labels whose score does not exceed the threshold; ties belong to the set.

    `lac` leaves a set empty where the distribution is flat below the threshold. That is the least
    informative outcome with the smallest size, so a rule that looks for small sets walks into it:
    `full` makes such a set as large as its message. A label of probability 0 belongs to no `lac`
    set unless the threshold reaches 0.

    Args:
        probabilities: Shape (..., labels).
        threshold: From `conformal_threshold` with the same score; a number or shape (...).
        score: Which score.
        empty: `raw` leaves empty sets empty, as published.

    Returns:
        Membership, bool, shape (..., labels).
    """
    limit = torch.as_tensor(threshold, dtype=probabilities.dtype, device=probabilities.device)
    members = conformity_scores(probabilities, score) <= limit.unsqueeze(-1)
    if empty == "full":
        members = members | ~members.any(-1, keepdim=True)
    return members


class SetRule(Protocol):
    """What makes prediction sets of label probabilities."""

    @property
    def confidence_level(self) -> float:
        """How often a set shall hold the true label."""

    @property
    def num_samples(self) -> int:
        """Calibration samples for each length."""

    def is_calibrated(self, length: int) -> bool:
        """Whether the level is promised for histories of this length."""

    def sets(self, probabilities: Tensor, length: int, empty: EmptySets = "full") -> Tensor:
        """Membership after `length` answers, bool, shape (..., labels)."""


class Calibration(NamedTuple):
    """Thresholds of one score at one level, one for each length of the history."""

    thresholds: Tensor
    """Shape (lengths,); index k is for histories of k answers, beginning with none."""
    num_samples: int
    """Calibration samples for each length."""
    confidence_level: float
    score: Score

    def is_calibrated(self, length: int) -> bool:
        """Whether histories of this length were calibrated."""
        return 0 <= length < len(self.thresholds)

    def sets(self, probabilities: Tensor, length: int, empty: EmptySets = "full") -> Tensor:
        """Prediction sets after `length` answers; past the last calibrated length, that one's.

        Args:
            probabilities: Shape (..., labels).
            length: Number of answers that say something; an `unknown` does not count.
            empty: As in `prediction_sets`.

        Returns:
            Membership, bool, shape (..., labels).
        """
        threshold = self.thresholds[min(length, len(self.thresholds) - 1)]
        return prediction_sets(probabilities, threshold, self.score, empty)


def calibrate(
    probabilities: Tensor, labels: Tensor, confidence_level: float, score: Score = "lac"
) -> Calibration:
    """Fit one threshold for each history length.

    Args:
        probabilities: Predictions on calibration histories, shape (lengths, samples, labels).
        labels: Index of the true label, shape (lengths, samples).
        confidence_level: Wanted coverage, in (0, 1).
        score: Which score.

    Raises:
        ValueError: As `conformal_threshold`, or there is no length.

    Source: C-IP (arXiv 2507.03279), section on calibration ("length marginalisation").
    """
    if not len(probabilities):
        raise ValueError("a calibration needs at least one history length")
    scores = conformity_scores(probabilities, score).gather(-1, labels.unsqueeze(-1)).squeeze(-1)
    thresholds = conformal_threshold(scores, confidence_level)
    return Calibration(thresholds, labels.shape[-1], confidence_level, score)


class Coverage(NamedTuple):
    """How often sets held the true label."""

    num_sets: int
    num_covered: int

    @property
    def rate(self) -> float:
        """Share of sets that held it; NaN before the first set."""
        return self.num_covered / self.num_sets if self.num_sets else math.nan

    def interval(self, z: float = 1.959964, independent: int | None = None) -> tuple[float, float]:
        """Where the true coverage lies, by Wilson's interval.

        Args:
            z: Quantile of the normal distribution; 1.96 is 95 %.
            independent: How many of the sets say something that no other says; None is all.

        Source: Wilson (1927).
        """
        if not self.num_sets:
            return 0.0, 1.0
        n, rate = min(self.num_sets, independent or self.num_sets), self.rate
        middle = rate + z * z / (2 * n)
        reach = z * math.sqrt(rate * (1 - rate) / n + z * z / (4 * n * n))
        scale = 1 + z * z / n
        return max(0.0, (middle - reach) / scale), min(1.0, (middle + reach) / scale)


class CoverageMonitor:
    """Coverage by history length, on whatever histories really occur.

    Lengths stay apart: one game has a set at each length, and these are not independent.
    """

    def __init__(self) -> None:
        self._counts: dict[int, Coverage] = {}

    def observe(self, length: int, covered: bool) -> None:
        """Count one set of a history of this length; a true label outside the task is uncovered."""
        before = self._counts.get(length, Coverage(0, 0))
        self._counts[length] = Coverage(before.num_sets + 1, before.num_covered + int(covered))

    def by_length(self) -> dict[int, Coverage]:
        """Coverage for each length that occurred, in order."""
        return dict(sorted(self._counts.items()))
