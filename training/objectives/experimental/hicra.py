"""HICRA: more credit for planning tokens than for execution tokens."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from training.objectives.core.batch import RolloutBatch
from training.objectives.core.interface import Objective
from training.objectives.core.requirements import RequiredTensor
from training.objectives.experimental.configs import HicraConfig


def planning_mask(
    token_ids: Int[Tensor, "sequences tokens"], phrases: Sequence[Sequence[int]]
) -> Bool[Tensor, "sequences tokens"]:
    """Mark the tokens that lie inside a strategy phrase.

    Args:
        token_ids: Shape (N, T).
        phrases: Each phrase as token ids; list every spelling (capital, leading space).

    Returns:
        Bool, shape (N, T).
    """
    inside = torch.zeros_like(token_ids, dtype=torch.bool)
    for phrase in phrases:
        length = len(phrase)
        if not 0 < length <= token_ids.shape[-1]:
            continue
        wanted = torch.tensor(phrase, device=token_ids.device)
        starts = (token_ids.unfold(-1, length, 1) == wanted).all(-1)
        for offset in range(length):
            inside[:, offset : offset + starts.shape[-1]] |= starts
    return inside


class Hicra(Objective[HicraConfig]):
    """Raise the advantages of planning tokens: A + alpha |A|.

    Planning tokens are part of a known phrase of 3 to 5 words that announces a strategy; see
    `planning_mask`.

    Source: Emergent Hierarchical Reasoning (HICRA, arXiv 2509.03646); the repository has no code.
    """

    def shape_advantages(self, rollout: RolloutBatch) -> Float[Tensor, "sequences tokens"]:
        """Add the credit to the advantages."""
        credit = self.config.alpha * rollout.advantages.abs()
        return rollout.advantages + credit * rollout.measured[RequiredTensor.PLANNING]
