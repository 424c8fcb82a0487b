"""EPO: an entropy bonus, and a penalty for tokens that leave the band around the past."""

import math
from typing import Literal, Self

from pydantic import Field, model_validator

from training.objectives.batch import Plan, Step, Tokens
from training.objectives.distributed import Ranks
from training.objectives.interface import Config, Objective, Slot


def phase_weight(step: float, num_steps: float, gamma: float) -> float:
    """How much the penalty counts: 1 + exp(-gamma k / k_mid), from 2 towards 1.

    Args:
        step: k, optimiser steps done.
        num_steps: Of the whole run; k_mid is half of it.
        gamma: Rate of the decay.
    """
    return 1 + math.exp(-gamma * step / (num_steps / 2))


class EpoConfig(Config):
    """Settings of `epo`."""

    type: Literal["epo"] = "epo"
    entropy_coef: float = Field(0.001, ge=0.0)
    """Loss per nat of entropy, and per nat outside the band."""
    smoothing_coef: float = Field(1.0, ge=0.0)
    """Weight of the penalty relative to the bonus."""
    ratio_low: float = Field(0.8, ge=0.0)
    """Lower end of the band as a multiple of the past mean entropy."""
    ratio_high: float = Field(1.2, gt=0.0)
    gamma: float = Field(2.0, ge=0.0)
    """Rate at which the weight of the penalty decays; that of the public code."""
    num_steps: int | None = Field(None, ge=2)
    """Length of the schedule in optimiser steps; None is the length of the run."""

    @model_validator(mode="after")
    def _check_band(self) -> Self:
        if self.ratio_low >= self.ratio_high:
            raise ValueError(
                f"ratio_low = {self.ratio_low} must be below ratio_high = {self.ratio_high}"
            )
        return self


class Epo(Objective[EpoConfig]):
    """Bonus and band: L - c (mean(H) - c_s w mean(P)).

    P = relu(ratio_low Hbar - H) + relu(H - ratio_high Hbar), Hbar the running mean of the mean
    entropy of past optimiser steps, w of `phase_weight`. The first step has no band.

    Source: EPO (arXiv 2509.22576v2), equation 3 and the schedule of the weight. In the public code
    (WujiangXu/EPO at 5b6fa98) P is a constant (0.1) wherever H leaves the band, which has no
    gradient: that code trains a plain bonus. Here P is the distance to the band. Hbar is one
    number; the authors keep one per turn of a dialogue.
    """

    checked = "paper v2 (equation 3)"
    slots = frozenset({Slot.ENTROPY})
    state = ("num_steps", "entropy")

    def __init__(self, config: EpoConfig) -> None:
        super().__init__(config)
        self.num_steps: float = 0
        self.entropy: float = 0.0

    def on_tokens(self, tokens: Tokens, plan: Plan) -> Plan:
        """Add bonus and penalty."""
        config, entropy = self.config, tokens.entropy
        if self.num_steps == 0:
            return plan.plus(mean=-config.entropy_coef * entropy)
        total = config.num_steps or self.total_steps
        weight = phase_weight(self.num_steps, total, config.gamma)
        below = (config.ratio_low * self.entropy - entropy).relu()
        above = (entropy - config.ratio_high * self.entropy).relu()
        penalty = config.smoothing_coef * weight * (below + above)
        return plan.plus(mean=config.entropy_coef * (penalty - entropy)).noting(
            epo_weight=weight, epo_entropy_past=self.entropy
        )

    def on_step_end(self, step: Step, ranks: Ranks) -> None:
        """Take the step into the running mean."""
        self.num_steps += 1
        self.entropy += (step.entropy - self.entropy) / self.num_steps
