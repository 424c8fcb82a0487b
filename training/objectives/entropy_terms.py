"""Entropy in the loss: a bonus, a bonus that regulates itself, a penalty around a target.

All three average over the tokens of the whole optimiser step, so gradient accumulation and the
number of processes change nothing.
"""

from typing import Literal, Self

from pydantic import Field, model_validator

from training.objectives.batch import Plan, Step, Tokens
from training.objectives.controller import Actuator
from training.objectives.distributed import Ranks, token_mean
from training.objectives.interface import Config, Objective, Slot


class EntropyBonusConfig(Config):
    """Settings of `entropy_bonus`."""

    type: Literal["entropy_bonus"] = "entropy_bonus"
    entropy_coef: float = Field(0.001, ge=0.0)
    """Loss per nat."""


class EntropyBonus(Objective[EntropyBonusConfig]):
    """A bonus on the entropy: L - c mean(H).

    Source: Williams and Peng (1991); the same as `entropy_coef` of TRL, except that for every
    loss type the mean is over the tokens of the optimiser step. With a controller,
    c = entropy_coef + its output, which may be negative.
    """

    checked = "TRL"
    slots = frozenset({Slot.ENTROPY})
    actuator = Actuator.COEFFICIENT

    def on_tokens(self, tokens: Tokens, plan: Plan) -> Plan:
        """Add -c H."""
        coefficient = self.config.entropy_coef + self.drive
        return plan.plus(mean=-coefficient * tokens.entropy).noting(entropy_coef=coefficient)


class AdaptiveEntropyConfig(Config):
    """Settings of `adaptive_entropy`; defaults are TRL's."""

    type: Literal["adaptive_entropy"] = "adaptive_entropy"
    entropy_target: float = Field(0.2, gt=0.0)
    """Nats; best set near the entropy of early training."""
    entropy_coef: float = Field(0.0, ge=0.0)
    """Where the coefficient starts, loss per nat."""
    entropy_coef_delta: float = Field(0.005, gt=0.0)
    """Change per optimiser step."""
    entropy_coef_min: float = Field(0.0, ge=0.0)
    entropy_coef_max: float = Field(1.0, gt=0.0)

    @model_validator(mode="after")
    def _check_bounds(self) -> Self:
        if not self.entropy_coef_min <= self.entropy_coef <= self.entropy_coef_max:
            raise ValueError(
                f"entropy_coef = {self.entropy_coef} must lie between entropy_coef_min = "
                f"{self.entropy_coef_min} and entropy_coef_max = {self.entropy_coef_max}"
            )
        return self


class AdaptiveEntropy(Objective[AdaptiveEntropyConfig]):
    """A bonus that is on while the entropy is low and grows until it is not.

    L - c mean(H) in a step that follows one with H <= target, else L. After each step c rises by
    delta if H <= target and falls by delta if not. The first step has no bonus.

    Source: Skywork-OR1 (arXiv 2505.22312); the same rule as `use_adaptive_entropy` of TRL 1.16.
    """

    checked = "TRL"
    slots = frozenset({Slot.ENTROPY})
    state = ("coefficient", "entropy")

    def __init__(self, config: AdaptiveEntropyConfig) -> None:
        super().__init__(config)
        self.coefficient = config.entropy_coef
        self.entropy: float | None = None

    def on_tokens(self, tokens: Tokens, plan: Plan) -> Plan:
        """Add -c H if the last step was at or below the target."""
        low = self.entropy is not None and self.entropy <= self.config.entropy_target
        coefficient = self.coefficient if low else 0.0
        return plan.plus(mean=-coefficient * tokens.entropy).noting(entropy_coef=coefficient)

    def on_step_end(self, step: Step, ranks: Ranks) -> None:
        """Move the coefficient by one delta."""
        config = self.config
        self.entropy = step.entropy
        sign = 1 if step.entropy <= config.entropy_target else -1
        moved = self.coefficient + sign * config.entropy_coef_delta
        self.coefficient = min(max(moved, config.entropy_coef_min), config.entropy_coef_max)


class TargetEntropyConfig(Config):
    """Settings of `target_entropy`."""

    type: Literal["target_entropy"] = "target_entropy"
    entropy_target: float = Field(0.55, gt=0.0)
    """Nats."""
    entropy_coef: float = Field(0.001, ge=0.0)
    """Loss per nat of distance."""


class TargetEntropy(Objective[TargetEntropyConfig]):
    """Hold the mean entropy at a target: L + c |mean(H) - target|, from both sides.

    The published term takes the mean of the micro-batch at hand, so accumulating gradients
    changes it. Here which side of the target the policy is on is what the last optimiser step
    measured (in the first step: the micro-batch), and the term c sign(mean(H) - target) (H -
    target) is averaged over all tokens: the same value and gradient as long as that side is right.
    A controller's output u adds -u mean(H) to it.

    Source: Confucius3-Math (arXiv 2506.18330), section 6.1, "targeted entropy regularisation".
    """

    checked = "paper (section 6.1)"
    slots = frozenset({Slot.ENTROPY})
    actuator = Actuator.COEFFICIENT
    state = ("entropy",)

    def __init__(self, config: TargetEntropyConfig) -> None:
        super().__init__(config)
        self.entropy: float | None = None

    def on_tokens(self, tokens: Tokens, plan: Plan) -> Plan:
        """Add c sign (H - target)."""
        config, entropy = self.config, self.entropy
        if entropy is None:
            entropy = float(token_mean(tokens.entropy, tokens.mask, tokens.ranks))
        distance = entropy - config.entropy_target
        coefficient = config.entropy_coef * ((distance > 0) - (distance < 0))
        term = coefficient * (tokens.entropy - config.entropy_target)
        return plan.plus(mean=term - self.drive * tokens.entropy).noting(
            entropy_distance=distance, entropy_coef=self.drive - coefficient
        )

    def on_step_end(self, step: Step, ranks: Ranks) -> None:
        """Remember on which side of the target the policy is."""
        self.entropy = step.entropy
