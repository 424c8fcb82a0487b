"""Rewards computed from agreement and entropies.

These objectives change `RolloutBatch.rewards`; the group advantages are then recomputed.
"""

from jaxtyping import Float
from torch import Tensor

from training.objectives.core.batch import RolloutBatch
from training.objectives.core.interface import Objective
from training.objectives.core.requirements import RequiredTensor
from training.objectives.groups.baselines import cluster_shares
from training.objectives.groups.configs import EmpoConfig, PearConfig


class Empo(Objective[EmpoConfig]):
    """Reward an answer by the share of its group with the same answer; needs no grader.

    R = n_cluster / G; 0 without an answer, and 0 for the whole group if no two answers agree. It
    minimizes semantic entropy and can collapse the policy, so monitor the entropy.

    Source: EMPO (arXiv 2504.05812), `trl/src/open_r1/rewards.py` at c5eccd4. There, two empty
    answers match each other, so their group counts as one with agreement; here they match nothing.
    """

    def shape_rewards(self, rollout: RolloutBatch) -> Float[Tensor, " sequences"]:
        """Shares of answer clusters."""
        answers = rollout.per_group(rollout.measured[RequiredTensor.ANSWERS])
        shares = cluster_shares(answers)
        agree = (shares * answers.shape[-1] > 1.5).any(-1, keepdim=True)
        return (shares * agree * (answers >= 0)).flatten().to(rollout.rewards)


class Pear(Objective[PearConfig]):
    """Lower the reward by the excess entropy of the thinking phase: min(1, R - P).

    P = max(0, mean H over thinking - alpha mean H over the answer), with the old policy's
    entropies in nats. The end tag belongs to neither phase. All tokens of a completion without the
    tag belong to the thinking phase, and a phase without tokens has entropy 0, so a completion
    cannot avoid the penalty by omitting the tag.

    Source: Phase Entropy Aware Reward (PEAR, arXiv 2510.08026), the reward of the paper.
    """

    def shape_rewards(self, rollout: RolloutBatch) -> Float[Tensor, " sequences"]:
        """Rewards minus the penalty."""
        entropy, phases = (
            rollout.measured[RequiredTensor.OLD_ENTROPY],
            rollout.measured[RequiredTensor.PHASES],
        )

        def mean(phase: int) -> Float[Tensor, " sequences"]:
            over = rollout.mask & (phases == phase)
            return entropy.masked_fill(~over, 0.0).sum(-1) / over.sum(-1).clamp_min(1)

        excess = (mean(0) - self.config.alpha * mean(1)).clamp_min(0.0)
        return (rollout.rewards - excess.to(rollout.rewards)).clamp_max(1.0)
