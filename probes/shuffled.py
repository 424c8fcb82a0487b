"""Temperatures drawn from a histogram by a counter: the law `shuffled`, in torch.

The random number of a token depends on the seed of its completion and on its index, on nothing
else: not on the logits, the batch or the tokens before. A repeated step draws the same temperature,
and so does every rank of a tensor-parallel group.
"""

from jaxtyping import Float, Int
from torch import Tensor

_MASK = 0xFFFFFFFF


def counter_uniform(
    seed: Int[Tensor, " rows"], index: Int[Tensor, " rows"]
) -> Float[Tensor, " rows"]:
    """One uniform number per row, a function of seed and index.

    Args:
        seed: 64-bit integers, shape (rows,).
        index: Index of the token in its completion, shape (rows,).

    Returns:
        float32 in [0, 1), shape (rows,), in multiples of 2^-24.

    Source: the finalizer of MurmurHash3 (Appleby), applied to each word.
    """
    low, high = seed & _MASK, (seed >> 32) & _MASK
    word = _mix(_mix(_mix(low ^ 0x9E3779B9) ^ high) ^ (index & _MASK))
    return (word >> 8).float() * 2.0**-24


def _mix(word: Int[Tensor, " rows"]) -> Int[Tensor, " rows"]:
    """A bijection of 32-bit words, held in int64, in which every bit depends on every other."""
    word = ((word ^ (word >> 16)) * 0x85EBCA6B) & _MASK
    word = ((word ^ (word >> 13)) * 0xC2B2AE35) & _MASK
    return word ^ (word >> 16)


def draw_temperature(
    uniform: Float[Tensor, " rows"],
    temperatures: Float[Tensor, "rows bins"],
    cumulative: Float[Tensor, "rows bins"],
) -> Float[Tensor, " rows"]:
    """The temperature of the bin that each uniform number falls into.

    Args:
        uniform: In [0, 1), shape (rows,).
        temperatures: Shape (rows, bins).
        cumulative: Share of the weight up to and including each bin, shape (rows, bins); the last
            is 1.

    Returns:
        Shape (rows,). A bin without weight is never drawn.
    """
    place = (uniform.unsqueeze(-1) >= cumulative).sum(-1, keepdim=True)
    return temperatures.gather(-1, place.clamp_max(temperatures.shape[-1] - 1)).squeeze(-1)
