"""Information gain of a dialogue question as its reward."""

import torch
from jaxtyping import Float
from torch import Tensor

from training.objectives.core.batch import RolloutBatch
from training.objectives.core.interface import Objective
from training.objectives.core.requirements import RequiredTensor
from training.objectives.experimental.configs import InfoGainConfig


class InfoGain(Objective[InfoGainConfig]):
    """Reward a question by its information gain: R + weight (H(before) - H(after)).

    H is the entropy of the belief over K hypotheses, nats.

    Source: Dialogue as Discovery (Nous, arXiv 2510.27410), the idea of its abstract.
    """

    def shape_rewards(self, rollout: RolloutBatch) -> Float[Tensor, " sequences"]:
        """Rewards plus the information gain."""
        beliefs = rollout.measured[RequiredTensor.BELIEFS].double()
        entropy: Tensor = torch.special.entr(beliefs).sum(-1)
        gain = (entropy[:, 0] - entropy[:, 1]).to(rollout.rewards)
        return rollout.rewards + self.config.weight * gain
