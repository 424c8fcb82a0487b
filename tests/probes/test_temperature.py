import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import Tensor

from probes import temperature
from probes.entropy import entropy_from_logits
from probes.temperature import (
    MIN_TEMPERATURE,
    NUM_PARAMETERS,
    REFINEMENTS,
    HapoStatistics,
    Law,
    apply_laws,
    fit_hapo,
    law_parameters,
    temperature_for_entropy,
)

INF = math.inf
GOLDEN = torch.tensor([[2.0, 1.0, 0.0, -1.0]])
GOLDEN_ENTROPY = 0.947537
LOG_VOCAB = math.log(49152)
STATISTICS = HapoStatistics(math.log(0.5), 1.0, 0.5, -0.25)  # those of the golden values

HALF = {"tau": 0.5, "published": 0.0}

for_all_rows = settings(deadline=None, max_examples=50)

SOME_PARAMETERS: dict[Law, dict[str, float]] = {
    Law.NONE: {},
    Law.FIXED: {"temperature": 0.7},
    Law.HAPO: {**STATISTICS._asdict(), "tau": 0.3, "published": 0.0},
    Law.EDT: {"theta": 0.5, "base": 0.8},
    Law.DYNATEMP: {"range": 0.5, "exponent": 1.5},
    Law.ENTROPY_TARGET: {"entropy_target": 1.0, "temperature_min": 0.1, "temperature_max": 2.0},
}

entropies = st.floats(0, 10.75, width=32)
bases = st.floats(0.125, 2, width=32)
rising_laws = st.sampled_from([Law.HAPO, Law.EDT, Law.DYNATEMP])


def applied(
    law: Law,
    entropies: list[float],
    t0: float = 1.0,
    parameters: dict[str, float] | None = None,
    log_vocab: float = LOG_VOCAB,
) -> list[float]:
    """Temperatures that one law gives to some entropies."""
    row = law_parameters(law, **(SOME_PARAMETERS[law] if parameters is None else parameters))
    count = len(entropies)
    result = apply_laws(
        torch.tensor(entropies),
        torch.full((count,), t0),
        torch.full((count,), float(law)),
        torch.tensor([row]).expand(count, -1),
        log_vocab,
    )
    assert result.shape == (count,)
    return result.tolist()


def hapo(*, tau: float, published: float = 0.0, **statistics: float) -> dict[str, float]:
    return {**STATISTICS._asdict(), **statistics, "tau": tau, "published": published}


# -- golden values -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("entropy", "published", "expected"),
    [(GOLDEN_ENTROPY, 0.0, 1.015981), (0.1, 0.0, 0.979882), (0.1, 1.0, 1.020118)],
)
def test_hapo_gives_its_golden_temperatures(
    entropy: float, published: float, expected: float
) -> None:
    got = applied(Law.HAPO, [entropy], parameters=hapo(tau=0.05, published=published))
    assert got == pytest.approx([expected], abs=2e-6)


@pytest.mark.parametrize(("theta", "expected"), [(1.0, 0.790177), (0.5, 0.888919)])
def test_edt_gives_its_golden_temperatures(theta: float, expected: float) -> None:
    got = applied(Law.EDT, [GOLDEN_ENTROPY], parameters={"theta": theta, "base": 0.8})
    assert got == pytest.approx([expected], abs=2e-6)


def test_dynatemp_gives_its_golden_temperature() -> None:
    parameters = {"range": 0.5, "exponent": 1.0}
    got = applied(Law.DYNATEMP, [GOLDEN_ENTROPY], parameters=parameters, log_vocab=math.log(4))
    assert got == pytest.approx([1.183503], abs=2e-6)


def test_an_entropy_target_of_half_a_nat_has_its_golden_temperature() -> None:
    assert temperature_for_entropy(GOLDEN, 0.5).item() == pytest.approx(0.532303, abs=2e-6)


# -- laws in closed form -----------------------------------------------------------------------


@given(law=rising_laws, t0=bases, one=entropies, two=entropies)
@for_all_rows
def test_temperature_never_falls_as_entropy_rises(
    law: Law, t0: float, one: float, two: float
) -> None:
    low, high = applied(law, sorted([one, two]), t0)
    assert low <= high + 1e-6


@pytest.mark.parametrize("law", [Law.HAPO, Law.EDT, Law.DYNATEMP])
def test_an_uncertain_token_is_drawn_warmer_than_a_certain_one(law: Law) -> None:
    low, high = applied(law, [0.2, 4.0])
    assert high > low * 1.05


def test_a_fixed_temperature_ignores_entropy_and_base() -> None:
    assert applied(Law.FIXED, [0.0, 1.0, 9.0], t0=1.7) == pytest.approx([0.7] * 3)


@given(
    entropy=entropies,
    t0=bases,
    tau=st.floats(0, 0.99),
    published=st.sampled_from([0.0, 1.0]),
    pivot=st.floats(-8, 2),
    std=st.floats(0, 3),
)
@for_all_rows
def test_hapo_stays_within_tau_of_the_base(
    entropy: float, t0: float, tau: float, published: float, pivot: float, std: float
) -> None:
    parameters = hapo(tau=tau, published=published, pivot=pivot, std=std)
    (got,) = applied(Law.HAPO, [entropy], t0, parameters)
    assert got >= max(t0 * (1 - tau), MIN_TEMPERATURE) * (1 - 1e-6)
    assert got <= t0 * (1 + tau) * (1 + 1e-6)


@given(entropy=st.floats(0.01, 10), tau=st.floats(0.01, 0.9))
@for_all_rows
def test_hapo_cools_by_as_much_as_the_published_code_heats(entropy: float, tau: float) -> None:
    (ours,) = applied(Law.HAPO, [entropy], parameters=hapo(tau=tau))
    (published,) = applied(Law.HAPO, [entropy], parameters=hapo(tau=tau, published=1.0))
    assert published >= 1 - 1e-6
    below = math.log(entropy) < STATISTICS.pivot
    assert ours == pytest.approx(2 - published if below else published, abs=1e-5)


@given(t0=bases, pivot=st.floats(-5, 2), tau=st.floats(0, 0.9))
@for_all_rows
def test_hapo_draws_the_pivot_token_at_the_base(t0: float, pivot: float, tau: float) -> None:
    got = applied(Law.HAPO, [math.exp(pivot)], t0, hapo(tau=tau, pivot=pivot))
    assert got == pytest.approx([t0], rel=1e-5)


def test_hapo_with_a_spread_too_small_to_mean_anything_draws_at_the_base() -> None:
    narrow = applied(Law.HAPO, [0.1, 3.0], 0.9, hapo(tau=0.5, std=9e-4))
    assert narrow == pytest.approx([0.9, 0.9])
    low, high = applied(Law.HAPO, [0.1, 3.0], 0.9, hapo(tau=0.5, std=2e-3))
    assert low < 0.9 < high


def test_hapo_cools_a_token_without_entropy_all_the_way() -> None:
    assert applied(Law.HAPO, [0.0], parameters=hapo(tau=0.05)) == pytest.approx([0.95])


@given(entropy=entropies, t0=bases, theta=st.floats(0.01, 100), number=st.floats(0.01, 0.99))
@for_all_rows
def test_edt_stays_between_the_floor_and_the_base(
    entropy: float, t0: float, theta: float, number: float
) -> None:
    (got,) = applied(Law.EDT, [entropy], t0, {"theta": theta, "base": number})
    assert MIN_TEMPERATURE * (1 - 1e-6) <= got <= t0 * (1 + 1e-6)


def test_edt_ends_at_the_floor_without_entropy_and_at_the_base_with_much() -> None:
    assert applied(Law.EDT, [0.0]) == pytest.approx([MIN_TEMPERATURE])
    far = applied(Law.EDT, [10.8], 0.9, {"theta": 0.001, "base": 0.8})
    assert far == pytest.approx([0.9], rel=1e-4)


@given(entropy=entropies, t0=bases, reach=st.floats(0, 2), exponent=st.floats(0.1, 10))
@for_all_rows
def test_dynatemp_stays_within_its_range_of_the_base(
    entropy: float, t0: float, reach: float, exponent: float
) -> None:
    (got,) = applied(Law.DYNATEMP, [entropy], t0, {"range": reach, "exponent": exponent})
    assert max(t0 - reach, MIN_TEMPERATURE) - 1e-5 <= got <= t0 + reach + 1e-5


def test_dynatemp_reaches_its_ends_at_no_entropy_and_at_the_most() -> None:
    got = applied(Law.DYNATEMP, [0.0, LOG_VOCAB], 1.0, {"range": 0.25, "exponent": 2.0})
    assert got == pytest.approx([0.75, 1.25])


@pytest.mark.parametrize("law", list(Law))
def test_a_row_without_entropy_is_drawn_at_the_base(law: Law) -> None:
    assert applied(law, [math.nan], t0=0.85) == pytest.approx([0.85])


@pytest.mark.parametrize("law", list(Law))
def test_a_greedy_row_stays_greedy(law: Law) -> None:
    assert applied(law, [0.0, 1.0, math.nan], t0=0.0) == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("t0", [0.005, 1.0, 250.0])
def test_a_row_without_a_law_keeps_its_base_even_outside_our_limits(t0: float) -> None:
    assert applied(Law.NONE, [0.0, 3.0], t0=t0) == pytest.approx([t0, t0], rel=1e-7)


@given(data=st.data(), num_rows=st.integers(1, 12))
@for_all_rows
def test_a_batch_of_all_laws_decides_each_row_as_if_it_were_alone(
    data: st.DataObject, num_rows: int
) -> None:
    laws = data.draw(st.lists(st.sampled_from(Law), min_size=num_rows, max_size=num_rows))
    entropy = torch.tensor(
        [data.draw(st.one_of(entropies, st.just(math.nan))) for _ in range(num_rows)]
    )
    t0 = torch.tensor([data.draw(st.one_of(bases, st.just(0.0))) for _ in range(num_rows)])
    tags = torch.tensor([float(law) for law in laws])
    rows = torch.tensor([law_parameters(law, **SOME_PARAMETERS[law]) for law in laws])
    together = apply_laws(entropy, t0, tags, rows, LOG_VOCAB)
    alone = [
        apply_laws(entropy[i : i + 1], t0[i : i + 1], tags[i : i + 1], rows[i : i + 1], LOG_VOCAB)
        for i in range(num_rows)
    ]
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-6, rtol=1e-6)
    assert together.isfinite().all()


# -- the entropy target ------------------------------------------------------------------------


def bisected(logits: Tensor, target: Tensor, low: float = 0.1, high: float = 2.0) -> Tensor:
    """The slow, sure way, in float64; ends at a limit where the target is out of reach."""
    rows = logits.double()
    below = torch.full((len(rows),), math.log(low), dtype=torch.float64)
    above = torch.full_like(below, math.log(high))
    for _ in range(40):
        middle = (below + above) / 2
        too_cold = entropy_from_logits(rows, middle.exp()) < target
        below, above = torch.where(too_cold, middle, below), torch.where(too_cold, above, middle)
    return ((below + above) / 2).exp()


def random_rows(num_rows: int, vocab: int, scale: float = 3.0) -> Tensor:
    return torch.randn(num_rows, vocab, generator=torch.Generator().manual_seed(0)) * scale


@st.composite
def solvable(draw: st.DrawFn) -> Tensor:
    """Rows of every shape that a model of some vocabulary gives, masked ones among them."""
    shape = (draw(st.integers(1, 4)), draw(st.sampled_from([2, 3, 8, 64, 300])))
    values = draw(hnp.arrays(np.float32, shape, elements=st.floats(-12, 12, width=32)))
    masked = draw(hnp.arrays(np.bool_, shape))
    masked[:, 0] = False
    return torch.from_numpy(np.where(masked, np.float32(-INF), values))


def assert_solved(logits: Tensor, target: float, got: Tensor, tolerance: float) -> None:
    """Where the target can be reached the entropy is the target, elsewhere T is at the limit."""
    assert got.isfinite().all()
    assert ((got >= 0.1 * (1 - 1e-6)) & (got <= 2.0 * (1 + 1e-6))).all()
    rows = logits.double()
    coldest, warmest = entropy_from_logits(rows, 0.1), entropy_from_logits(rows, 2.0)
    reached = entropy_from_logits(rows, got.double())
    expected = torch.full_like(reached, target).clamp(coldest, warmest)
    torch.testing.assert_close(reached, expected, atol=tolerance, rtol=0)


@pytest.mark.parametrize("vocab", [64, 512, 49152])
@pytest.mark.parametrize("target", [0.2, 0.8, 1.6, 3.0])
def test_the_solved_temperature_reaches_the_target(vocab: int, target: float) -> None:
    logits = random_rows(16, vocab)
    reachable = entropy_from_logits(logits, 0.1) < target
    reachable &= entropy_from_logits(logits, 2.0) > target
    assert reachable.sum() >= 4
    got = temperature_for_entropy(logits, target)[reachable]
    reached = entropy_from_logits(logits[reachable], got)
    torch.testing.assert_close(reached, torch.full_like(reached, target), atol=1e-3, rtol=0)


@given(logits=solvable(), target=st.floats(0.01, 8))
@for_all_rows
def test_the_target_is_met_or_the_nearer_limit_returned(logits: Tensor, target: float) -> None:
    assert_solved(logits, target, temperature_for_entropy(logits, target), tolerance=2e-2)


@pytest.mark.parametrize("share_allowed", [0.5, 0.02, 0.0005])
def test_masked_tokens_play_no_part_in_the_solution(share_allowed: float) -> None:
    logits = random_rows(8, 49152)
    allowed = torch.rand(49152, generator=torch.Generator().manual_seed(1)) < share_allowed
    masked = temperature_for_entropy(logits.masked_fill(~allowed, -INF), 1.0)
    torch.testing.assert_close(
        masked, temperature_for_entropy(logits[:, allowed], 1.0), atol=1e-4, rtol=1e-4
    )
    assert_solved(logits[:, allowed], 1.0, masked, tolerance=1e-3)


@pytest.mark.parametrize(
    ("name", "row", "target", "limit"),
    [
        ("a single allowed token has no entropy to raise", [5.0, -INF, -INF], 0.5, 2.0),
        ("two allowed tokens hold at most ln 2", [3.0, 0.0, -INF], 0.7, 2.0),
        ("a uniform row cannot be sharpened", [1.0] * 8, 0.5, 0.1),
        ("an exact tie at the top holds ln 2", [9.0, 9.0, 0.0], 0.6, 0.1),
        ("a near tie at the top holds almost ln 2", [9.0, 8.999, 0.0, -3.0], 0.5, 0.1),
        ("more than the vocabulary can hold", [2.0, 1.0, 0.0, -1.0], 3.0, 2.0),
        ("less than the coldest limit leaves", [1.0, 0.9, 0.8, 0.7], 1e-3, 0.1),
        ("a peak too tall for the warmest limit", [60.0, 0.0, 0.0, 0.0], 1.0, 2.0),
    ],
)
def test_a_target_out_of_reach_ends_at_the_nearer_limit(
    name: str, row: list[float], target: float, limit: float
) -> None:
    for refinements in (REFINEMENTS, 6):
        got = temperature_for_entropy(torch.tensor([row]), target, refinements=refinements)
        assert got.item() == pytest.approx(limit, rel=1e-5), name


def test_near_ties_just_inside_the_limits_are_solved() -> None:
    gaps = torch.tensor([0.05, 0.1, 0.2, 0.4])
    logits = torch.stack([torch.full_like(gaps, 10.0), 10.0 - gaps, torch.zeros(4)], -1)
    got = temperature_for_entropy(logits, 0.65)
    expected = bisected(logits, torch.full((4,), 0.65))
    torch.testing.assert_close(got.double(), expected, atol=0, rtol=1e-3)


@given(logits=solvable(), one=st.floats(0.01, 6), two=st.floats(0.01, 6))
@for_all_rows
def test_a_higher_target_never_gives_a_lower_temperature(
    logits: Tensor, one: float, two: float
) -> None:
    assume(abs(one - two) > 0.05)
    low, high = (temperature_for_entropy(logits, target) for target in sorted([one, two]))
    assert (low <= high * 1.01).all()


def test_targets_and_limits_may_differ_from_row_to_row() -> None:
    logits = random_rows(3, 512).repeat(2, 1)
    target = torch.tensor([0.5, 1.0, 2.0, 5.5, 5.5, 1e-3])
    low = torch.tensor([0.1, 0.2, 0.1, 0.1, 0.1, 0.6])
    high = torch.tensor([2.0, 2.0, 2.0, 1.1, 1.2, 1.0])
    got = temperature_for_entropy(logits, target, low, high)
    torch.testing.assert_close(
        entropy_from_logits(logits[:3], got[:3]), target[:3], atol=1e-3, rtol=0
    )
    assert got[3:].tolist() == pytest.approx([1.1, 1.2, 0.6])


@pytest.mark.parametrize("broken", [[math.nan, 1.0, 0.0], [INF, 1.0, 0.0], [-INF] * 3])
def test_a_row_without_a_finite_entropy_has_no_solution_and_spoils_no_other(
    broken: list[float],
) -> None:
    got = temperature_for_entropy(torch.tensor([[2.0, 1.0, 0.0], broken]), 0.6)
    assert got.isnan().tolist() == [False, True]


def test_bfloat16_logits_are_solved_in_float32() -> None:
    logits = random_rows(4, 512).bfloat16()
    got = temperature_for_entropy(logits, 1.0)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, temperature_for_entropy(logits.float(), 1.0))


def test_the_passes_of_the_decode_loop_are_enough_for_language_like_rows() -> None:
    ranks = torch.arange(1, 49153).log()  # Zipf, from nearly certain to nearly flat
    noise = random_rows(10, 49152, 1.0)
    logits = noise - ranks * torch.linspace(1.0, 4.0, 10).unsqueeze(-1)
    for target in (0.3, 1.0, 3.0):
        got = temperature_for_entropy(logits, target, refinements=REFINEMENTS)
        expected = bisected(logits, torch.full((10,), target))
        error = entropy_from_logits(logits, got) - entropy_from_logits(logits, expected.float())
        assert error.abs().mean() < 1e-2
        assert error.abs().max() < 0.1


# -- HAPO's statistics -------------------------------------------------------------------------


def hapo_in_numpy(values: np.ndarray, quantile: float, tail: float) -> HapoStatistics:
    """`compute_entropy_h` of the published code, with tails, written from the formulas."""
    log_entropy = np.sort(np.log(np.maximum(values.astype(np.float64), 1e-8)))
    last = len(log_entropy) - 1

    def nearest(ordered: np.ndarray, share: float) -> float:
        return float(ordered[np.rint(share * last).astype(int)])

    pivot = nearest(log_entropy, quantile)
    std = math.sqrt(max(np.mean((log_entropy - pivot) ** 2), 1e-8))
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
    got = applied(Law.HAPO, values.tolist(), parameters={**fitted._asdict(), **HALF})
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
    [[], [1.0], [1.0, math.nan], [1.0, INF], [1.0, -0.1]],
    ids=["nothing", "one value", "NaN", "infinite", "negative"],
)
def test_a_sample_that_cannot_be_fitted_is_refused(values: list[float]) -> None:
    with pytest.raises(ValueError, match="at least two finite entropies"):
        fit_hapo(torch.tensor(values))


def test_equal_entropies_fit_to_statistics_that_leave_the_base_alone() -> None:
    fitted = fit_hapo(torch.full((10,), 0.7))
    assert all(math.isfinite(value) for value in fitted)
    got = applied(Law.HAPO, [0.1, 0.7, 5.0], 0.9, {**fitted._asdict(), **HALF})
    assert got == pytest.approx([0.9] * 3)


# -- the table of laws -------------------------------------------------------------------------


def test_every_law_has_its_columns() -> None:
    assert set(temperature._COLUMNS) == set(Law)
    assert max(len(names) for names in temperature._COLUMNS.values()) == NUM_PARAMETERS


@pytest.mark.parametrize("law", list(Law))
def test_parameters_are_laid_out_in_the_order_of_their_columns_and_padded(law: Law) -> None:
    names = temperature._COLUMNS[law]
    values = {name: float(at + 1) for at, name in enumerate(names)}
    shuffled = dict(reversed(values.items()))
    row = law_parameters(law, **shuffled)
    assert row == [*values.values()] + [0.0] * (NUM_PARAMETERS - len(names))
    for name in names:
        with pytest.raises(KeyError, match=name):
            law_parameters(law, **{k: v for k, v in values.items() if k != name})
