import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from probes import laws as temperature
from probes.laws import (
    MIN_TEMPERATURE,
    NUM_PARAMETERS,
    HapoStatistics,
    Law,
    apply_laws,
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
