"""Soft clip: clips the value of the ratio, not its gradient."""

import torch

from training.objectives.configs import SoftClipConfig
from training.objectives.core.batch import UNCLIPPED, LossPlan, MicroBatch
from training.objectives.core.interface import Objective


class SoftClip(Objective[SoftClipConfig]):
    """Keep the gradient of tokens above the upper clip range, most of which have high entropy.

    Where A > 0 and r > 1 + epsilon_high, the term is r A sg((1 + epsilon_high) / r): the value of
    the clipped term with the gradient (1 + epsilon_high) A grad(logprob). No effect at ratio 1.

    Source: Agentic entropy-balanced policy optimization (AEPO, arXiv 2510.14545), the clipping
    part.
    """

    def on_tokens(self, tokens: MicroBatch, plan: LossPlan) -> LossPlan:
        """Disable the upper clip at clipped tokens and weight them by limit / ratio."""
        limit = 1 + plan.epsilon_high
        ratio = tokens.ratio
        clipped = tokens.mask & (plan.advantages > 0) & (ratio > limit)
        weight = torch.where(clipped, limit / ratio, 1.0)
        high = torch.as_tensor(plan.epsilon_high, dtype=ratio.dtype, device=ratio.device)
        high = torch.where(clipped, UNCLIPPED, high)
        share = clipped.sum() / tokens.mask.sum().clamp_min(1)
        return (
            plan.with_weight(weight)
            .with_clip_range(plan.epsilon_low, high)
            .with_metrics(soft_clip_share=share)
        )
