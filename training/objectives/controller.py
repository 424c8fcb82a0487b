"""The entropy controller: one number, moved so that the policy's entropy stays at a target."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Self

from pydantic import Field, model_validator

from probes.strict import StrictModel


class Actuator(StrEnum):
    """What the controller's output is added to. All of them raise the entropy when raised."""

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
    """Per optimizer step."""
    bias: float = 0.0
    """Output without an error. What is known to hold the entropy spares the integral part the
    steps in which it would find that out."""
    limit: float = Field(0.01, gt=0.0)
    """The output stays in [-limit, limit]."""
    dead_band: float = Field(0.05, ge=0.0, lt=1.0)
    """Errors below this share of the target count as none."""
    smoothing: float = Field(0.9, ge=0.0, lt=1.0)
    """Weight of the past in the moving average of the entropy; 0 takes each step as it is."""

    @model_validator(mode="after")
    def _check_bias(self) -> Self:
        if abs(self.bias) > self.limit:
            raise ValueError(f"bias {self.bias} is beyond limit {self.limit}")
        return self


class EntropyController:
    """PI control of the moving average of the entropy.

    With e = target - EMA(H), or 0 inside the dead band, the output is
    clip(bias + K_p e + K_i sum(e), -limit, limit). The sum stands still while the output is at a
    limit and e would push it further (anti-windup), so a target out of reach leaves no debt.
    """

    def __init__(self, config: ControllerConfig) -> None:
        self.config = config
        self.average: float | None = None
        """Moving average of the entropy, nats; None before the first step."""
        self.sum = 0.0
        """Of the errors, nats."""
        self.output = 0.0

    def update(self, entropy: float) -> float:
        """Take one optimizer step's mean entropy in and return the new output.

        Args:
            entropy: Nats. A value that is not finite leaves everything as it was.
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
        """Everything that a resumed run needs, as JSON."""
        return {"average": self.average, "sum": self.sum, "output": self.output}

    def load_state_dict(self, state: Mapping[str, float | None]) -> None:
        """Take over what `state_dict` returned.

        Raises:
            ValueError: It is not the state of a controller.
        """
        if set(state) != {"average", "sum", "output"}:
            raise ValueError(f"a controller keeps average, sum and output, not {[*state]}")
        self.average = state["average"]
        self.sum, self.output = float(state["sum"] or 0.0), float(state["output"] or 0.0)
