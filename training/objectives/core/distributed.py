"""Statistics over all processes of a training run, independent of the number of processes."""

from typing import Protocol

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor


class Ranks(Protocol):
    """The processes that share a micro-batch; all of them must call each method together."""

    @property
    def index(self) -> int:
        """Index of this process, from 0."""

    @property
    def size(self) -> int:
        """Number of processes."""

    def sum(self, values: Shaped[Tensor, "*shape"]) -> Shaped[Tensor, "*shape"]:
        """Elementwise sum over processes; same shape everywhere, no gradient."""

    def max(self, values: Shaped[Tensor, "*shape"]) -> Shaped[Tensor, "*shape"]:
        """Elementwise maximum over processes; same shape everywhere, no gradient."""

    def gather(self, values: Shaped[Tensor, " values"]) -> list[Shaped[Tensor, " _"]]:
        """The 1-D tensors of all processes in order of `index`; lengths may differ."""


class SingleProcess:
    """`Ranks` for a run with one process."""

    index = 0
    size = 1

    def sum(self, values: Shaped[Tensor, "*shape"]) -> Shaped[Tensor, "*shape"]:
        """Return the values."""
        return values

    def max(self, values: Shaped[Tensor, "*shape"]) -> Shaped[Tensor, "*shape"]:
        """Return the values."""
        return values

    def gather(self, values: Shaped[Tensor, " values"]) -> list[Shaped[Tensor, " _"]]:
        """Return the values."""
        return [values]


def token_count(mask: Bool[Tensor, "sequences tokens"], ranks: Ranks) -> int:
    """Number of masked tokens on all processes together."""
    return int(ranks.sum(mask.sum()))


def token_mean(
    values: Float[Tensor, "sequences tokens"], mask: Bool[Tensor, "sequences tokens"], ranks: Ranks
) -> Float[Tensor, ""]:
    """Mean over the masked tokens of all processes, shape (); 0 without tokens. No gradient.

    Args:
        values: Shape (B, T).
        mask: Bool, shape (B, T).
        ranks: Processes that share the batch.
    """
    local = values.detach().masked_fill(~mask, 0.0)
    total, count = ranks.sum(torch.stack([local.sum(), mask.sum().to(local.dtype)])).unbind()
    return total / count.clamp_min(1.0)


def token_max(
    values: Float[Tensor, "sequences tokens"], mask: Bool[Tensor, "sequences tokens"], ranks: Ranks
) -> Float[Tensor, ""]:
    """Maximum over the masked tokens of all processes, shape (); -inf without tokens."""
    return ranks.max(values.detach().masked_fill(~mask, -torch.inf).amax())


def smallest(
    values: Float[Tensor, "sequences tokens"],
    among: Bool[Tensor, "sequences tokens"],
    count: int,
    ranks: Ranks,
) -> Bool[Tensor, "sequences tokens"]:
    """Mark the `count` smallest values of all processes; ties are resolved in order.

    Args:
        values: Shape (B, T).
        among: Bool, shape (B, T): the tokens to choose from.
        count: Number on all processes together; all tokens are marked if there are fewer.
        ranks: Processes that share the batch.

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
