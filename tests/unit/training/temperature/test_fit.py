import math

import pytest
import torch

from training.temperature.fit import fit_temperature, normalized_deviation
from training.temperature.report import limit_entropies


def answers(count: int = 60, length: int = 50) -> list[list[float]]:
    """Log-entropies from a normal distribution: mean -1, standard deviation 2."""
    generator = torch.Generator().manual_seed(0)
    logs = torch.randn(count, length, generator=generator, dtype=torch.float64) * 2 - 1
    values: list[list[float]] = logs.exp().tolist()
    return values


def test_the_planted_distribution_is_found() -> None:
    fit = fit_temperature(answers(), quantile=0.8, tail=0.01, seed=0)
    assert fit.statistics.pivot == pytest.approx(-1 + 2 * 0.8416, abs=0.15)
    # Root mean square about the pivot, not about the mean.
    assert fit.statistics.std == pytest.approx(math.hypot(2, 2 * 0.8416), abs=0.15)
    assert fit.num_answers == 60


def test_as_many_tokens_are_clamped_as_the_tails_say() -> None:
    metrics = fit_temperature(answers(), quantile=0.8, tail=0.02, seed=0).metrics()
    assert metrics["num_tokens"] == 3000
    assert metrics["share_clamped_hot"] == pytest.approx(0.02, abs=0.002)
    assert metrics["share_clamped_cold"] == pytest.approx(0.02, abs=0.002)
    assert metrics["share_heated"] == pytest.approx(0.2, abs=0.002)


def test_the_limits_are_where_the_clamp_begins() -> None:
    fit = fit_temperature(answers(), quantile=0.8, tail=0.01, seed=0)
    low, high = limit_entropies(fit)
    around = torch.tensor(
        [low * 0.98, low * 1.02, math.exp(fit.statistics.pivot), high * 0.98, high * 1.02]
    ).double()
    position = normalized_deviation(around, fit.statistics)
    assert position[0] == -1
    assert position[4] == 1
    assert -1 < position[1] < position[2] < position[3] < 1
    assert position[2] == pytest.approx(0, abs=1e-6)


def test_standard_errors_count_answers_not_tokens() -> None:
    """Fifty copies of a token say no more than one."""
    independent = answers(60, 50)
    copied = [[answer[0]] * 50 for answer in independent]
    spread = [fit_temperature(a, 0.8, 0.01, 0).standard_errors.pivot for a in (independent, copied)]
    assert 0 < spread[0] * 3 < spread[1]
    assert spread[0] == pytest.approx(2 * 1.43 / math.sqrt(3000), rel=0.35)


def test_the_same_seed_gives_the_same_fit() -> None:
    one, same, other = (fit_temperature(answers(), 0.8, 0.01, seed) for seed in (1, 1, 2))
    assert one.standard_errors == same.standard_errors
    assert one.standard_errors != other.standard_errors
    assert one.statistics == other.statistics
