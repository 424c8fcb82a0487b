"""Move the entropy to a target with samples drawn at a higher or lower temperature.

The state is the mean surprisal -logprob of sampled tokens in the previous optimizer step (0 before
the first step), an estimate of the entropy. At or below the target the higher temperature is used,
above it the lower one.

Source of both objectives: Arbitrary Entropy Policy Optimization (arXiv 2510.08141),
597358816/AEPO at b353a05.
"""

from typing import TypeVar

from jaxtyping import Float, Int
from torch import Tensor

from training.objectives.core.batch import RolloutBatch, StepStatistics
from training.objectives.core.distributed import Ranks
from training.objectives.core.interface import Objective
from training.objectives.core.requirements import Claim, RequiredTensor
from training.objectives.groups.configs import AepoConfig, DcpoConfig, TwoTemperatureSettings

_C = TypeVar("_C", bound=TwoTemperatureSettings, covariant=True)


class _TowardsTarget(Objective[_C]):
    """Base of DCPO and AEPO: the surprisal, the direction and the temperature."""

    slots = frozenset({Claim.SAMPLES})
    state = ("surprisal",)

    def __init__(self, config: _C) -> None:
        super().__init__(config)
        self.surprisal = 0.0

    @property
    def is_low(self) -> bool:
        """Whether the policy is at or below the target."""
        return self.surprisal <= self.config.entropy_target

    @property
    def temperature(self) -> float:
        """The high temperature while the entropy is low, the low one otherwise."""
        return self.config.temperature_high if self.is_low else self.config.temperature_low

    def on_step_end(self, step: StepStatistics, ranks: Ranks) -> None:
        """Store the surprisal."""
        self.surprisal = step.surprisal


class Dcpo(_TowardsTarget[DcpoConfig]):
    """Mix into the advantage the REINFORCE term of samples at another temperature.

    A <- (1 - a) A + a F on right answers and (1 - a) A on wrong ones. F = p_T / p_1 is the ratio of
    the token's probabilities under the old policy at temperature T and at the rollout temperature;
    a = d / (1 + d) with d = min(|target - surprisal|, distance_max) / (share of right answers). A
    batch without right answers does not change (the public code divides by zero). A controller's
    output is added to a in the direction of the temperature, and a is clamped to [0, 1].
    """

    def alpha(self, share_correct: float) -> float:
        """The weight a of the correction."""
        distance = min(abs(self.config.entropy_target - self.surprisal), self.config.distance_max)
        weight = distance / (share_correct + distance)
        return min(
            max(weight + (self.controller_output if self.is_low else -self.controller_output), 0.0),
            1.0,
        )

    def shape_advantages(self, rollout: RolloutBatch) -> Float[Tensor, "sequences tokens"]:
        """Mix the correction into the advantages."""
        correct = rollout.measured[RequiredTensor.CORRECT]
        if not bool(correct.any()):
            return rollout.advantages
        alpha = self.alpha(float(correct.double().mean()))
        gap = (
            rollout.measured[RequiredTensor.RESCORED_LOGPROBS]
            - rollout.measured[RequiredTensor.OLD_LOGPROBS]
        )
        factor = gap.masked_fill(~rollout.mask, 0.0).exp()
        return (1 - alpha) * rollout.advantages + alpha * rollout.to_tokens(correct) * factor


class Aepo(_TowardsTarget[AepoConfig]):
    """Replace part of a batch with rewarded samples drawn at another temperature.

    The trainer draws G more completions at `temperature` for the first `num_prompts(...)` prompts,
    selects samples with `kept(...)`, and replaces the first sequences of the main batch with them,
    with advantage 1. Old log-probabilities are those of the rollout temperature, so the samples are
    off policy and need importance weights from their recorded sampling log-probabilities. If no
    sample is kept, nothing is replaced; the public code fails in that case.
    """

    def num_prompts(self, num_prompts: int) -> int:
        """Number of prompts of a batch that get extra rollouts."""
        return max(int(self.config.share_prompts * num_prompts), 1)

    def select_extra(
        self, extra_advantages: Float[Tensor, " candidates"], batch_size: int
    ) -> Int[Tensor, " selected"]:
        """Indices of the extra samples to train on, in order.

        Args:
            extra_advantages: Group advantages of the extra samples, shape (M,).
            batch_size: Sequences in the main batch, N.
        """
        config = self.config
        rewarded = (extra_advantages > config.advantage_min).nonzero().flatten()
        count = min(config.num_replaced, len(rewarded))
        count = count if self.is_low else count // 2
        return rewarded[: min(count, int(config.share_replaced * batch_size))]
