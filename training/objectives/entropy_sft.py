"""A cold start that does not use up the entropy: cross-entropy with an entropy bonus."""

import torch
from torch import Tensor

from probes.entropy import entropy_from_logits


def entropy_sft_loss(logits: Tensor, labels: Tensor, entropy_coef: float = 0.01) -> Tensor:
    """Mean over tokens of -ln p(label) - entropy_coef H. Experimental.

    Light-IF (arXiv 2508.03178) starts with supervised fine-tuning that preserves entropy, but its
    formula was not found; this is the confidence penalty of Pereyra et al. (arXiv 1701.06548),
    with a default coefficient of our own.

    Args:
        logits: Of the position before each label, shape (..., vocab).
        labels: Token ids, shape (...); -100 has no loss.
        entropy_coef: Loss per nat; 0 is plain cross-entropy.

    Returns:
        Shape (); 0 if no label has a loss.
    """
    mask = labels != -100
    rows = logits[mask]
    cross_entropy = torch.nn.functional.cross_entropy(rows.float(), labels[mask], reduction="sum")
    bonus = entropy_coef * entropy_from_logits(rows).sum()
    return (cross_entropy - bonus) / mask.sum().clamp_min(1)
