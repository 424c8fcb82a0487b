import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from probes.entropy_target import temperature_for_entropy
from probes.law_functions import FUNCTIONS, apply_laws
from probes.laws import (
    LAWS,
    MIN_TEMPERATURE,
    NO_LAW,
    NO_ROW,
    NUM_PARAMETERS,
    SIDES,
    DynatempLaw,
    EdtLaw,
    EntropyTargetLaw,
    FixedLaw,
    HapoLaw,
    HapoStatistics,
    ShuffledLaw,
    TemperatureLaw,
    law_row,
)

INF = math.inf
GOLDEN = torch.tensor([[2.0, 1.0, 0.0, -1.0]])
GOLDEN_ENTROPY = 0.947537
LOG_VOCAB = math.log(49152)
STATISTICS = HapoStatistics(math.log(0.5), 1.0, 0.5, -0.25)  # those of the golden values

for_all_rows = settings(deadline=None, max_examples=50)

FIXED = FixedLaw(temperature=0.7)
RISING: list[TemperatureLaw] = [HapoLaw(tau=0.3), EdtLaw(), DynatempLaw(exponent=1.5)]
"""Laws whose temperature rises with the entropy."""
ALL_LAWS: list[TemperatureLaw | None] = [
    None,
    FIXED,
    *RISING,
    EntropyTargetLaw(entropy_target=1.0),
    ShuffledLaw(temperatures=(0.5, 1.5)),
]

entropies = st.floats(0, 10.75, width=32)
bases = st.floats(0.125, 2, width=32)
rising_laws = st.sampled_from(RISING)


def applied(
    law: TemperatureLaw | None,
    entropies: list[float],
    t0: float = 1.0,
    statistics: HapoStatistics = STATISTICS,
    log_vocab: float = LOG_VOCAB,
) -> list[float]:
    """Temperatures that one law gives to some entropies."""
    tag, row = law_row(law, statistics)
    count = len(entropies)
    result = apply_laws(
        torch.tensor(entropies),
        torch.full((count,), t0),
        torch.full((count,), float(tag)),
        torch.tensor([row]).expand(count, -1),
        log_vocab,
    )
    assert result.shape == (count,)
    return result.tolist()


# -- golden values -----------------------------------------------------------------------------


@pytest.mark.parametrize(("entropy", "expected"), [(GOLDEN_ENTROPY, 1.015981), (0.1, 0.979882)])
def test_hapo_gives_its_golden_temperatures(entropy: float, expected: float) -> None:
    got = applied(HapoLaw(), [entropy])
    assert got == pytest.approx([expected], abs=2e-6)


@pytest.mark.parametrize(("theta", "expected"), [(1.0, 0.790177), (0.5, 0.888919)])
def test_edt_gives_its_golden_temperatures(theta: float, expected: float) -> None:
    got = applied(EdtLaw(theta=theta), [GOLDEN_ENTROPY])
    assert got == pytest.approx([expected], abs=2e-6)


def test_dynatemp_gives_its_golden_temperature() -> None:
    got = applied(DynatempLaw(), [GOLDEN_ENTROPY], log_vocab=math.log(4))
    assert got == pytest.approx([1.183503], abs=2e-6)


def test_an_entropy_target_of_half_a_nat_has_its_golden_temperature() -> None:
    assert temperature_for_entropy(GOLDEN, 0.5).item() == pytest.approx(0.532303, abs=2e-6)


# -- laws in closed form -----------------------------------------------------------------------


@given(law=rising_laws, t0=bases, one=entropies, two=entropies)
@for_all_rows
def test_temperature_never_falls_as_entropy_rises(
    law: TemperatureLaw, t0: float, one: float, two: float
) -> None:
    low, high = applied(law, sorted([one, two]), t0)
    assert low <= high + 1e-6


@pytest.mark.parametrize("law", RISING)
def test_an_uncertain_token_is_drawn_warmer_than_a_certain_one(law: TemperatureLaw) -> None:
    low, high = applied(law, [0.2, 4.0])
    assert high > low * 1.05


def test_a_fixed_temperature_ignores_entropy_and_base() -> None:
    assert applied(FIXED, [0.0, 1.0, 9.0], t0=1.7) == pytest.approx([0.7] * 3)


@given(
    entropy=entropies,
    t0=bases,
    tau=st.floats(0, 0.99),
    pivot=st.floats(-8, 2),
    std=st.floats(0, 3),
)
@for_all_rows
def test_hapo_stays_within_tau_of_the_base(
    entropy: float,
    t0: float,
    tau: float,
    pivot: float,
    std: float,
) -> None:
    statistics = STATISTICS._replace(pivot=pivot, std=std)
    (got,) = applied(HapoLaw(tau=tau), [entropy], t0, statistics)
    assert got >= max(t0 * (1 - tau), MIN_TEMPERATURE) * (1 - 1e-6)
    assert got <= t0 * (1 + tau) * (1 + 1e-6)


@given(entropy=st.floats(0.01, 10), tau=st.floats(0.01, 0.9))
@for_all_rows
def test_hapo_heats_above_the_pivot_and_cools_below_it(entropy: float, tau: float) -> None:
    (got,) = applied(HapoLaw(tau=tau), [entropy])
    x = (math.log(entropy) - STATISTICS.pivot) / STATISTICS.std
    scale = STATISTICS.scale_positive if x > 0 else abs(STATISTICS.scale_negative)
    assert got == pytest.approx(1 + tau * max(-1.0, min(1.0, x * scale)), abs=1e-5)


@given(t0=bases, pivot=st.floats(-5, 2), tau=st.floats(0, 0.9))
@for_all_rows
def test_hapo_draws_the_pivot_token_at_the_base(t0: float, pivot: float, tau: float) -> None:
    got = applied(HapoLaw(tau=tau), [math.exp(pivot)], t0, STATISTICS._replace(pivot=pivot))
    assert got == pytest.approx([t0], rel=1e-5)


def test_hapo_with_a_spread_too_small_to_mean_anything_draws_at_the_base() -> None:
    narrow = applied(HapoLaw(tau=0.5), [0.1, 3.0], 0.9, STATISTICS._replace(std=9e-4))
    assert narrow == pytest.approx([0.9, 0.9])
    low, high = applied(HapoLaw(tau=0.5), [0.1, 3.0], 0.9, STATISTICS._replace(std=2e-3))
    assert low < 0.9 < high


def test_hapo_cools_a_token_without_entropy_all_the_way() -> None:
    assert applied(HapoLaw(), [0.0]) == pytest.approx([0.95])


@given(entropy=entropies, t0=bases, theta=st.floats(0.01, 100), number=st.floats(0.01, 0.99))
@for_all_rows
def test_edt_stays_between_the_floor_and_the_base(
    entropy: float, t0: float, theta: float, number: float
) -> None:
    (got,) = applied(EdtLaw(theta=theta, base=number), [entropy], t0)
    assert MIN_TEMPERATURE * (1 - 1e-6) <= got <= t0 * (1 + 1e-6)


def test_edt_ends_at_the_floor_without_entropy_and_at_the_base_with_much() -> None:
    assert applied(EdtLaw(), [0.0]) == pytest.approx([MIN_TEMPERATURE])
    far = applied(EdtLaw(theta=0.001), [10.8], 0.9)
    assert far == pytest.approx([0.9], rel=1e-4)


@given(entropy=entropies, t0=bases, reach=st.floats(0, 2), exponent=st.floats(0.1, 10))
@for_all_rows
def test_dynatemp_stays_within_its_range_of_the_base(
    entropy: float, t0: float, reach: float, exponent: float
) -> None:
    (got,) = applied(DynatempLaw(range=reach, exponent=exponent), [entropy], t0)
    assert max(t0 - reach, MIN_TEMPERATURE) - 1e-5 <= got <= t0 + reach + 1e-5


def test_dynatemp_reaches_its_ends_at_no_entropy_and_at_the_most() -> None:
    got = applied(DynatempLaw(range=0.25, exponent=2.0), [0.0, LOG_VOCAB])
    assert got == pytest.approx([0.75, 1.25])


@pytest.mark.parametrize("law", ALL_LAWS)
def test_a_row_without_entropy_is_drawn_at_the_base(law: TemperatureLaw | None) -> None:
    assert applied(law, [math.nan], t0=0.85) == pytest.approx([0.85])


@pytest.mark.parametrize("law", ALL_LAWS)
def test_a_vocabulary_of_one_token_has_a_temperature(law: TemperatureLaw | None) -> None:
    assert all(map(math.isfinite, applied(law, [0.0], log_vocab=0.0)))


@pytest.mark.parametrize("law", ALL_LAWS)
def test_a_greedy_row_stays_greedy(law: TemperatureLaw | None) -> None:
    assert applied(law, [0.0, 1.0, math.nan], t0=0.0) == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("t0", [0.005, 1.0, 250.0])
def test_a_row_without_a_law_keeps_its_base_even_outside_our_limits(t0: float) -> None:
    assert applied(None, [0.0, 3.0], t0=t0) == pytest.approx([t0, t0], rel=1e-7)


@given(data=st.data(), num_rows=st.integers(1, 12))
@for_all_rows
def test_a_batch_of_all_laws_decides_each_row_as_if_it_were_alone(
    data: st.DataObject, num_rows: int
) -> None:
    laws = data.draw(st.lists(st.sampled_from(ALL_LAWS), min_size=num_rows, max_size=num_rows))
    entropy = torch.tensor(
        [data.draw(st.one_of(entropies, st.just(math.nan))) for _ in range(num_rows)]
    )
    t0 = torch.tensor([data.draw(st.one_of(bases, st.just(0.0))) for _ in range(num_rows)])
    tags = torch.tensor([float(law_row(law, STATISTICS)[0]) for law in laws])
    rows = torch.tensor([law_row(law, STATISTICS)[1] for law in laws])
    together = apply_laws(entropy, t0, tags, rows, LOG_VOCAB)
    alone = [
        apply_laws(entropy[i : i + 1], t0[i : i + 1], tags[i : i + 1], rows[i : i + 1], LOG_VOCAB)
        for i in range(num_rows)
    ]
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-6, rtol=1e-6)
    assert together.isfinite().all()


# -- the table of laws -------------------------------------------------------------------------


def test_every_law_has_one_function_and_a_tag_of_its_own() -> None:
    by_entropy = {name for name, law in LAWS.items() if not law.needs_logits}
    assert set(FUNCTIONS) == by_entropy
    tags = [law.tag for law in LAWS.values()]
    assert sorted({*tags, NO_LAW}) == list(range(len(LAWS) + 1))


@pytest.mark.parametrize("law", ALL_LAWS)
def test_the_row_of_a_law_has_its_parameters_in_order_and_is_padded(
    law: TemperatureLaw | None,
) -> None:
    _, row = law_row(law, STATISTICS)
    assert len(row) == NUM_PARAMETERS
    if isinstance(law, HapoLaw):
        assert row == (*STATISTICS, 0.3)
    elif isinstance(law, EntropyTargetLaw):
        assert row == (1.0, 0.1, 2.0, SIDES[law.side], 0.0)
    elif law is None or isinstance(law, ShuffledLaw):  # the histogram travels beside the row
        assert row == NO_ROW
    else:
        values = [value for name, value in law if name != "type"]
        assert row == (*values, *[0.0] * (NUM_PARAMETERS - len(values)))


def test_a_histogram_is_its_cumulative_shares_and_has_one_weight_for_each_temperature() -> None:
    even = ShuffledLaw(temperatures=(0.5, 1.0, 1.5, 2.0))
    assert even.cumulative() == (0.25, 0.5, 0.75, 1.0)
    weighted = ShuffledLaw(temperatures=(0.5, 1.0, 1.5), weights=(0.0, 3.0, 1.0))
    assert weighted.cumulative() == (0.0, 0.75, 1.0)
    tiny = ShuffledLaw(temperatures=(0.5, 1.0), weights=(5e-324, 5e-324))
    assert tiny.cumulative() == (0.5, 1.0)
    with pytest.raises(ValueError, match="2 temperatures and 1 weights"):
        ShuffledLaw(temperatures=(0.5, 1.0), weights=(1.0,))
    with pytest.raises(ValueError, match="above 0"):
        ShuffledLaw(temperatures=(0.5, 1.0), weights=(0.0, 0.0))


def test_hapo_has_no_row_without_statistics() -> None:
    with pytest.raises(ValueError, match="statistics"):
        HapoLaw().row()


@pytest.mark.parametrize("name", list(LAWS))
def test_a_law_without_its_type_is_not_in_the_schema(name: str) -> None:
    schema = LAWS[name].model_json_schema()
    assert "type" in schema["required"]
    assert schema["properties"]["type"]["const"] == name
