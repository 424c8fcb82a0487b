"""The statistics of the law `hapo`, fitted to a sample of entropies."""

import math

import numpy as np
import pytest
import torch

from probes.hapo_statistics import fit_hapo
from probes.laws import HapoLaw, HapoStatistics
from tests.unit.probes.test_laws import applied


def hapo_in_numpy(values: np.ndarray, quantile: float, tail: float) -> HapoStatistics:
    """`compute_entropy_h` of the published code, with tails, written from the formulas."""
    log_entropy = np.sort(np.log(np.maximum(values.astype(np.float64), 1e-8)))
    last = len(log_entropy) - 1

    def nearest(ordered: np.ndarray, share: float) -> float:
        return float(ordered[np.rint(share * last).astype(int)])

    pivot = nearest(log_entropy, quantile)
    std = math.sqrt(max(float(np.mean((log_entropy - pivot) ** 2)), 1e-8))
    x = (log_entropy - pivot) / std
    high, low = max(nearest(x, 1 - tail), 1e-8), min(nearest(x, tail), -1e-8)
    return HapoStatistics(pivot, std, 1 / high, 1 / low)


@pytest.mark.parametrize("count", [2, 3, 10, 1001])
@pytest.mark.parametrize("quantile", [0.5, 0.8])
@pytest.mark.parametrize("tail", [0.0, 0.01])
def test_fitted_statistics_are_those_of_the_formulas(
    count: int, quantile: float, tail: float
) -> None:
    values = np.random.default_rng(count).gamma(0.5, 2.0, count).astype(np.float32)
    values[0] = 0.0  # a certain token
    got = fit_hapo(torch.from_numpy(values), quantile, tail)
    assert got == pytest.approx(hapo_in_numpy(values, quantile, tail), rel=1e-9)
    assert got.scale_positive > 0 > got.scale_negative


def test_extremes_of_the_sample_map_to_the_ends_without_tails() -> None:
    values = torch.tensor([0.1, 0.3, 0.5, 1.0, 4.0])
    fitted = fit_hapo(values, tail=0.0)
    got = applied(HapoLaw(tau=0.5), values.tolist(), 1.0, fitted)
    assert (got[0], got[-1]) == pytest.approx((0.5, 1.5), abs=1e-4)
    assert got[3] == pytest.approx(1.0, abs=1e-5)  # the 0.8 quantile of five is the fourth


def test_one_outlier_does_not_decide_the_gain() -> None:
    values = torch.linspace(0.1, 2.0, 500)
    spoiled = torch.cat([values, torch.tensor([1e4])])
    robust = fit_hapo(spoiled).scale_positive / fit_hapo(values).scale_positive
    extreme = fit_hapo(spoiled, tail=0.0).scale_positive / fit_hapo(values, tail=0.0).scale_positive
    assert robust == pytest.approx(1.0, rel=0.1)
    assert extreme < 0.2


def test_the_order_and_shape_of_the_sample_do_not_matter() -> None:
    values = torch.rand(6, 50, generator=torch.Generator().manual_seed(0))
    shuffled = values.flatten()[torch.randperm(300, generator=torch.Generator().manual_seed(1))]
    assert fit_hapo(values) == pytest.approx(fit_hapo(shuffled), rel=1e-12)


@pytest.mark.parametrize(
    "values",
    [[], [1.0], [1.0, math.nan], [1.0, math.inf], [1.0, -0.1]],
    ids=["nothing", "one value", "NaN", "infinite", "negative"],
)
def test_a_sample_that_cannot_be_fitted_is_refused(values: list[float]) -> None:
    with pytest.raises(ValueError, match="at least two finite entropies"):
        fit_hapo(torch.tensor(values))


def test_equal_entropies_fit_to_statistics_that_leave_the_base_alone() -> None:
    fitted = fit_hapo(torch.full((10,), 0.7))
    assert all(math.isfinite(value) for value in fitted)
    got = applied(HapoLaw(tau=0.5), [0.1, 0.7, 5.0], 0.9, fitted)
    assert got == pytest.approx([0.9] * 3)
