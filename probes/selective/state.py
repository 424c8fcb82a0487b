"""What a confidence probe reads from the hidden state at the end of a prompt.

Probabilistic PCA of the states of the training questions gives axes and their variances. The score
is a linear function of the coordinates; the distance is Mahalanobis', in which all that is outside
of the axes has one common variance. A prompt that is further away than nearly all questions that
were left out of a fit is unlike them.
"""

from collections.abc import Mapping
from typing import NamedTuple, Self

import torch
from jaxtyping import Float
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from probes.tensors import check_single_precision


class StateSpec(BaseModel):
    """Size of the state, and from which distance on a prompt is out of distribution."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    features: int = Field(ge=1, le=1_000_000)
    """Hidden size of the model."""
    axes: int = Field(ge=1, le=1000)
    """Number of principal axes."""
    threshold: float = Field(gt=0.0)
    """Largest Mahalanobis distance of a prompt that counts as like the training questions."""
    quantile: float = Field(gt=0.0, lt=1.0)
    """Share of questions, each left out of a fit, whose distance is below the threshold."""
    questions: int = Field(ge=1)
    """Number of questions."""

    def unreadable(self, features: int) -> str | None:
        """Why a model of this hidden size has no such state; None if it has."""
        if self.features == features:
            return None
        return f"features is {self.features}, the model's hidden size is {features}"


class StateReader(NamedTuple):
    """The tensors: x = (h - mean) / scale, coordinates z = (axes x) / sqrt(variance)."""

    mean: Float[Tensor, " features"]
    scale: Float[Tensor, " features"]
    axes: Float[Tensor, "axes features"]
    """Orthonormal rows."""
    variance: Float[Tensor, " axes"]
    rest: Float[Tensor, ""]
    """Variance of every direction outside of the axes, a scalar."""
    weight: Float[Tensor, " axes"]
    """Of the coordinates in the score; zeros if the probe uses scores of the report only."""

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Self:
        """Build it from tensors whose shapes are checked.

        Raises:
            ValueError: Float32, in which a worker computes, cannot hold a number, or a scale or
                variance is not larger than 0.
        """
        for name in cls._fields:
            positive = name in ("scale", "variance", "rest")
            check_single_precision(f"state_{name}", tensors[f"state_{name}"], positive=positive)
        return cls(*(tensors[f"state_{name}"] for name in cls._fields))

    @staticmethod
    def shapes(spec: StateSpec) -> dict[str, tuple[int, ...]]:
        """Shapes of the tensors, by name."""
        size, axes = spec.features, spec.axes
        shapes = ((size,), (size,), (axes, size), (axes,), (), (axes,))
        return {
            f"state_{name}": shape for name, shape in zip(StateReader._fields, shapes, strict=True)
        }

    def tensors(self) -> dict[str, Tensor]:
        """What `from_tensors` reads."""
        return {f"state_{name}": tensor for name, tensor in self._asdict().items()}

    def to(self, device: torch.device) -> "StateReader":
        """The same on a device, in float32."""
        return StateReader(*(tensor.to(device, torch.float32) for tensor in self))

    def coordinates(
        self, hidden: Float[Tensor, "rows features"]
    ) -> tuple[Float[Tensor, "rows axes"], Float[Tensor, " rows"]]:
        """Coordinates of unit variance, and the Mahalanobis distance.

        Args:
            hidden: States of any floating type, shape (rows, features).
        """
        x = (hidden.to(self.mean.dtype) - self.mean) / self.scale
        inside = x @ self.axes.T
        z = inside / self.variance.sqrt()
        outside = (x.square().sum(-1) - inside.square().sum(-1)).clamp_min(0)
        return z, (z.square().sum(-1) + outside / self.rest).sqrt()

    def read(self, hidden: Float[Tensor, "rows features"]) -> Float[Tensor, "rows 2"]:
        """Score and distance of every state; NaN for one that is not finite.

        Args:
            hidden: As for `coordinates`.
        """
        z, distance = self.coordinates(hidden)
        found = torch.stack([z @ self.weight, distance], 1)
        return torch.where(found.isfinite().all(1, keepdim=True), found, torch.nan)


class PromptState(NamedTuple):
    """What was read at the end of one prompt."""

    score: float
    """What the state adds to the sum of the probe; NaN for a state that is not finite."""
    distance: float
    """Mahalanobis distance to the training questions; the same."""
