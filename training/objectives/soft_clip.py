"""Clip the value of a ratio, not its gradient."""

from typing import Literal

import torch

from training.objectives.batch import UNCLIPPED, Plan, Tokens
from training.objectives.interface import Config, Objective, Slot


class SoftClipConfig(Config):
    """`soft_clip_high_entropy` has no settings; the trainer's epsilon_high is the limit."""

    type: Literal["soft_clip_high_entropy"] = "soft_clip_high_entropy"


class SoftClip(Objective[SoftClipConfig]):
    """Let tokens learn that the upper clip would silence; most of them have a high entropy.

    Where A > 0 and r > 1 + epsilon_high the term is r A sg((1 + epsilon_high) / r): the value of
    the clipped term with the gradient (1 + epsilon_high) A grad(logprob). No effect at ratio 1.

    Source: Agentic entropy-balanced policy optimization (AEPO, arXiv 2510.14545), the clipping
    part.
    """

    checked = "paper"
    slots = frozenset({Slot.CLIP})
    inert_on_policy = True

    def on_tokens(self, tokens: Tokens, plan: Plan) -> Plan:
        """Open the clip range at silenced tokens and weigh them down to the limit."""
        limit = 1 + plan.epsilon_high
        ratio = tokens.ratio
        silenced = tokens.mask & (plan.advantages > 0) & (ratio > limit)
        weight = torch.where(silenced, limit / ratio, 1.0)
        high = torch.as_tensor(plan.epsilon_high, dtype=ratio.dtype, device=ratio.device)
        high = torch.where(silenced, UNCLIPPED, high)
        share = silenced.sum() / tokens.mask.sum().clamp_min(1)
        return plan.weighted(weight).clipped(plan.epsilon_low, high).noting(soft_clip_share=share)
