"""HICRA: more credit for tokens that plan than for tokens that carry out."""

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from training.objectives.batch import Need, Rollout
from training.objectives.interface import Config, Objective


def planning_mask(token_ids: Tensor, phrases: Sequence[Sequence[int]]) -> Tensor:
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


class HicraConfig(Config):
    """Settings of `hicra`."""

    type: Literal["hicra"] = "hicra"
    alpha: float = Field(0.2, ge=0.0, lt=1.0)
    """Extra credit as a share of |A|."""


class Hicra(Objective[HicraConfig]):
    """A + alpha |A| on planning tokens: more reward for good plans, less blame for bad ones.

    Planning tokens lie inside known phrases of 3 to 5 words that announce a strategy; see
    `planning_mask`.

    Source: Emergent Hierarchical Reasoning (HICRA, arXiv 2509.03646); the repository has no code.
    """

    needs = frozenset({Need.PLANNING})
    experimental = "form and alpha are from memory of the paper; no code was published"

    def shape_advantages(self, rollout: Rollout) -> Tensor:
        """Add the credit."""
        credit = self.config.alpha * rollout.advantages.abs()
        return rollout.advantages + credit * rollout.measured[Need.PLANNING]
