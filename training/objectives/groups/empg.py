"""EMPG: credit for reasoning steps by the entropy of the step and of the next step."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from training.objectives.core.batch import RolloutBatch
from training.objectives.core.interface import Objective
from training.objectives.core.requirements import RequiredTensor
from training.objectives.groups.configs import EmpgConfig


class Empg(Objective[EmpgConfig]):
    """Scale the advantages of each step by its entropy and add a bonus for a clear next step.

    With h the mean entropy of a step (old policy), scaled to [0, 1] over all steps of the batch:
    A_step = A g(h) + zeta f(h of the next step), g = exp(-k h) / mean(exp(-k h)), f = exp(-k' h).
    The last step has no bonus. Finally, the mean over steps is subtracted. Tokens outside all steps
    keep their advantage. A step is an agent turn; an answer without tools has one step per
    sentence.

    Source: Harnessing Uncertainty (EMPG, arXiv 2509.09265); the default of zeta is that of the
    paper's listing (a third-party port has 0.05).
    """

    def shape_advantages(self, rollout: RolloutBatch) -> Float[Tensor, "sequences tokens"]:
        """Advantages of the tokens of each step."""
        config = self.config
        steps = torch.where(rollout.mask, rollout.measured[RequiredTensor.STEPS], -1).long()
        # One extra column at the end stands for the missing step after the last one.
        width = int(steps.max()) + 2
        index = (torch.arange(len(steps), device=steps.device)[:, None] * width + steps)[steps >= 0]
        count = torch.bincount(index, minlength=len(steps) * width)
        there = count > 0
        if not bool(there.any()):
            return rollout.advantages

        def per_step(values: Float[Tensor, "sequences tokens"]) -> Float[Tensor, " steps"]:
            sums = torch.bincount(index, values[steps >= 0].double(), minlength=len(count))
            return sums / count.clamp_min(1)

        entropy = per_step(rollout.measured[RequiredTensor.OLD_ENTROPY])
        least, most = entropy[there].min(), entropy[there].max()
        scaled = ((entropy - least) / (most - least + 1e-8)).clamp(0.0, 1.0)
        gain = (-config.sharpness * scaled).exp()
        gain = gain / gain[there].mean()
        clear = (-config.clarity_sharpness * scaled).exp() * there
        bonus = config.clarity * clear[_next_step(there, width)]
        center = (per_step(rollout.advantages) * gain + bonus)[there].mean()
        changed = rollout.advantages[steps >= 0] * gain[index] + bonus[index] - center
        return rollout.advantages.masked_scatter(steps >= 0, changed.to(rollout.advantages))


def _next_step(there: Bool[Tensor, " steps"], width: int) -> Int[Tensor, " steps"]:
    """Index of the next step with tokens, per step; the row's unused last column without one."""
    index = torch.arange(len(there), device=there.device).view(-1, width)
    candidates = torch.where(there.view(-1, width), index, index[:, -1:])
    nearest = candidates.flip(-1).cummin(-1).values.flip(-1)
    return torch.cat([nearest[:, 1:], index[:, -1:]], -1).flatten()
