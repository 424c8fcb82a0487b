"""The functions of the truncations, in torch; `probes.truncations` defines their parameters.

Each is vectorized over the rows of a batch and does not synchronize with the device. A threshold is
a gap: the highest logit minus it is the lowest logit kept. It is at most 0, so that the likeliest
token is always kept.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from probes.truncations import NO_TRUNCATION, Mirostat, PLess, TopNSigma

Rows = Float[Tensor, " rows"]
RowParameters = Float[Tensor, "rows parameters"]
_LOWEST_EXPONENT = -80.0
"""As in `probes.entropy`: no weight is denormal."""
_LOWEST_FACTOR = 1e-18
"""The same for the square of a weight."""


def spread_sums(
    logits: Float[Tensor, "rows vocabulary"], maximum: Float[Tensor, "rows 1"], beta: Rows
) -> Float[Tensor, "5 rows"]:
    """The sums over the vocabulary that the thresholds need.

    Args:
        logits: Shape (rows, vocab), float32; masked tokens are `-inf`.
        maximum: Row maxima, shape (rows, 1).
        beta: Inverse temperature, shape (rows,).

    Returns:
        Shape (5, rows): the sum of w = exp(beta d), d = logit - maximum, the sum of w^2, the number
        of allowed tokens, and over these the sums of d and of d^2.
    """
    gap = logits - maximum
    column = beta.unsqueeze(-1)
    weight = (torch.maximum(gap, _LOWEST_EXPONENT / column) * column).exp()
    factor = weight.clamp_min(_LOWEST_FACTOR)
    masked = logits == -torch.inf
    finite = torch.where(masked, 0.0, gap)
    return torch.stack(
        [
            weight.sum(-1),
            (factor * factor).sum(-1),
            torch.where(masked, 0.0, 1.0).sum(-1),
            finite.sum(-1),
            (finite * finite).sum(-1),
        ]
    )


def gap_threshold(
    sums: Float[Tensor, "5 rows"],
    beta: Rows,
    kind: Int[Tensor, " rows"],
    parameters: RowParameters,
    limit: Rows,
) -> Rows:
    """The lowest logit minus maximum that each row keeps.

    Args:
        sums: From `spread_sums`, shape (5, rows).
        beta: Its inverse temperature, shape (rows,).
        kind: Tags of the truncations, shape (rows,).
        parameters: Shape (rows, NUM_PARAMETERS).
        limit: Mirostat's mu, in nats, shape (rows,).

    Returns:
        Shape (rows,), at most 0; `-inf` keeps every token.
    """
    total, squares, count, first, second = sums.unbind(0)
    result = torch.full_like(total, -torch.inf)
    for tag, gap in (
        (TopNSigma.tag, top_n_sigma(count, first, second, parameters[:, 0])),
        (PLess.tag, p_less(total, squares, count, beta, parameters[:, 0])),
        (Mirostat.tag, mirostat(total, beta, limit)),
    ):
        result = torch.where(kind == tag, gap, result)
    untouched = result.isnan() | (kind == NO_TRUNCATION)
    return torch.where(untouched, -torch.inf, result.clamp_max(0.0))


def top_n_sigma(count: Rows, first: Rows, second: Rows, n: Rows) -> Rows:
    """Keep z >= max z - n std(z), std over the allowed tokens.

    The population's std, as in llama.cpp (`llama_sampler_top_n_sigma`); the authors' code takes the
    unbiased one, which is NaN where a token is masked.

    Source: arXiv 2411.07641.
    """
    mean = first / count
    return -n * (second / count - mean * mean).clamp_min(0.0).sqrt()


def p_less(total: Rows, squares: Rows, count: Rows, beta: Rows, normalized: Rows) -> Rows:
    """Keep p >= S, S = sum p^2; normalized: p >= (V S - 1) / (V - 1), V allowed tokens.

    Source: arXiv 2509.23234.
    """
    collision = squares / (total * total)
    lower = (count * collision - 1) / (count - 1).clamp_min(1.0)
    share = torch.where(normalized > 0, lower, collision)
    return (share.clamp_min(0.0) * total).log() / beta


def mirostat(total: Rows, beta: Rows, limit: Rows) -> Rows:
    """Keep -ln p <= mu.

    Source: arXiv 2007.14966, algorithm 2, as in llama.cpp (`llama_sampler_mirostat_v2`), in nats.
    """
    return (total.log() - limit) / beta


def next_limit(limit: Rows, surprise: Rows, target: Rows, rate: Rows, log_vocab: float) -> Rows:
    """Mirostat's mu after a token: mu - rate (surprise - target), kept within [0, ln V].

    Args:
        limit: mu before the token, nats, shape (rows,).
        surprise: -ln of the probability with which the token was sampled, among the kept tokens,
            shape (rows,); NaN leaves mu alone.
        target: Nats, shape (rows,).
        rate: Shape (rows,).
        log_vocab: ln of the vocabulary size. llama.cpp does not limit mu, which then grows without
            bound while the target is out of reach.
    """
    moved = (limit - rate * (surprise - target)).clamp(0.0, log_vocab)
    return torch.where(surprise.isnan(), limit, moved)


def remove_below_(
    logits: Float[Tensor, "rows vocabulary"],
    maximum: Float[Tensor, "rows 1"],
    threshold: Rows,
    beta: Rows,
) -> Rows:
    """Set logits with `logit - maximum < threshold` to `-inf`, in place.

    Args:
        logits: Shape (rows, vocab).
        maximum: Row maxima, shape (rows, 1).
        threshold: From `gap_threshold`, shape (rows,).
        beta: Inverse temperature, shape (rows,).

    Returns:
        ln of the sum of exp(beta (logit - maximum)) over the kept tokens, shape (rows,).
    """
    column = beta.unsqueeze(-1)
    gap = logits - maximum
    removed = gap < threshold.unsqueeze(-1)
    weight = (torch.maximum(gap, _LOWEST_EXPONENT / column) * column).exp()
    total = torch.where(removed, 0.0, weight).sum(-1)
    logits.masked_fill_(removed, -torch.inf)
    return total.log()
