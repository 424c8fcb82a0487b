"""Entropy in the loss: a bonus, a bonus that regulates itself, a penalty around a target.

All three average over the tokens of the whole optimizer step, so gradient accumulation and the
number of processes change nothing.
"""

from training.objectives.batch import LossPlan, MicroBatch, StepStatistics
from training.objectives.configs import (
    AdaptiveEntropyConfig,
    EntropyBonusConfig,
    TargetEntropyConfig,
)
from training.objectives.distributed import Ranks, token_mean
from training.objectives.interface import Objective


class EntropyBonus(Objective[EntropyBonusConfig]):
    """A bonus on the entropy: L - c mean(H).

    Source: Williams and Peng (1991); the same as `entropy_coef` of TRL, except that for every
    loss type the mean is over the tokens of the optimizer step. With a controller,
    c = entropy_coef + its output, which may be negative.
    """

    def on_tokens(self, tokens: MicroBatch, plan: LossPlan) -> LossPlan:
        """Add -c H."""
        coefficient = self.config.entropy_coef + self.drive
        return plan.plus(mean=-coefficient * tokens.entropy).noting(entropy_coef=coefficient)


class AdaptiveEntropy(Objective[AdaptiveEntropyConfig]):
    """A bonus that is on while the entropy is low and grows until it is not.

    L - c mean(H) in a step that follows one with H <= target, else L. After each step c rises by
    delta if H <= target and falls by delta if not. The first step has no bonus.

    Source: Skywork-OR1 (arXiv 2505.22312); the same rule as `use_adaptive_entropy` of TRL 1.16.
    """

    state = ("coefficient", "entropy")

    def __init__(self, config: AdaptiveEntropyConfig) -> None:
        super().__init__(config)
        self.coefficient = config.entropy_coef
        self.entropy: float | None = None

    def on_tokens(self, tokens: MicroBatch, plan: LossPlan) -> LossPlan:
        """Add -c H if the last step was at or below the target."""
        low = self.entropy is not None and self.entropy <= self.config.entropy_target
        coefficient = self.coefficient if low else 0.0
        return plan.plus(mean=-coefficient * tokens.entropy).noting(entropy_coef=coefficient)

    def on_step_end(self, step: StepStatistics, ranks: Ranks) -> None:
        """Move the coefficient by one delta."""
        config = self.config
        self.entropy = step.entropy
        sign = 1 if step.entropy <= config.entropy_target else -1
        moved = self.coefficient + sign * config.entropy_coef_delta
        self.coefficient = min(max(moved, config.entropy_coef_min), config.entropy_coef_max)


class TargetEntropy(Objective[TargetEntropyConfig]):
    """Hold the mean entropy at a target: L + c |mean(H) - target|, from both sides.

    The published term takes the mean of the micro-batch at hand, so accumulating gradients
    changes it. Here which side of the target the policy is on is what the last optimizer step
    measured (in the first step: the micro-batch), and the term c sign(mean(H) - target) (H -
    target) is averaged over all tokens: the same value and gradient as long as that side is right.
    A controller's output u adds -u mean(H) to it.

    Source: Confucius3-Math (arXiv 2506.18330), section 6.1, "targeted entropy regularisation".
    """

    state = ("entropy",)

    def __init__(self, config: TargetEntropyConfig) -> None:
        super().__init__(config)
        self.entropy: float | None = None

    def on_tokens(self, tokens: MicroBatch, plan: LossPlan) -> LossPlan:
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

    def on_step_end(self, step: StepStatistics, ranks: Ranks) -> None:
        """Remember on which side of the target the policy is."""
        self.entropy = step.entropy
