"""Entropy terms of the loss: a bonus, an adaptive bonus, a penalty around a target.

All three average over the tokens of the whole optimizer step, so they do not depend on gradient
accumulation or the number of processes.
"""

from training.objectives.configs import (
    AdaptiveEntropyConfig,
    EntropyBonusConfig,
    TargetEntropyConfig,
)
from training.objectives.core.batch import LossPlan, MicroBatch, StepStatistics
from training.objectives.core.distributed import Ranks, token_mean
from training.objectives.core.interface import Objective


class EntropyBonus(Objective[EntropyBonusConfig]):
    """A bonus on the entropy: L - c mean(H).

    Source: Williams and Peng (1991); equal to `entropy_coef` of TRL, except that the mean is over
    the tokens of the optimizer step for every loss type. With a controller, c is entropy_coef plus
    the controller's output, which may be negative.
    """

    def on_tokens(self, tokens: MicroBatch, plan: LossPlan) -> LossPlan:
        """Add -c H."""
        coefficient = self.config.entropy_coef + self.controller_output
        return plan.with_terms(mean=-coefficient * tokens.entropy).with_metrics(
            entropy_coef=coefficient
        )


class AdaptiveEntropy(Objective[AdaptiveEntropyConfig]):
    """Entropy bonus with a coefficient that grows while the entropy is below a target.

    L - c mean(H) if the previous step had H <= target, else L. After each step, c rises by delta if
    H <= target and falls by delta otherwise. The first step has no bonus.

    Source: Skywork-OR1 (arXiv 2505.22312); the same rule as `use_adaptive_entropy` of TRL 1.16.
    """

    state = ("coefficient", "entropy")

    def __init__(self, config: AdaptiveEntropyConfig) -> None:
        super().__init__(config)
        self.coefficient = config.entropy_coef
        self.entropy: float | None = None

    def on_tokens(self, tokens: MicroBatch, plan: LossPlan) -> LossPlan:
        """Add -c H if the previous step was at or below the target."""
        low = self.entropy is not None and self.entropy <= self.config.entropy_target
        coefficient = self.coefficient if low else 0.0
        return plan.with_terms(mean=-coefficient * tokens.entropy).with_metrics(
            entropy_coef=coefficient
        )

    def on_step_end(self, step: StepStatistics, ranks: Ranks) -> None:
        """Change the coefficient by one delta."""
        config = self.config
        self.entropy = step.entropy
        sign = 1 if step.entropy <= config.entropy_target else -1
        moved = self.coefficient + sign * config.entropy_coef_delta
        self.coefficient = min(max(moved, config.entropy_coef_min), config.entropy_coef_max)


class TargetEntropy(Objective[TargetEntropyConfig]):
    """Hold the mean entropy at a target: L + c |mean(H) - target|, from both sides.

    The published term uses the mean over the current micro-batch, so it depends on gradient
    accumulation. Here, the sign of mean(H) - target comes from the previous optimizer step (in the
    first step: from the micro-batch), and the term c sign(mean(H) - target) (H - target) is
    averaged over all tokens. Value and gradient equal the published ones unless the sign changes in
    the current step. A controller's output u adds -u mean(H).

    Source: Confucius3-Math (arXiv 2506.18330), section 6.1, "targeted entropy regularization".
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
        return plan.with_terms(mean=term - self.controller_output * tokens.entropy).with_metrics(
            entropy_distance=distance, entropy_coef=self.controller_output - coefficient
        )

    def on_step_end(self, step: StepStatistics, ranks: Ranks) -> None:
        """Store the entropy, whose side of the target decides the next step's sign."""
        self.entropy = step.entropy
