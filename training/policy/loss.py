"""Computations in addition to TRL's loss: tensors from full logits, extra terms. Pure functions."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from probes.entropy import entropy_from_logits
from training.objectives.compose import Objectives
from training.objectives.core.batch import UNCLIPPED
from training.objectives.core.requirements import RequiredTensor
from training.policy.validation import CLIPPED


class ScoredTokens(NamedTuple):
    """Scores of completion tokens under a policy."""

    logprobs: Tensor
    """(B, T)."""
    entropy: Tensor
    """(B, T), nats."""
    measured: Mapping[RequiredTensor, Tensor]
    """(B, T) each."""
    aux_loss: Tensor | None = None
    """(): load-balancing loss of a mixture of experts."""


def score_logits(
    logits: Tensor, token_ids: Tensor, objectives: Objectives, wanted: frozenset[RequiredTensor]
) -> ScoredTokens:
    """Compute log-probabilities, entropies and the tensors of objectives from full logits.

    Args:
        logits: Divided by the training temperature, shape (B, T, vocab).
        token_ids: The sampled tokens, shape (B, T).
        objectives: Objectives of the run.
        wanted: Tensors of `ROLLOUT_LOGITS` or `TRAINING_LOGITS` to measure.
    """
    rows = logits.float()
    logprobs = torch.log_softmax(rows, -1)
    chosen = logprobs.gather(-1, token_ids.unsqueeze(-1)).squeeze(-1)
    measured: dict[RequiredTensor, Tensor] = {}
    for member in objectives.members.values():
        for need in member.config.needs & wanted:
            if need is RequiredTensor.RESCORED_LOGPROBS:
                scaled = torch.log_softmax(rows / (member.temperature or 1.0), -1)
                measured[need] = scaled.gather(-1, token_ids.unsqueeze(-1)).squeeze(-1)
            else:
                measured[need] = member.measure(rows, token_ids)
    return ScoredTokens(chosen, entropy_from_logits(rows), measured)


ROLLOUT_LOGITS = frozenset({RequiredTensor.PROXY_LOGPROBS, RequiredTensor.RESCORED_LOGPROBS})
"""Measured once per rollout, without gradient."""
TRAINING_LOGITS = frozenset({RequiredTensor.NUCLEUS_ENTROPY})
"""Measured in every training forward pass, with gradient."""


def ratio_limits(loss_type: str, epsilon_low: float, epsilon_high: float) -> tuple[float, float]:
    """Lower and upper clip range of the ratio, as distances from 1.

    For `cispo`, TRL uses `epsilon_high` as the largest ratio; `sapo` and `vespo` do not clip.
    """
    if loss_type in CLIPPED:
        return epsilon_low, epsilon_high
    return UNCLIPPED, epsilon_high - 1 if loss_type == "cispo" else UNCLIPPED


def policy_mean(
    terms: Tensor, mask: Tensor, *, loss_type: str, num_items: float, max_length: int
) -> Tensor:
    """Reduce a loss per token as TRL's clipped loss types do, before gradient accumulation.

    Args:
        terms: Shape (B, T).
        mask: Bool, shape (B, T).
        loss_type: One of `CLIPPED` except `luspo`, which token objectives do not support.
        num_items: Tokens of an average micro-batch of this process.
        max_length: Largest number of tokens of a completion.

    Returns:
        Shape ().
    """
    kept = terms.masked_fill(~mask, 0.0)
    if loss_type == "grpo":
        return (kept.sum(-1) / mask.sum(-1).clamp_min(1)).mean()
    divisors = {
        "bnpo": float(mask.sum().clamp_min(1)),
        "dr_grpo": float(len(terms) * max_length),
        "dapo": num_items,
    }
    return kept.sum() / divisors[loss_type]


def importance_weight(old: Tensor, behavior: Tensor, mask: Tensor, cap: float) -> Tensor:
    """Truncated importance weight min(pi_old / pi_behavior, cap) per token, (B, T); 1 at padding.

    Args:
        old: Log-probabilities under the sampling policy at the training temperature.
        behavior: Log-probabilities under the distribution that was sampled; NaN if unknown.
        mask: Bool, shape (B, T).
        cap: Largest weight.

    Source: truncated importance sampling (Ionides, 2008).
    """
    gap = torch.where(mask & behavior.isfinite(), old - behavior, 0.0)
    return gap.exp().clamp_max(cap).detach()
