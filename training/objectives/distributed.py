"""Statistics over all processes of a training run, so that none depends on how many there are."""

from typing import Protocol

import torch
from torch import Tensor


class Ranks(Protocol):
    """The processes that share a micro-batch; every method is called by all of them in step."""

    @property
    def index(self) -> int:
        """Which process this is, from 0."""

    @property
    def size(self) -> int:
        """How many there are."""

    def sum(self, values: Tensor) -> Tensor:
        """Elementwise sum over processes; same shape everywhere, no gradient."""

    def max(self, values: Tensor) -> Tensor:
        """Elementwise maximum over processes; same shape everywhere, no gradient."""

    def gather(self, values: Tensor) -> list[Tensor]:
        """The 1-D tensors of all processes in order of `index`; lengths may differ."""


class SingleProcess:
    """A run of one process."""

    index = 0
    size = 1

    def sum(self, values: Tensor) -> Tensor:
        """The values themselves."""
        return values

    def max(self, values: Tensor) -> Tensor:
        """The values themselves."""
        return values

    def gather(self, values: Tensor) -> list[Tensor]:
        """The values themselves."""
        return [values]


def token_count(mask: Tensor, ranks: Ranks) -> int:
    """How many tokens a mask holds on all processes together."""
    return int(ranks.sum(mask.sum()))


def token_mean(values: Tensor, mask: Tensor, ranks: Ranks) -> Tensor:
    """Mean over the masked tokens of all processes, shape (); 0 if there is none. No gradient.

    Args:
        values: Shape (B, T).
        mask: Bool, shape (B, T).
        ranks: Who shares the batch.
    """
    local = values.detach().masked_fill(~mask, 0.0)
    total, count = ranks.sum(torch.stack([local.sum(), mask.sum().to(local.dtype)])).unbind()
    return total / count.clamp_min(1.0)


def token_max(values: Tensor, mask: Tensor, ranks: Ranks) -> Tensor:
    """Maximum over the masked tokens of all processes, shape (); -inf if there is none."""
    return ranks.max(values.detach().masked_fill(~mask, -torch.inf).amax())


def smallest(values: Tensor, among: Tensor, count: int, ranks: Ranks) -> Tensor:
    """Mark the `count` smallest values of all processes; equal values go to the first.

    Args:
        values: Shape (B, T).
        among: Bool, shape (B, T): the tokens to choose from.
        count: How many on all processes together; all of them if there are fewer.
        ranks: Who shares the batch.

    Returns:
        Bool, shape (B, T), this process's part of the choice.
    """
    gathered = ranks.gather(values.detach()[among])
    together = torch.cat(gathered)
    chosen = torch.zeros_like(together, dtype=torch.bool)
    chosen[together.argsort(stable=True)[:count]] = True
    start = sum(len(part) for part in gathered[: ranks.index])
    own = chosen[start : start + len(gathered[ranks.index])]
    return torch.zeros_like(among).masked_scatter(among, own)
