"""What a truncation keeps of transformers' logits, token by token, in float64."""

from typing import NamedTuple

import torch
from torch import Tensor

from probes.truncations import Mirostat, PLess, TopNSigma, Truncation

_NEAR = 1e-3
"""Nats: tokens so close to a threshold may be on either side of it in float32."""


class Kept(NamedTuple):
    """Of every token of an answer."""

    logits: Tensor
    """Those that are not kept are `-inf`, shape (tokens, vocab)."""
    outside: int
    """Sampled tokens that the truncation does not keep."""
    sure: Tensor
    """Whether no token is close to the threshold, shape (tokens,)."""


def truncated(one: Truncation | None, logits: Tensor, temperature: Tensor, drawn: Tensor) -> Kept:
    """Truncate the logits of every token of an answer.

    Args:
        one: The truncation; None keeps every token.
        logits: Shape (tokens, vocab).
        temperature: As applied, shape (tokens,); 0 for a greedy token.
        drawn: Sampled tokens, shape (tokens,).
    """
    result, outside, sure = logits.clone(), 0, torch.ones(len(logits), dtype=torch.bool)
    limit = 2 * one.surprise_target if isinstance(one, Mirostat) else 0.0
    for at, (row, t) in enumerate(zip(logits.double(), temperature.tolist(), strict=True)):
        if one is None or t == 0:
            continue
        logp = (row / t).log_softmax(-1)
        above = _above(one, row, logp, t, limit)
        above[row == row.max()] = torch.inf
        outside += int(above[drawn[at]] < -_NEAR)
        sure[at] = bool(above.abs().min() > _NEAR)
        result[at, above < 0] = -torch.inf
        if isinstance(one, Mirostat):
            surprise = -(result[at].double() / t).log_softmax(-1)[drawn[at]].item()
            limit -= one.learning_rate * (surprise - one.surprise_target)
            limit = min(max(limit, 0.0), float(torch.tensor(float(len(row))).log()))
    return Kept(result, outside, sure)


def _above(one: Truncation, row: Tensor, logp: Tensor, t: float, limit: float) -> Tensor:
    """How far every token is above the threshold, in log-probability."""
    if isinstance(one, TopNSigma):
        finite = row[row.isfinite()]
        return (row - (finite.max() - one.n * finite.std(correction=0))) / t
    if isinstance(one, PLess):
        return logp - logp.exp().square().sum().log()
    return logp + limit
