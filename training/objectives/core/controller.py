"""The entropy controller: adjusts one number to hold the policy's entropy at a target."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Self

from pydantic import Field, model_validator

from probes.strict import StrictModel


class Actuator(StrEnum):
    """What the controller's output is added to. Raising any of them raises the entropy."""

    COEFFICIENT = "coefficient"
    """Coefficient of an entropy bonus, reward per nat."""
    TEMPERATURE = "temperature"
    """Rollout temperature, dimensionless."""
    CLIP_HIGH = "clip_high"
    """Upper clip range of the importance ratio, dimensionless."""
    DCPO_ALPHA = "dcpo_alpha"
    """Share of DCPO's correction in the advantage, dimensionless."""


class ControllerConfig(StrictModel):
    """Settings of the entropy controller; gains are in units of the actuator per nat."""

    entropy_target: float = Field(gt=0.0)
    """Nats, mean over tokens."""
    actuator: Actuator = Actuator.COEFFICIENT
    """What the output is added to."""
    proportional: float = Field(1e-3, ge=0.0)
    """Output for each nat below the target."""
    integral: float = Field(1e-4, ge=0.0)
    """Output for each nat of accumulated error, one error per optimizer step."""
    bias: float = 0.0
    """Output at zero error. A value that is known to hold the entropy saves the steps that the
    integral part would need to reach it."""
    limit: float = Field(0.01, gt=0.0)
    """The output stays in [-limit, limit]."""
    dead_band: float = Field(0.05, ge=0.0, lt=1.0)
    """Errors below this share of the target count as zero."""
    smoothing: float = Field(0.9, ge=0.0, lt=1.0)
    """Weight of the past in the moving average of the entropy; 0 disables averaging."""

    @model_validator(mode="after")
    def _check_bias(self) -> Self:
        if abs(self.bias) > self.limit:
            raise ValueError(f"bias = {self.bias} must lie within limit = {self.limit}")
        return self


class EntropyController:
    """PI control of the moving average of the entropy.

    With e = target - EMA(H), or 0 inside the dead band, the output is
    clip(bias + K_p e + K_i sum(e), -limit, limit). The sum is frozen while the output is at a limit
    and e would push it further (anti-windup).
    """

    def __init__(self, config: ControllerConfig) -> None:
        self.config = config
        self.average: float | None = None
        """Moving average of the entropy, nats; None before the first step."""
        self.sum = 0.0
        """Sum of the errors, nats."""
        self.output = 0.0

    def update(self, entropy: float) -> float:
        """Update with the mean entropy of one optimizer step and return the new output.

        Args:
            entropy: Nats. Non-finite values are ignored.
        """
        if entropy - entropy != 0.0:
            return self.output
        config = self.config
        past = entropy if self.average is None else self.average
        self.average = config.smoothing * past + (1 - config.smoothing) * entropy
        error = config.entropy_target - self.average
        if abs(error) <= config.dead_band * config.entropy_target:
            error = 0.0
        self.sum += error
        wanted = config.bias + config.proportional * error + config.integral * self.sum
        self.output = min(max(wanted, -config.limit), config.limit)
        if self.output != wanted and wanted * error > 0:
            self.sum -= error
        return self.output

    def state_dict(self) -> dict[str, float | None]:
        """State for a checkpoint, JSON-serializable."""
        return {"average": self.average, "sum": self.sum, "output": self.output}

    def load_state_dict(self, state: Mapping[str, float | None]) -> None:
        """Load what `state_dict` returned.

        Raises:
            ValueError: The keys are not those of a controller state.
        """
        if set(state) != {"average", "sum", "output"}:
            raise ValueError(
                f"expected the controller state average, sum and output, found {[*state]}"
            )
        self.average = state["average"]
        self.sum, self.output = float(state["sum"] or 0.0), float(state["output"] or 0.0)
