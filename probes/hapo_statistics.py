"""Fit the statistics of the law `hapo` to a sample of token entropies."""

import torch
from jaxtyping import Float
from torch import Tensor

from probes.laws import HapoStatistics


def fit_hapo(
    entropies: Float[Tensor, "..."], quantile: float = 0.8, tail: float = 0.01
) -> HapoStatistics:
    """Fit HAPO's statistics to a sample of per-token entropies.

    Args:
        entropies: Nats, any shape; at least two values.
        quantile: Quantile of ln H used as the pivot; every published recipe uses 0.8.
        tail: Share of each tail excluded from the scales. The published code uses the extremes
            (0.0), so one outlier determines the gain.

    Raises:
        ValueError: Fewer than two values, or one that is not a finite number >= 0.

    Source: HAPO (arXiv 2509.16591), `compute_entropy_h` of the published code at 7671dde.
    """
    if entropies.numel() < 2 or not bool(torch.isfinite(entropies).all()) or entropies.min() < 0:
        raise ValueError("HAPO statistics need at least two finite entropies >= 0")
    log_entropy = entropies.double().flatten().clamp_min(1e-8).log()
    pivot = torch.quantile(log_entropy, quantile, interpolation="nearest")
    centered = log_entropy - pivot
    std = centered.square().mean().clamp_min(1e-8).sqrt()
    standardized = centered / std
    high = torch.quantile(standardized, 1 - tail, interpolation="nearest").clamp_min(1e-8)
    low = torch.quantile(standardized, tail, interpolation="nearest").clamp_max(-1e-8)
    return HapoStatistics(float(pivot), float(std), float(1 / high), float(1 / low))
