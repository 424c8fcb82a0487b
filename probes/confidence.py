"""Confidence of a token's distribution at T = 1: self-certainty and collision probability."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

BOTTOM = 0.1
"""Share of the windows that `bottom` averages."""


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
    return float(_window_means(values, window).min()) if len(values) else None


def certainty_weight(
    values: Sequence[float],
    window: int,
    kind: Literal["self_certainty", "tail", "bottom", "lowest"],
    share: float = BOTTOM,
) -> float:
    """What the vote of a sample counts, from the self-certainty of its tokens.

    Args:
        values: One for each token, at least one.
        window: Tokens in a window.
        kind: The mean of all tokens (`self_certainty`) or of the last window (`tail`), of the
            lowest windows (`bottom`), or the lowest one (`lowest`). They are the same for a sample
            that is no longer than a window.
        share: Of the windows that `bottom` averages, at least one.

    Source: `self_certainty`, arXiv 2502.18581; the others, DeepConf, arXiv 2508.15260.
    """
    if kind == "self_certainty":
        return float(np.mean(values))
    if kind == "tail":
        return float(np.mean(values[-window:]))
    means = np.sort(_window_means(values, window))
    return float(means[: 1 if kind == "lowest" else max(1, int(share * len(means)))].mean())


def _window_means(values: Sequence[float], window: int) -> NDArray[np.float64]:
    """Means of `window` consecutive values, or of all if there are fewer."""
    sums = np.concatenate([[0.0], np.cumsum(values, dtype=np.float64)])
    size = min(window, len(values))
    means: NDArray[np.float64] = (sums[size:] - sums[:-size]) / size
    return means
