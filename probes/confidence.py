"""Confidence of a token's distribution at T = 1: self-certainty and collision probability."""

from collections.abc import Sequence

import numpy as np
from torch import Tensor


def confidence(sums: Tensor) -> Tensor:
    """Self-certainty and collision probability of every row.

    Self-certainty is KL(U || p) = ln sum e^z - mean z - ln V, with U uniform over the V allowed
    tokens, in nats: 0 for a uniform distribution, the higher the surer. The collision probability
    is sum p^2, from 1 / V to 1.

    Args:
        sums: From `probes.truncation_functions.spread_sums` at inverse temperature 1.

    Returns:
        Shape (2, rows). Masked tokens do not count.

    Source: self-certainty, arXiv 2502.18581.
    """
    total, squares, count, first, _ = sums.unbind(0)
    certainty = total.log() - first / count - count.log()
    stacked = sums.new_empty(2, len(total))
    stacked[0] = certainty.clamp_min(0.0)
    stacked[1] = (squares / (total * total)).clamp_max(1.0)
    return stacked


def lowest_window(values: Sequence[float], window: int) -> float | None:
    """The lowest mean of `window` consecutive values; of fewer values, their mean.

    Args:
        values: One for each token.
        window: Tokens in a window, at least 1.

    Returns:
        None without values.

    Source: the lowest group confidence of DeepConf, arXiv 2508.15260.
    """
    if not len(values):
        return None
    sums = np.concatenate([[0.0], np.cumsum(values, dtype=np.float64)])
    size = min(window, len(values))
    return float((sums[size:] - sums[:-size]).min() / size)
