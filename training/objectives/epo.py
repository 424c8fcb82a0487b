"""EPO: an entropy bonus, and a penalty for tokens that leave the band around the past."""

import math

from training.objectives.batch import LossPlan, MicroBatch, StepStatistics
from training.objectives.configs import EpoConfig
from training.objectives.distributed import Ranks
from training.objectives.interface import Objective


def phase_weight(step: float, num_steps: float, gamma: float) -> float:
    """How much the penalty counts: 1 + exp(-gamma k / k_mid), from 2 towards 1.

    Args:
        step: k, optimizer steps done.
        num_steps: Of the whole run; k_mid is half of it.
        gamma: Rate of the decay.
    """
    return 1 + math.exp(-gamma * step / (num_steps / 2))


class Epo(Objective[EpoConfig]):
    """Bonus and band: L - c (mean(H) - c_s w mean(P)).

    P = relu(ratio_low Hbar - H) + relu(H - ratio_high Hbar), Hbar the running mean of the mean
    entropy of past optimizer steps, w of `phase_weight`. The first step has no band.

    Source: EPO (arXiv 2509.22576v2), equation 3 and the schedule of the weight. In the public code
    (WujiangXu/EPO at 5b6fa98) P is a constant (0.1) wherever H leaves the band, which has no
    gradient: that code trains a plain bonus. Here P is the distance to the band. Hbar is one
    number; the authors keep one per turn of a dialogue.
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
            return plan.plus(mean=-config.entropy_coef * entropy)
        total = config.num_steps or self.total_steps
        weight = phase_weight(self.num_steps, total, config.gamma)
        below = (config.ratio_low * self.entropy - entropy).relu()
        above = (entropy - config.ratio_high * self.entropy).relu()
        penalty = config.smoothing_coef * weight * (below + above)
        return plan.plus(mean=config.entropy_coef * (penalty - entropy)).noting(
            epo_weight=weight, epo_entropy_past=self.entropy
        )

    def on_step_end(self, step: StepStatistics, ranks: Ranks) -> None:
        """Take the step into the running mean."""
        self.num_steps += 1
        self.entropy += (step.entropy - self.entropy) / self.num_steps
