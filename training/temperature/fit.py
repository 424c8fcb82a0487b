"""Fit HAPO's statistics to sampled entropies, with standard errors. Pure functions."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from probes.hapo_statistics import fit_hapo
from probes.law_functions import hapo
from probes.laws import HapoStatistics

NUM_RESAMPLES = 100


class TemperatureFit(NamedTuple):
    """HAPO's statistics of a sample, and the sample."""

    statistics: HapoStatistics
    standard_errors: HapoStatistics
    """Bootstrap over answers, since the tokens of one answer are not independent."""
    entropies: Tensor
    """Nats, shape (tokens,)."""
    num_answers: int

    def metrics(self) -> dict[str, float | int]:
        """Metrics for the manifest."""
        position = normalized_deviation(self.entropies, self.statistics)
        return {
            "num_tokens": self.entropies.numel(),
            "num_answers": self.num_answers,
            "entropy_mean": float(self.entropies.mean()),
            "entropy_median": float(self.entropies.median()),
            "share_clamped_hot": float((position >= 1).double().mean()),
            "share_clamped_cold": float((position <= -1).double().mean()),
            "share_heated": float((position > 0).double().mean()),
            "position_mean": float(position.mean()),
            **{f"{key}_error": value for key, value in self.standard_errors._asdict().items()},
        }


def fit_temperature(
    answers: Sequence[Sequence[float]], quantile: float, tail: float, seed: int
) -> TemperatureFit:
    """Fit HAPO's statistics and their standard errors.

    Args:
        answers: Entropies of each answer, nats.
        quantile: See `fit_hapo`.
        tail: See `fit_hapo`.
        seed: Of the bootstrap.
    """
    tensors = [torch.tensor(answer, dtype=torch.float64) for answer in answers]
    entropies = torch.cat(tensors)
    generator = torch.Generator().manual_seed(seed)
    resampled = []
    for _ in range(NUM_RESAMPLES):
        drawn = torch.randint(len(tensors), (len(tensors),), generator=generator).tolist()
        resampled.append(fit_hapo(torch.cat([tensors[i] for i in drawn]), quantile, tail))
    errors = torch.tensor(resampled, dtype=torch.float64).std(0).tolist()
    statistics = fit_hapo(entropies, quantile, tail)
    return TemperatureFit(statistics, HapoStatistics(*errors), entropies, len(tensors))


def normalized_deviation(entropies: Tensor, statistics: HapoStatistics) -> Tensor:
    """HAPO's h in [-1, 1], as the server computes it: T = T0 (1 + tau h)."""
    row = (*statistics, 1.0)  # tau = 1
    parameters = torch.tensor(row, dtype=entropies.dtype)
    return hapo(entropies, torch.ones_like(entropies), parameters.expand(len(entropies), -1)) - 1
