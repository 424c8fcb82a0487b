"""EPO: an entropy bonus, and a penalty on tokens outside a band around the past mean entropy."""

import math

from training.objectives.configs import EpoConfig
from training.objectives.core.batch import LossPlan, MicroBatch, StepStatistics
from training.objectives.core.distributed import Ranks
from training.objectives.core.interface import Objective


def phase_weight(step: float, num_steps: float, gamma: float) -> float:
    """Weight of the penalty: 1 + exp(-gamma k / k_mid), from 2 toward 1.

    Args:
        step: k, optimizer steps done.
        num_steps: Optimizer steps of the whole run; k_mid is half of it.
        gamma: Decay rate.
    """
    return 1 + math.exp(-gamma * step / (num_steps / 2))


class Epo(Objective[EpoConfig]):
    """Entropy bonus and band penalty: L - c (mean(H) - c_s w mean(P)).

    P = relu(ratio_low Hbar - H) + relu(H - ratio_high Hbar), where Hbar is the running mean of the
    mean entropy of past optimizer steps and w is `phase_weight`. The first step has no penalty.

    Source: EPO (arXiv 2509.22576v2), equation 3 and the schedule of the weight. In the public code
    (WujiangXu/EPO at 5b6fa98), P is a constant (0.1) where H is outside the band, which has no
    gradient, so that code trains a plain bonus. Here P is the distance to the band. Hbar is one
    number; the authors use one per dialogue turn.
    """

    state = ("num_steps", "entropy")

    def __init__(self, config: EpoConfig) -> None:
        super().__init__(config)
        self.num_steps: float = 0
        self.entropy: float = 0.0

    def on_tokens(self, tokens: MicroBatch, plan: LossPlan) -> LossPlan:
        """Add bonus and penalty."""
        config, entropy = self.config, tokens.entropy
        if self.num_steps == 0:
            return plan.with_terms(mean=-config.entropy_coef * entropy)
        total = config.num_steps or self.total_steps
        weight = phase_weight(self.num_steps, total, config.gamma)
        below = (config.ratio_low * self.entropy - entropy).relu()
        above = (entropy - config.ratio_high * self.entropy).relu()
        penalty = config.smoothing_coef * weight * (below + above)
        return plan.with_terms(mean=config.entropy_coef * (penalty - entropy)).with_metrics(
            epo_weight=weight, epo_entropy_past=self.entropy
        )

    def on_step_end(self, step: StepStatistics, ranks: Ranks) -> None:
        """Update the running mean."""
        self.num_steps += 1
        self.entropy += (step.entropy - self.entropy) / self.num_steps
