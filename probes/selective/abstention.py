"""Abstention with a promise: answer only if the uncertainty of the answer is at most a threshold.

Two promises, which say different things:

- `joint`: an answer is given and wrong with probability at most alpha, over calibration and test
  together. Among the answers that are given, the error may be higher.
- `selective`: with probability 1 - delta over the calibration, at most alpha of the given answers
  are wrong.

Both hold for questions drawn like those of the calibration.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from scipy.special import bdtr
from torch import Tensor

from probes.selective.scores import Promise, ScoreName
from probes.tensors import check_tensors

MAX_ROWS = 20_000
"""Of a calibration: a threshold is computed while a request waits, which takes milliseconds."""


class AbstentionSpec(BaseModel):
    """What the rows of an abstention were made with; a request must match it."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    score: ScoreName
    """The score of the report whose uncertainty is compared with the threshold."""
    rows: int = Field(ge=1, le=MAX_ROWS)
    """Number of calibration answers, one for each question."""
    unscored: int = Field(0, ge=0)
    """How many of them have no score. They count as answers that are never given."""
    temperature: float | None = None
    """Temperature of the answers; None if it is not known."""
    window: int | None = None
    """`window` of the control `confidence`; for `self_certainty_window_min` only."""
    probe_hash: str | None = None
    """Fingerprint of the `confidence` artifact; for `probability` only."""


class CannotPromise(ValueError):
    """The calibration has too few rows for this alpha."""


def joint_threshold(
    uncertainties: Sequence[float], wrong: Sequence[bool], alpha: float
) -> float | None:
    """The largest uncertainty l with (n R(l) + 1) / (n + 1) <= alpha.

    R(l) is the share of calibration answers that are wrong and have an uncertainty up to l. Ties
    are answered together or not at all; NaN is never answered.

    Args:
        uncertainties: Of n answers.
        wrong: Whether each is wrong.
        alpha: Promised bound of the probability to answer and be wrong.

    Returns:
        None if nothing can be answered.

    Raises:
        CannotPromise: alpha is below 1 / (n + 1).

    Source: conformal risk control, Angelopoulos et al. (arXiv 2208.02814).
    """
    if alpha < smallest_alpha("joint", len(wrong)):
        raise CannotPromise(_too_few("joint", len(wrong), alpha))
    steps = _steps(uncertainties, wrong)
    budget = alpha * (len(wrong) + 1) - 1 + 1e-9
    return _last_before(steps.num_wrong > budget, steps.threshold)


def selective_threshold(
    uncertainties: Sequence[float], wrong: Sequence[bool], alpha: float, delta: float
) -> float | None:
    """The last threshold of a fixed-sequence test that starts with the surest answers.

    Thresholds are tested from the lowest one at which enough answers are given on. One passes if so
    few wrong ones among its answers have a probability of at most delta when the error is alpha;
    the first that fails ends the test.

    Args:
        uncertainties: Of n answers.
        wrong: Whether each is wrong.
        alpha: Promised bound of the error among given answers.
        delta: Probability that the promise does not hold.

    Returns:
        None if nothing can be answered.

    Raises:
        CannotPromise: n answers are too few for alpha and delta even if all are right.

    Source: learn then test, Angelopoulos et al. (arXiv 2110.01052).
    """
    if alpha < smallest_alpha("selective", len(wrong), delta):
        raise CannotPromise(_too_few("selective", len(wrong), alpha))
    least = math.ceil(math.log(delta) / math.log1p(-alpha) - 1e-9)
    steps = _steps(uncertainties, wrong)
    tested = steps.answered >= least
    tail = bdtr(steps.num_wrong[tested], steps.answered[tested], alpha)
    return _last_before(tail > delta, steps.threshold[tested])


def smallest_alpha(promise: Promise, rows: int, delta: float = 0.1) -> float:
    """The smallest alpha that so many calibration answers can promise."""
    if promise == "joint":
        return 1 / (rows + 1) - 1e-12
    return -math.expm1(math.log(delta) / rows) - 1e-12


def _too_few(promise: Promise, rows: int, alpha: float) -> str:
    return f"{rows} calibration answers cannot promise alpha = {alpha} (`{promise}`)"


class _Steps(NamedTuple):
    """What answering up to each distinct uncertainty means on the calibration, ascending."""

    answered: NDArray[np.int64]
    num_wrong: NDArray[np.int64]
    threshold: NDArray[np.float64]


def _steps(uncertainties: Sequence[float], wrong: Sequence[bool]) -> _Steps:
    """One step for each distinct uncertainty; NaN has none."""
    values, errors = np.asarray(uncertainties, dtype=np.float64), np.asarray(wrong, dtype=bool)
    scored = ~np.isnan(values)
    order = np.argsort(values[scored])
    values, errors = values[scored][order], errors[scored][order]
    last = np.flatnonzero(np.append(values[1:] != values[:-1], True)[: len(values)])
    return _Steps(last + 1, errors.cumsum()[last], values[last])


def _last_before(fails: NDArray[np.bool_], thresholds: NDArray[np.float64]) -> float | None:
    """The last threshold before the first that fails."""
    passed = int(fails.argmax()) if fails.any() else len(fails)
    return float(thresholds[passed - 1]) if passed else None


class Abstention(NamedTuple):
    """A loaded `abstention` artifact."""

    spec: AbstentionSpec
    uncertainties: list[float]
    wrong: list[bool]

    @classmethod
    def from_tensors(cls, spec: AbstentionSpec, tensors: Mapping[str, Tensor]) -> Self:
        """Build it from a manifest and its tensors.

        Raises:
            ValueError: A tensor is missing, has a wrong shape or is not finite.
        """
        shape = (max(spec.rows - spec.unscored, 0),)
        check_tensors(tensors, {"uncertainty": shape, "wrong": shape})
        wrong = (tensors["wrong"] > 0.5).tolist() + [False] * spec.unscored
        uncertainties = tensors["uncertainty"].double().tolist() + [math.nan] * spec.unscored
        return cls(spec, uncertainties, wrong)

    def tensors(self) -> dict[str, Tensor]:
        """What `from_tensors` reads."""
        uncertainties = torch.tensor(self.uncertainties, dtype=torch.float64)
        scored = ~uncertainties.isnan()
        wrong = torch.tensor(self.wrong, dtype=torch.float64)
        return {"uncertainty": uncertainties[scored], "wrong": wrong[scored]}

    def threshold(self, promise: Promise, alpha: float, delta: float) -> float | None:
        """The largest uncertainty that is answered; None if nothing is.

        Raises:
            CannotPromise: The calibration has too few rows.
        """
        if promise == "joint":
            return joint_threshold(self.uncertainties, self.wrong, alpha)
        return selective_threshold(self.uncertainties, self.wrong, alpha, delta)
