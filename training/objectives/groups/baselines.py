"""Baselines and scales that are computed over the group of answers to one prompt."""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from training.objectives.core.batch import RolloutBatch
from training.objectives.core.interface import Objective
from training.objectives.core.requirements import RequiredTensor
from training.objectives.groups.configs import CanonConfig, HardnessWeightConfig, SeedGrpoConfig


def group_advantages(rollout: RolloutBatch) -> Float[Tensor, "sequences tokens"]:
    """GRPO advantages of the rewards, (N, T).

    (R - mean) / (std + 1e-4) with the sample standard deviation of the group or the batch, or
    without division. Sequences without a reward (NaN) are excluded from both and get 0.
    """
    rewards = rollout.per_group(rollout.rewards)
    centered = rewards - rewards.nanmean(-1, keepdim=True)
    if rollout.scale_rewards == "group":
        centered = centered / (_nan_std(rewards) + 1e-4)
    elif rollout.scale_rewards == "batch":
        centered = centered / (_nan_std(rewards.reshape(1, -1)) + 1e-4)
    return rollout.to_tokens(centered.nan_to_num(0.0))


def _nan_std(values: Float[Tensor, "rows values"]) -> Float[Tensor, "rows 1"]:
    """Sample standard deviation of each row's finite values, (rows, 1); 0 for fewer than 2."""
    count = values.isfinite().sum(-1, keepdim=True)
    squares = (values - values.nanmean(-1, keepdim=True)).square()
    return (squares.nansum(-1, keepdim=True) / (count - 1).clamp_min(1)).sqrt()


def cluster_shares(
    answers: Int[Tensor, "groups generations"],
) -> Float[Tensor, "groups generations"]:
    """Share of the group that gave the same answer, per answer.

    Args:
        answers: Cluster numbers, shape (groups, G); -1 means no answer and matches nothing.

    Returns:
        Shape (groups, G), in [1/G, 1].
    """
    same = answers.unsqueeze(-1) == answers.unsqueeze(-2)
    alone = torch.eye(answers.shape[-1], dtype=torch.bool, device=answers.device)
    empty = (answers < 0).unsqueeze(-1)
    return torch.where(empty, alone, same).sum(-1).double() / answers.shape[-1]


def mean_cluster_surprisal(shares: Float[Tensor, "groups generations"]) -> Float[Tensor, " groups"]:
    """-(1/K) sum over the K clusters of ln p, from each member's share p; nats, shape (groups,).

    A cluster of n members appears n times in the sum with weight 1/n.
    """
    weight = 1 / (shares * shares.shape[-1])
    return -(weight * shares.log()).sum(-1) / weight.sum(-1)


class HardnessWeight(Objective[HardnessWeightConfig]):
    """Weight a prompt by its difficulty: A = (R - mu) (1.256 - 0.256 mu).

    R is +1 for a right and -1 for a wrong answer, mu is the group mean. There is no division by the
    standard deviation. The recipe excludes prompts whose answers are all right or all wrong, and
    does not divide by length.

    Source: Confucius3-Math (arXiv 2506.18330), "policy-specific hardness weighting".
    """

    def shape_advantages(self, rollout: RolloutBatch) -> Float[Tensor, "sequences tokens"]:
        """Weighted differences from the group mean."""
        rewards = 2 * rollout.per_group(rollout.measured[RequiredTensor.CORRECT]).double() - 1
        mean = rewards.mean(-1, keepdim=True)
        return rollout.to_tokens((rewards - mean) * (1.256 - 0.256 * mean))


class SeedGrpo(Objective[SeedGrpoConfig]):
    """Scale the advantages of a prompt down by the semantic entropy of its answers.

    A (1 - alpha SE / ln G), SE = -(1/K) sum of ln p(C_k) over the K clusters of equivalent
    answers, where p(C_k) is the share of the group in cluster k. The paper does not divide
    advantages by a standard deviation: set `scale_rewards = "none"`, and `loss_type = "dr_grpo"`
    for a loss that is not divided by the length.

    Source: SEED-GRPO (arXiv 2505.12346), section 4.1 and table 4; the repository has no code. The
    paper weights clusters by the probability of their sequences; here each sequence counts once.
    """

    def shape_advantages(self, rollout: RolloutBatch) -> Float[Tensor, "sequences tokens"]:
        """Scaled advantages."""
        answers = rollout.per_group(rollout.measured[RequiredTensor.ANSWERS])
        size = math.log(max(answers.shape[-1], 2))
        relative = mean_cluster_surprisal(cluster_shares(answers)) / size
        factor = 1 - self.config.alpha * relative
        return rollout.advantages * rollout.to_tokens(factor[:, None].expand(answers.shape))


class Canon(Objective[CanonConfig]):
    """Compare answers with high entropy against answers with low entropy.

    A group is sorted by the mean token entropy under the old policy; the first floor(G/2) are the
    low half. High: inter = R - alpha mean(R_low), intra = R - mean(R_high). Low: inter = alpha R -
    mean(R_high), intra = R - mean(R_low). A = mu inter + (1 - mu) intra, without division by a
    standard deviation.

    Source: CANON (arXiv 2509.23962), biuboomc/CANON, `compute_dr_entropy_per_token_group_...`. That
    code also divides by the maximal length; the trainer's `dr_grpo` loss does so here. mu is
    constant; the authors also anneal it.
    """

    def shape_advantages(self, rollout: RolloutBatch) -> Float[Tensor, "sequences tokens"]:
        """Advantages of the comparison across and within the halves."""
        if rollout.num_generations < 2:
            raise ValueError("canon splits each group into halves: set num_generations >= 2")
        config, mask = self.config, rollout.mask
        entropy = rollout.measured[RequiredTensor.OLD_ENTROPY].masked_fill(~mask, 0.0)
        mean_entropy = rollout.per_group(entropy.sum(-1) / mask.sum(-1).clamp_min(1))
        rewards = rollout.per_group(rollout.rewards).double()
        order = mean_entropy.argsort(dim=-1, stable=True).argsort(-1)
        high = order >= rollout.num_generations // 2
        mean_high = rewards.where(high, torch.nan).nanmean(-1, keepdim=True)
        mean_low = rewards.where(~high, torch.nan).nanmean(-1, keepdim=True)
        up = config.mu * (rewards - config.alpha * mean_low)
        down = config.mu * (config.alpha * rewards - mean_high)
        up = up + (1 - config.mu) * (rewards - mean_high)
        down = down + (1 - config.mu) * (rewards - mean_low)
        return rollout.to_tokens(torch.where(high, up, down).nan_to_num(0.0))
