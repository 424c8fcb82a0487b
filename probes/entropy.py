"""Entropy of next-token distributions, in nats.

The distribution is `softmax(logits)` at temperature 1 unless a temperature is given. A token masked
with `-inf` contributes zero.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

# Lower bound of exponents: masked tokens (`-inf`) get a weight of 1e-35 instead of a NaN from
# `-inf * 0`. No weight is denormal, which would slow the vocabulary loop down 3x on a CPU.
_LOWEST_EXPONENT = -80.0


class Moments(NamedTuple):
    """Entropy and logit variance of `softmax(logits / T)`, each of shape (rows,)."""

    entropy: Float[Tensor, " rows"]
    """Nats."""
    variance: Float[Tensor, " rows"]
    """Variance of the logits under that distribution; equals the varentropy at T = 1."""


def entropy_from_logits(
    logits: Float[Tensor, "*batch vocabulary"], temperature: float | Float[Tensor, "*#batch"] = 1.0
) -> Float[Tensor, "*batch"]:
    """Shannon entropy of the next-token distribution, in nats.

    Masked tokens (`-inf` logits) contribute zero, in value and in gradient.

    Args:
        logits: Unscaled logits, shape (..., vocab); computed in float32 or wider.
        temperature: Softmax temperature > 0, a number or shape (...).

    Returns:
        Entropy per row, shape (...), in [0, ln(vocab)]. A row with a NaN, a `+inf` or no finite
        logit at all gives NaN.

    Source: Shannon (1948), the definition of H.
    """
    scaled = logits if logits.dtype == torch.float64 else logits.float()
    if isinstance(temperature, Tensor):
        temperature = temperature.unsqueeze(-1)
    logprobs = torch.log_softmax(scaled / temperature, dim=-1)
    # Not `entr(softmax)`: its gradient is not finite where a probability is zero.
    return -(logprobs.exp() * logprobs.masked_fill(logprobs == -torch.inf, 0.0)).sum(-1)


def power_sums(
    logits: Float[Tensor, "rows vocabulary"],
    maximum: Float[Tensor, "rows 1"],
    beta: Float[Tensor, " rows"],
) -> Float[Tensor, "3 rows"]:
    """S_k = sum over tokens of d^k e^(beta d), d = logit - maximum, for k = 0, 1, 2.

    Compile this function separately from `moments`: alone it becomes one loop over the vocabulary;
    together with per-row arithmetic in the same graph, several.

    Args:
        logits: Shape (rows, vocab), float32.
        maximum: Row maxima, shape (rows, 1).
        beta: Inverse temperature 1/T, shape (rows,).

    Returns:
        Shape (3, rows).
    """
    column = beta.unsqueeze(-1)
    gap = torch.maximum(logits - maximum, _LOWEST_EXPONENT / column)
    weight = (gap * column).exp()
    weighted = gap * weight
    return torch.stack([weight.sum(-1), weighted.sum(-1), (gap * weighted).sum(-1)])


def moments(sums: Float[Tensor, "3 rows"], beta: Float[Tensor, " rows"]) -> Moments:
    """Entropy and logit variance from `power_sums`.

    H = ln S0 - beta S1/S0 and Var = S2/S0 - (S1/S0)^2; then dH/dbeta = -beta Var exactly.

    Args:
        sums: Shape (3, rows).
        beta: The inverse temperature of the sums, shape (rows,).
    """
    total, first, second = sums.unbind(0)
    mean = first / total
    entropy = (total.log() - beta * mean).clamp_min(0.0)
    return Moments(entropy, (second / total - mean * mean).clamp_min(0.0))


def measure(logits: Float[Tensor, "rows vocabulary"]) -> Float[Tensor, "4 rows"]:
    """What the decode loop reads off every row at temperature 1, without gradient.

    Args:
        logits: Shape (rows, vocab), float32.

    Returns:
        Shape (4, rows): entropy in nats; varentropy in nats^2; ln of the sum of exp(logit -
        maximum), so that a token's log-probability is logit - maximum minus it; maximum. In a row
        with NaN, `+inf` or no finite logit the first three are NaN.
    """
    maximum = logits.amax(-1, keepdim=True)
    # A fully masked row has maximum -inf, and `-inf - -inf` stays NaN through the clamp.
    gap = (logits - maximum).clamp_min(_LOWEST_EXPONENT)
    weight = gap.exp()
    weighted = gap * weight
    total = weight.sum(-1)
    mean = weighted.sum(-1) / total
    varentropy = (gap * weighted).sum(-1) / total - mean * mean
    entropy = (total.log() - mean).clamp_min(0.0)
    return torch.stack([entropy, varentropy.clamp_min(0.0), total.log(), maximum.squeeze(-1)])
