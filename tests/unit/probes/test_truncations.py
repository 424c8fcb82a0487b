"""The truncations: golden values, published formulas, bounds, broken rows."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from probes.truncation_functions import gap_threshold, next_limit, remove_below_, spread_sums
from probes.truncations import (
    NUM_PARAMETERS,
    TRUNCATIONS,
    Mirostat,
    PLess,
    TopNSigma,
    Truncation,
)

INF = math.inf
GOLDEN = torch.tensor([[2.0, 1.0, 0.0, -1.0]])
LN2 = math.log(2)

any_row = st.lists(st.floats(-30, 30, width=32) | st.just(-INF), min_size=2, max_size=40).filter(
    lambda row: any(map(math.isfinite, row))
)
any_truncation = st.sampled_from(
    [TopNSigma(n=0.5), TopNSigma(n=2.0), PLess(), PLess(normalized=True), Mirostat()]
)
temperatures = st.floats(0.0625, 4, width=32)


def threshold(one: Truncation, logits: Tensor, t: float = 1.0, limit: float = 2.0) -> Tensor:
    beta = torch.full((len(logits),), 1 / t)
    sums = spread_sums(logits, logits.amax(-1, keepdim=True), beta)
    parameters = torch.tensor([one.row()]).expand(len(logits), -1)
    kind = torch.full((len(logits),), float(one.tag))
    return gap_threshold(sums, beta, kind, parameters, torch.full_like(beta, limit))


def kept(one: Truncation, logits: Tensor, t: float = 1.0, limit: float = 2.0) -> list[list[int]]:
    """Positions of the kept tokens of every row."""
    after, maximum = logits.clone(), logits.amax(-1, keepdim=True)
    beta = torch.full((len(logits),), 1 / t)
    remove_below_(after, maximum, threshold(one, logits, t, limit), beta)
    return [row.isfinite().nonzero().flatten().tolist() for row in after]


# -- golden values -----------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "count"), [(0.5, 1), (1.0, 2), (2.0, 3)])
def test_top_n_sigma_keeps_its_golden_tokens(n: float, count: int) -> None:
    assert kept(TopNSigma(n=n), GOLDEN) == [list(range(count))]
    assert threshold(TopNSigma(n=n), GOLDEN).item() == pytest.approx(-n * 1.118034, abs=1e-6)
    for t in (0.3, 3.0):  # the temperature does not matter
        assert kept(TopNSigma(n=n), GOLDEN, t) == [list(range(count))]


@pytest.mark.parametrize(("normalized", "share"), [(False, 0.479361), (True, 0.305815)])
def test_p_less_has_its_golden_threshold(normalized: bool, share: float) -> None:
    one = PLess(normalized=normalized)
    lowest = math.log(0.643914) + threshold(one, GOLDEN).item()
    assert math.exp(lowest) == pytest.approx(share, abs=2e-6)
    assert kept(one, GOLDEN) == [[0]]


def test_mirostat_keeps_its_golden_tokens_and_moves_its_limit() -> None:
    assert kept(Mirostat(), GOLDEN, limit=2.0) == [[0, 1]]
    after = GOLDEN.clone()
    lowest = threshold(Mirostat(), GOLDEN, limit=2.0)
    total = remove_below_(after, GOLDEN[:, :1], lowest, torch.ones(1))
    assert torch.softmax(after, -1)[0, :2].tolist() == pytest.approx([0.731059, 0.268941], abs=1e-6)
    surprise = total - (GOLDEN[:, 1] - GOLDEN[:, 0])  # of the second
    assert surprise.item() == pytest.approx(1.313262, abs=1e-6)
    limit = moved(2.0, surprise.item(), 1.0)
    assert limit == pytest.approx(1.968674, abs=1e-6)


def test_mirostat_in_bits_is_mirostat_in_nats() -> None:
    """llama.cpp counts in bits: tau 1.5 and mu 3, and the second token is sampled."""
    assert kept(Mirostat(), GOLDEN, limit=3 * LN2) == [[0, 1]]
    assert moved(3 * LN2, 1.894636 * LN2, 1.5 * LN2) == pytest.approx(2.960536 * LN2, abs=1e-6)


def moved(limit: float, surprise: float, target: float, log_vocab: float = 11.0) -> float:
    before, sampled, wanted, rate = torch.tensor([[limit], [surprise], [target], [0.1]])
    return next_limit(before, sampled, wanted, rate, log_vocab).item()


def test_the_limit_stays_within_zero_and_the_vocabulary_and_ignores_forced_tokens() -> None:
    assert moved(10.95, 0.0, 15.0) == pytest.approx(11.0)
    assert moved(0.05, 8.0, 1.0) == 0.0
    assert moved(1.5, math.nan, 1.0) == 1.5


# -- published formulas, in float64 ------------------------------------------------------------


def published(one: Truncation, row: list[float], t: float, limit: float) -> Any:
    """Amounts by which every token is above the published threshold, in log-probability."""
    z = np.array(row, dtype=np.float64)
    finite = z[np.isfinite(z)]
    scaled = z / t
    logp = scaled - (np.log(np.exp(scaled - scaled.max()).sum()) + scaled.max())
    p = np.exp(logp)
    with np.errstate(divide="ignore", invalid="ignore"):
        if isinstance(one, TopNSigma):
            return (z - (finite.max() - one.n * finite.std())) / t
        if isinstance(one, Mirostat):
            return limit + logp
        share = (p**2).sum()
        if one.normalized:
            share = max((len(finite) * share - 1) / max(len(finite) - 1, 1), 0.0)
        return logp - np.log(share)


@given(row=any_row, one=any_truncation, t=temperatures, limit=st.floats(0, 10))
@settings(deadline=None, max_examples=300)
def test_the_published_tokens_are_kept(
    row: list[float], one: Truncation, t: float, limit: float
) -> None:
    (got,) = kept(one, torch.tensor([row]), t, limit)
    above = published(one, row, t, limit)
    best = max(row)
    for token, value in enumerate(row):
        if value == -INF:
            assert token not in got
        elif value == best or above[token] > 1e-3 / t:
            assert token in got
        elif above[token] < -1e-3 / t and best - value > 1e-3:
            assert token not in got


# -- bounds and broken rows --------------------------------------------------------------------


@pytest.mark.parametrize("one", [TopNSigma(), PLess(), PLess(normalized=True), Mirostat()])
def test_equal_tokens_are_all_kept_and_a_single_one_is(one: Truncation) -> None:
    logits = torch.tensor([[1.0] * 5, [1.0, -INF, 1.0, -INF, 1.0], [-INF, 3.0, -INF, -INF, -INF]])
    assert kept(one, logits, limit=0.0) == [[0, 1, 2, 3, 4], [0, 2, 4], [1]]


@pytest.mark.parametrize("one", [TopNSigma(), PLess(), Mirostat()])
def test_a_row_without_a_distribution_is_untouched(one: Truncation) -> None:
    rows = torch.tensor([[math.nan, 1.0, 0.0], [INF, 1.0, 0.0], [-INF] * 3])
    assert threshold(one, rows).tolist() == [-INF] * 3
    after = rows.clone()
    remove_below_(after, rows.amax(-1, keepdim=True), threshold(one, rows), torch.ones(3))
    assert torch.equal(after.nan_to_num(nan=7), rows.nan_to_num(nan=7))


def test_a_row_without_a_truncation_keeps_every_token() -> None:
    sums = spread_sums(GOLDEN, GOLDEN[:, :1], torch.ones(1))
    parameters = torch.ones(1, NUM_PARAMETERS)
    lowest = gap_threshold(sums, torch.ones(1), torch.zeros(1), parameters, torch.zeros(1))
    assert lowest.item() == -INF


def test_every_truncation_has_a_tag_and_a_row_of_its_own() -> None:
    assert sorted(one.tag for one in TRUNCATIONS.values()) == [1, 2, 3]
    assert TopNSigma(n=2.5).row() == (2.5, 0.0)
    assert PLess(normalized=True).row() == (1.0, 0.0)
    assert Mirostat(surprise_target=2.0, learning_rate=0.3).row() == (2.0, 0.3)
    assert Mirostat().surprise_target == pytest.approx(5 * LN2, abs=1e-6)  # llama.cpp's 5 bits
