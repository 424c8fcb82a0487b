"""Split conformal prediction: label sets that contain the true label with a given probability.

The guarantee is marginal: if calibration and test histories are exchangeable, the set contains the
true label with probability in [level, level + 1 / (n + 1)] (the upper bound holds if scores do not
tie). Histories chosen by a policy are not exchangeable with random ones; `CoverageMonitor` measures
their coverage. Uses torch because artifacts store thresholds as tensors.
"""

import math
import warnings
from fractions import Fraction
from typing import Literal, NamedTuple, Protocol

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

Score = Literal["lac", "aps"]
"""How poorly a label fits a distribution; see `conformity_scores`."""
EmptySets = Literal["full", "raw"]
"""Replacement of a set without any label: all labels, or the empty set of the formula."""


def conformity_scores(
    probabilities: Float[Tensor, "*batch labels"], score: Score = "lac"
) -> Float[Tensor, "*batch labels"]:
    """Score every label; a higher score is a worse fit. Equal probabilities get equal scores.

    `lac`: minus the label's probability. `aps`: the probability of all labels strictly more
    probable than it. The label's own probability is left out: `aps` is then the smallest threshold
    at which the sets of Romano et al. contain the label, and the most probable label always passes.
    With it, the most certain predictions would have empty sets.

    Args:
        probabilities: Shape (..., labels), each row sums to 1.
        score: Score function.

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
    """Rank, from 1, of the calibration score that is the threshold: ceil((n + 1) level).

    Returns `num_scores + 1` if no score is high enough: n < level / (1 - level). The product is
    exact in decimal: in floating point, (n + 1) * 0.07 is 7.000000000000001 for n = 99.

    Raises:
        ValueError: The level is not between 0 and 1.

    Source: Vovk et al. (2005). The published code of C-IP takes the rank ceil((n - 1) level) + 1,
    which is up to one lower and then guarantees less than the level.
    """
    if not 0 < confidence_level < 1:
        raise ValueError(f"confidence_level must lie between 0 and 1, not {confidence_level}")
    return math.ceil((num_scores + 1) * Fraction(str(float(confidence_level))))


def conformal_threshold(
    scores: Float[Tensor, "*batch samples"], confidence_level: float
) -> Float[Tensor, "*batch"]:
    """Largest score at which a label belongs to the prediction set.

    Args:
        scores: Conformity scores of the true labels, shape (..., samples).
        confidence_level: Target coverage, in (0, 1).

    Returns:
        Shape (...). With too few samples for the level: +inf and a `UserWarning`; every set is then
        full.

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
    probabilities: Float[Tensor, "*batch labels"],
    threshold: Float[Tensor, "*#batch"] | float,
    score: Score = "lac",
    empty: EmptySets = "full",
) -> Bool[Tensor, "*batch labels"]:
    """The labels whose score does not exceed the threshold; ties belong to the set.

    With `lac`, a set is empty if every label's probability is below the threshold. An empty set is
    uninformative but has the smallest size, so a rule that minimizes the size would prefer it:
    `full` replaces it by the set of all labels. A label of probability 0 belongs to a `lac` set
    only if the threshold reaches 0.

    Args:
        probabilities: Shape (..., labels).
        threshold: From `conformal_threshold` with the same score; a number or shape (...).
        score: Score function.
        empty: `raw` keeps empty sets empty, as published.

    Returns:
        Membership, bool, shape (..., labels).
    """
    limit = torch.as_tensor(threshold, dtype=probabilities.dtype, device=probabilities.device)
    members = conformity_scores(probabilities, score) <= limit.unsqueeze(-1)
    if empty == "full":
        members = members | ~members.any(-1, keepdim=True)
    return members


class SetRule(Protocol):
    """Turns label probabilities into prediction sets."""

    @property
    def confidence_level(self) -> float:
        """Target coverage of the true label."""

    @property
    def num_samples(self) -> int:
        """Calibration samples for each length."""

    def is_calibrated(self, length: int) -> bool:
        """Whether the level is guaranteed for histories of this length."""

    def sets(
        self, probabilities: Float[Tensor, "*batch labels"], length: int, empty: EmptySets = "full"
    ) -> Bool[Tensor, "*batch labels"]:
        """Membership after `length` answers, bool, shape (..., labels)."""


class Calibration(NamedTuple):
    """Thresholds of one score at one level, one for each length of the history."""

    thresholds: Float[Tensor, " lengths"]
    """Shape (lengths,); index k is for histories of k answers, beginning with none."""
    num_samples: int
    """Calibration samples for each length."""
    confidence_level: float
    score: Score

    def is_calibrated(self, length: int) -> bool:
        """Whether histories of this length were calibrated."""
        return 0 <= length < len(self.thresholds)

    def sets(
        self, probabilities: Float[Tensor, "*batch labels"], length: int, empty: EmptySets = "full"
    ) -> Bool[Tensor, "*batch labels"]:
        """Prediction sets after `length` answers; longer histories use the last threshold.

        Args:
            probabilities: Shape (..., labels).
            length: Number of answers, not counting `unknown`.
            empty: As in `prediction_sets`.

        Returns:
            Membership, bool, shape (..., labels).
        """
        threshold = self.thresholds[min(length, len(self.thresholds) - 1)]
        return prediction_sets(probabilities, threshold, self.score, empty)


def calibrate(
    probabilities: Float[Tensor, "lengths samples labels"],
    labels: Int[Tensor, "lengths samples"],
    confidence_level: float,
    score: Score = "lac",
) -> Calibration:
    """Fit one threshold for each history length.

    Args:
        probabilities: Predictions on calibration histories, shape (lengths, samples, labels).
        labels: Index of the true label, shape (lengths, samples).
        confidence_level: Target coverage, in (0, 1).
        score: Score function.

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
    """Counts of prediction sets and of those that contain the true label."""

    num_sets: int
    num_covered: int

    @property
    def rate(self) -> float:
        """Share of covered sets; NaN before the first set."""
        return self.num_covered / self.num_sets if self.num_sets else math.nan

    def interval(self, z: float = 1.959964, independent: int | None = None) -> tuple[float, float]:
        """Wilson's confidence interval of the coverage.

        Args:
            z: Quantile of the normal distribution; 1.96 is 95 %.
            independent: Number of independent sets; None if all are.

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
    """Coverage by history length, on the histories that actually occur.

    Lengths are counted separately: one inquiry has a set at each length, and these are not
    independent.
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
