"""STEER: weight each token by the expected entropy change of its update."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from training.objectives.configs import SteerConfig
from training.objectives.core.batch import LossPlan, MicroBatch
from training.objectives.core.distributed import token_max
from training.objectives.core.interface import Objective

_FLOOR = 0.02
"""Smallest scale of the exponential map, so that tiny changes are not amplified."""


def entropy_change(
    logprobs: Float[Tensor, "*batch"],
    old_logprobs: Float[Tensor, "*batch"],
    entropy: Float[Tensor, "*batch"],
    advantages: Float[Tensor, "*batch"],
) -> Float[Tensor, "*batch"]:
    """STEER's Omega = A / p_old * p (1 - p) (ln p + H); positive predicts a falling entropy.

    On policy, this is A (1 - p) (ln p + H). No gradient; non-finite values become 0.

    Args:
        logprobs: ln p of the sampled tokens, any shape.
        old_logprobs: ln p under the sampling policy.
        entropy: H, nats.
        advantages: A.
    """
    p = logprobs.detach().exp().clamp(1e-8, 1 - 1e-8)
    ratio_of_advantage = advantages / old_logprobs.detach().exp().clamp(1e-8, 1.0)
    omega = ratio_of_advantage * p * (1 - p) * (p.log() + entropy.detach())
    return torch.where(omega.isfinite(), omega, 0.0)


class SteerObjective(Objective[SteerConfig]):
    """Down-weight tokens whose update is expected to change the entropy strongly.

    With M = |Omega| of `entropy_change`: exponential map w = exp(-k M), k = -ln(weight_min) /
    max(max M, 0.02), clamped to [weight_min, 1]; linear map w = weight_max - (weight_max -
    weight_min) (M - min M) / (max M - min M), or the midpoint if all M are equal.

    Source: Rethinking Entropy Interventions (STEER, arXiv 2510.10150), zz-haooo/STEER at b31df71.
    As in its `core_algos.py`, M is not squared, although a variable name there suggests a square.
    There, max and min are over the micro-batch of one process; here they are over the rollout batch
    of all processes.
    """

    def batch_statistics(self, tokens: MicroBatch, plan: LossPlan) -> Float[Tensor, "sequences 2"]:
        """Largest and smallest M, (B, 2)."""
        change = _absolute_change(tokens, plan)
        largest = token_max(change, tokens.mask, tokens.ranks)
        least = -token_max(-change, tokens.mask, tokens.ranks)
        return torch.stack([largest, least]).expand(len(change), 2)

    def on_tokens(self, tokens: MicroBatch, plan: LossPlan) -> LossPlan:
        """Multiply the loss of each token by its weight."""
        change = _absolute_change(tokens, plan)
        low, high = self.config.weight_min, self.config.weight_max
        extremes = self.statistics_of(tokens, plan)
        largest, least = extremes[:, :1], extremes[:, 1:]
        if self.config.map == "exponential":
            decay = -math.log(low) / largest.clamp_min(_FLOOR)
            weight = (-decay * change).exp().clamp(low, 1.0)
        else:
            share = torch.where(largest > least, (change - least) / (largest - least), 0.5)
            weight = (high - share * (high - low)).clamp(low, high)
        weight = torch.where(tokens.mask, weight, 1.0)
        return plan.with_weight(weight).with_metrics(entropy_change_max=largest.max())


def _absolute_change(tokens: MicroBatch, plan: LossPlan) -> Float[Tensor, "sequences tokens"]:
    return entropy_change(
        tokens.logprobs, tokens.old_logprobs, tokens.entropy, plan.advantages
    ).abs()
