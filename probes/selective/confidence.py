"""Calibrated confidence: the probability that an answer is right, from scores and its prompt."""

import bisect
import math
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, Self

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor

from probes.selective.scores import Predicted, ScoreName, score_value
from probes.selective.state import PromptState, StateReader, StateSpec
from probes.tensors import check_tensors

Calibrator = Literal["platt", "isotonic"]
_LEAST = 1e-3
"""Probabilities stay this far from 0 and 1: a finite calibration cannot exclude an error."""


class ConfidenceSpec(BaseModel):
    """The features of a confidence probe, and what its answers were made with."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    predicts: Predicted = "probability"
    """Field of the report that the probability is for."""
    features: tuple[ScoreName, ...] = Field(max_length=20)
    """Scores of the report, in the order of the weights; none if only the state is used."""
    state: StateSpec | None = None
    """What is read from the hidden state at the end of the prompt; None reads nothing."""
    calibrator: Calibrator
    """How the linear score becomes a probability."""
    knots: int = Field(0, ge=0, le=10_000)
    """Points of the isotonic curve; 0 for `platt`."""
    rows: int = Field(ge=1)
    """Number of answers that it was fitted to."""
    temperature: float | None = None
    """Temperature of the answers; None if it is not known."""
    window: int | None = None
    """`window` of the control `confidence`."""

    @model_validator(mode="after")
    def _uses_something(self) -> Self:
        if not self.features and self.state is None:
            raise ValueError("a probe needs features or a state")
        return self


class ConfidenceProbe(NamedTuple):
    """A loaded `confidence` artifact.

    The features are standardized, weighted and summed, and the score of the prompt's state is
    added; the sum becomes a probability by a logistic curve (`platt`) or by interpolation between
    the knots of an isotonic regression.
    """

    spec: ConfidenceSpec
    mean: list[float]
    scale: list[float]
    weight: list[float]
    curve: list[float]
    """`platt`: slope and intercept. `isotonic`: sums of the knots, then their probabilities."""
    low: list[float]
    """Smallest value of each feature among the rows."""
    high: list[float]
    reader: StateReader | None = None
    """Reads the state; a server does so in its workers."""

    @classmethod
    def from_tensors(cls, spec: ConfidenceSpec, tensors: Mapping[str, Tensor]) -> Self:
        """Build it from a manifest and its tensors.

        Raises:
            ValueError: A tensor is missing, has a wrong shape or holds numbers that cannot be used.
        """
        size = len(spec.features)
        curve = 2 * spec.knots if spec.calibrator == "isotonic" else 2
        names = ("mean", "scale", "weight", "low", "high")
        shapes: dict[str, tuple[int, ...]] = {**dict.fromkeys(names, (size,)), "curve": (curve,)}
        reader = None
        if spec.state is not None:
            shapes |= StateReader.shapes(spec.state)
        check_tensors(tensors, shapes)
        if spec.state is not None:
            reader = StateReader.from_tensors(tensors)
        found = {name: tensors[name].double().tolist() for name in (*names, "curve")}
        if not all(value > 0 for value in found["scale"]):
            raise ValueError("the tensor `scale` must be larger than 0")
        if spec.calibrator == "isotonic":
            sums, probabilities = found["curve"][: spec.knots], found["curve"][spec.knots :]
            inside = all(0 <= value <= 1 for value in probabilities)
            if not sums or sums != sorted(sums) or probabilities != sorted(probabilities):
                raise ValueError("the tensor `curve` must rise")
            if not inside:
                raise ValueError("the tensor `curve` holds numbers that are no probabilities")
        return cls(spec, **found, reader=reader)

    def tensors(self) -> dict[str, Tensor]:
        """What `from_tensors` reads."""
        own = {
            name: torch.tensor(getattr(self, name), dtype=torch.float64)
            for name in ("mean", "scale", "weight", "curve", "low", "high")
        }
        return own if self.reader is None else own | self.reader.tensors()

    def probability(self, scores: Mapping[str, Any], state: PromptState | None = None) -> float:
        """The predicted probability; NaN if a feature or the state is missing.

        Args:
            scores: By name; other keys do not matter.
            state: What was read at the end of the prompt; None if nothing was.
        """
        values = [score_value(scores, name) for name in self.spec.features]
        if self.spec.state is not None:
            values.append(math.nan if state is None else state.score)
        if not all(map(math.isfinite, values)):
            return math.nan
        rows = zip(values, self.mean, self.scale, self.weight, strict=False)
        total = math.fsum((value - mean) / scale * weight for value, mean, scale, weight in rows)
        if self.spec.state is not None:
            total += values[-1]
        return min(max(self._curve(total), _LEAST), 1 - _LEAST)

    def outside(self, scores: Mapping[str, Any]) -> list[ScoreName]:
        """Features whose value lies beyond those of all rows that the probe was fitted to."""
        return [
            name
            for name, low, high in zip(self.spec.features, self.low, self.high, strict=True)
            if not low <= score_value(scores, name) <= high
        ]

    def _curve(self, total: float) -> float:
        if self.spec.calibrator == "platt":
            slope, intercept = self.curve
            return 1 / (1 + math.exp(min(-(slope * total + intercept), 700.0)))
        knots = self.spec.knots
        sums, probabilities = self.curve[:knots], self.curve[knots:]
        after = bisect.bisect_right(sums, total)
        if after == 0:
            return probabilities[0]
        if after == knots:
            return probabilities[-1]
        start, end = sums[after - 1], sums[after]
        share = (total - start) / (end - start)
        return probabilities[after - 1] + share * (probabilities[after] - probabilities[after - 1])
