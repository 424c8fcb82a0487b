import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from probes.difficulty.probe import (
    MARGIN,
    Forecast,
    Head,
    classify,
    classify_by_outcomes,
    default_thresholds,
    predicted_class,
    route,
)
from probes.difficulty.strategies import (
    Difficulty,
    Outcomes,
    ProbeSpec,
    Strategies,
    Strategy,
    Thresholds,
    append_text,
)

EASY, NORMAL, HARD = Difficulty


def linear(features: int = 4, seed: int = 0) -> Head:
    draw = torch.Generator().manual_seed(seed)
    return Head(
        mean=torch.randn(features, generator=draw),
        scale=torch.rand(features, generator=draw) + 0.5,
        weight=torch.randn(3, features, generator=draw),
        bias=torch.randn(3, generator=draw),
        temperature=torch.tensor(1.5),
    )


def mlp(features: int = 4, units: int = 6) -> Head:
    draw = torch.Generator().manual_seed(1)
    return linear(features)._replace(
        weight=torch.randn(3, units, generator=draw),
        hidden_weight=torch.randn(units, features, generator=draw),
        hidden_bias=torch.randn(units, generator=draw),
    )


# -- labels ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("accuracy", "entropy", "expected"),
    [
        (1.0, 0.1, NORMAL),
        (0.7, 0.5, NORMAL),  # acc == alpha and E == beta
        (0.7, 0.5001, EASY),  # solved with much entropy: overthinking
        (0.69, 0.1, EASY),  # gamma <= acc < alpha
        (0.3, 9.0, EASY),  # acc == gamma is not hard
        (0.29, 0.1, HARD),
        (0.0, 9.0, HARD),
    ],
)
def test_labels_at_and_beside_every_boundary(
    accuracy: float, entropy: float, expected: Difficulty
) -> None:
    thresholds = Thresholds(alpha=0.7, beta=0.5, gamma=0.3)
    rows = torch.tensor([accuracy], dtype=torch.float64), torch.tensor([entropy]).double()
    assert classify(*rows, thresholds).tolist() == [expected]


def test_a_solved_question_is_normal_even_where_gamma_equals_alpha() -> None:
    thresholds = Thresholds(alpha=0.5, beta=1.0, gamma=0.5)
    labels = classify(torch.tensor([0.5, 0.5, 0.4]), torch.tensor([0.5, 2.0, 0.5]), thresholds)
    assert labels.tolist() == [NORMAL, EASY, HARD]


def test_beta_is_the_median_entropy_of_what_is_solved() -> None:
    accuracy = torch.tensor([1.0, 0.8, 0.7, 0.6])
    entropy = torch.tensor([0.1, 0.9, 0.3, 50.0])
    assert default_thresholds(accuracy, entropy).beta == pytest.approx(0.3)
    with pytest.raises(ValueError, match="seven times of ten"):
        default_thresholds(torch.tensor([0.6]), torch.tensor([1.0]))


@pytest.mark.parametrize(
    ("accuracy", "tokens", "expected"),
    [
        ((1.0, 1.0, 1.0), (3, 10, 5), Difficulty.EASY),
        ((0.5, 1.0, 0.5), (3, 10, 5), Difficulty.NORMAL),
        ((0.5, 1.0, 1.0), (3, 10, 5), Difficulty.HARD),
        ((0.9, 1.0, 0.0), (3, 10, 5), Difficulty.EASY),  # just within the tolerance
        ((0.2, 0.2, 0.2), (3, 10, 5), Difficulty.HARD),  # below gamma
        ((0.2, 0.3, 0.2), (3, 10, 5), Difficulty.EASY),  # at gamma
        ((1.0, 0.0, 0.0), (30, 10, 50), Difficulty.NORMAL),  # more accuracy at any cost: no
    ],
)
def test_the_cheapest_strategy_that_loses_nothing_labels_a_question(
    accuracy: tuple[float, ...], tokens: tuple[int, ...], expected: Difficulty
) -> None:
    right, spent = (torch.tensor([row], dtype=torch.float64).T for row in (accuracy, tokens))
    assert classify_by_outcomes(
        right, spent, Outcomes(tolerance=0.1 + 1e-9, gamma=0.3)
    ).tolist() == [expected]


def test_thresholds_out_of_order_are_refused() -> None:
    with pytest.raises(ValidationError, match=r"gamma \(0\.8\)"):
        Thresholds(alpha=0.7, beta=1.0, gamma=0.8)


# -- decisions ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ([0.8, 0.1, 0.1], EASY),
        ([0.1, 0.1, 0.8], HARD),
        ([0.48, 0.08, 0.44], NORMAL),  # 0.04 apart
        ([0.5, 0.06, 0.44], EASY),  # 0.06 apart
        ([1 / 3, 1 / 3, 1 / 3], NORMAL),
        ([math.nan] * 3, NORMAL),
    ],
)
def test_an_unclear_row_is_normal(row: list[float], expected: Difficulty) -> None:
    assert predicted_class(torch.tensor([row])).tolist() == [expected]


@given(st.permutations(range(5)))
def test_rows_are_decided_alone(order: list[int]) -> None:
    rows = torch.softmax(torch.randn(5, 3, generator=torch.Generator().manual_seed(3)) * 2, -1)
    assert predicted_class(rows[order]).tolist() == predicted_class(rows)[order].tolist()
    top = rows.topk(2).values
    unclear = top[:, 0] - top[:, 1] < MARGIN
    assert bool((predicted_class(rows)[unclear] == NORMAL).all())


# -- heads -------------------------------------------------------------------------------------


@pytest.mark.parametrize("head", [linear(), mlp()])
def test_a_head_is_the_formula_in_float64(head: Head) -> None:
    hidden = torch.randn(7, 4, generator=torch.Generator().manual_seed(5)) * 10
    x = (hidden.double() - head.mean) / head.scale
    if head.hidden_weight is not None:
        assert head.hidden_bias is not None
        x = (x @ head.hidden_weight.T.double() + head.hidden_bias).clamp_min(0)
    expected = ((x @ head.weight.T.double() + head.bias) / head.temperature).softmax(-1)
    got = head.probabilities(hidden)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got.double(), expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_state_that_is_not_finite_gives_nan_in_its_own_row_alone(bad: float) -> None:
    hidden = torch.zeros(3, 4)
    hidden[1, 2] = bad
    rows = linear().probabilities(hidden)
    assert rows[1].isnan().all()
    assert rows[[0, 2]].isfinite().all()


def test_the_distance_of_typical_states_is_one_and_grows_with_them() -> None:
    head = linear(64)
    typical = head.mean + head.scale * torch.randn(2000, 64)
    found = head.distance(typical)
    assert found.square().mean() == pytest.approx(1.0, abs=0.02)
    further = head.distance(head.mean + 3 * (typical - head.mean))
    torch.testing.assert_close(further, 3 * found)
    assert torch.equal(head.distance(head.mean[None]), torch.zeros(1))
    broken = typical[:3].clone()
    broken[1, 5] = math.inf
    assert head.distance(broken).isnan().tolist() == [False, True, False]


def test_half_precision_states_are_read_in_float32() -> None:
    hidden = torch.randn(5, 4).bfloat16()
    assert torch.equal(linear().probabilities(hidden), linear().probabilities(hidden.float()))
    assert torch.equal(linear().distance(hidden), linear().distance(hidden.float()))


@pytest.mark.parametrize("head", [linear(), mlp()])
def test_tensors_come_back_as_the_head_they_came_from(head: Head) -> None:
    again = Head.from_tensors(head.tensors(), 4)
    hidden = torch.randn(2, 4)
    assert torch.equal(again.probabilities(hidden), head.probabilities(hidden))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mean": None}, "the tensor `mean` is missing"),
        ({"bias": torch.zeros(2)}, r"`bias` has shape \(2,\) instead of \(3,\)"),
        ({"weight": torch.zeros(3, 5)}, r"`weight` has shape \(3, 5\) instead of \(3, 4\)"),
        ({"scale": torch.full((4,), math.nan)}, "`scale` holds no finite numbers"),
        ({"hidden_bias": torch.zeros(6)}, "`hidden_weight` is missing"),
    ],
)
def test_malformed_tensors_are_refused_by_name(
    change: dict[str, torch.Tensor | None], message: str
) -> None:
    tensors = {key: part for key, part in (linear().tensors() | change).items() if part is not None}
    with pytest.raises(ValueError, match=message):
        Head.from_tensors(tensors, 4)


# -- by worth ----------------------------------------------------------------------------------


def with_router(head: Head, features: int = 4) -> Head:
    draw = torch.Generator().manual_seed(2)
    return head._replace(
        router_weight=torch.randn(6, features, generator=draw),
        router_bias=torch.randn(6, generator=draw),
        router_kept=torch.ones(3),
    )


@pytest.mark.parametrize("head", [with_router(linear()), with_router(mlp())])
def test_a_forecast_is_linear_in_the_standardized_state_and_clipped(head: Head) -> None:
    hidden = torch.randn(20, 4)
    accuracy, tokens = head.forecast(hidden)
    assert head.router_weight is not None
    assert head.router_bias is not None
    raw = ((hidden - head.mean) / head.scale) @ head.router_weight.T + head.router_bias
    torch.testing.assert_close(accuracy, raw[:, :3].clamp(0, 1))
    torch.testing.assert_close(tokens, raw[:, 3:].clamp_min(0))
    again = Head.from_tensors(head.tensors(), 4).forecast(hidden)
    assert torch.equal(again.accuracy, accuracy)


def test_a_probe_without_a_router_forecasts_nothing() -> None:
    assert all(part.isnan().all() for part in linear().forecast(torch.randn(3, 4)))


@given(st.floats(0, 10), st.floats(0, 10), st.integers(0, 10_000))
def test_a_higher_price_never_chooses_a_longer_answer(low: float, high: float, seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    accuracy, tokens = torch.rand(2, 50, 3, generator=draw)
    kept = torch.tensor([1.0, 1.0, float(seed % 2)])
    chosen = [
        tokens.gather(1, route(Forecast(accuracy, tokens), kept, torch.full((50,), price))[:, None])
        for price in sorted((low, high))
    ]
    assert (chosen[1] <= chosen[0] + 1e-5).all()


def test_the_price_weighs_accuracy_against_tokens() -> None:
    forecast = Forecast(torch.tensor([[0.4, 0.7, 0.6]]), torch.tensor([[0.2, 1.0, 0.5]]))
    kept, everything = torch.tensor([1.0, 1.0, 0.0]), torch.ones(3)
    for price, every, without_hard in ((0.0, NORMAL, NORMAL), (0.3, HARD, NORMAL), (2, EASY, EASY)):
        assert route(forecast, everything, torch.tensor([float(price)])) == every
        assert route(forecast, kept, torch.tensor([float(price)])) == without_hard


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"router_kept": None}, "the tensor `router_kept` is missing"),
        ({"router_weight": torch.zeros(3, 4)}, r"has shape \(3, 4\) instead of \(6, 4\)"),
        ({"router_bias": torch.full((6,), math.inf)}, "`router_bias` holds no finite numbers"),
        ({"router_kept": torch.zeros(3)}, "needs zeros and at least one 1"),
        ({"router_kept": torch.tensor([1.0, 0.5, 1.0])}, "needs zeros and at least one 1"),
    ],
)
def test_a_malformed_router_is_refused_by_name(
    change: dict[str, torch.Tensor | None], message: str
) -> None:
    parts = with_router(linear()).tensors() | change
    with pytest.raises(ValueError, match=message):
        Head.from_tensors({key: part for key, part in parts.items() if part is not None}, 4)


# -- strategies --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("share", "ceiling", "tokens"),
    [(0.4, 100, 40), (0.4, 101, 40), (0.4, 20, 16), (0.4, 10, 10), (1.0, 7, 7), (0.5, 33, 16)],
)
def test_budgets_are_rounded_down_with_a_floor_and_never_beyond_the_ceiling(
    share: float, ceiling: int, tokens: int
) -> None:
    assert Strategy(temperature=1, budget=share).max_tokens(ceiling) == tokens


def test_the_papers_temperatures_and_budgets_are_the_defaults() -> None:
    table = [(s.temperature, s.budget) for s in Strategies().all]
    assert table == [(0.5, 0.4), (0.8, 1.0), (0.4, 0.5)]
    assert not Strategies().change_prompt
    assert Strategies(hard=Strategy(prompt="x", temperature=1, budget=1)).change_prompt


def test_text_comes_after_the_question_and_none_changes_nothing() -> None:
    assert append_text("Why?", "") == "Why?"
    assert append_text("Why?", "Be brief.").startswith("Why?")


SPEC = ProbeSpec(
    layer="final",
    normalized=True,
    position="last_prompt_token",
    features=4,
    labels=Thresholds(alpha=0.7, beta=1, gamma=0.3),
    strategies=Strategies(),
)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("layer", "12", "layer is '12'"),
        ("normalized", False, "normalized is False"),
        ("position", "mean", "position is 'mean'"),
        ("features", 5, "features is 5, a server reads 4"),
    ],
)
def test_what_a_server_cannot_read_is_named(field: str, value: object, message: str) -> None:
    assert SPEC.unreadable(4) is None
    assert message in str(SPEC.model_copy(update={field: value}).unreadable(4))


def test_a_probe_of_version_0_1_0_is_readable() -> None:
    """It spells one field in another way."""
    stored = SPEC.model_dump()
    stored["normalised"] = stored.pop("normalized")
    assert ProbeSpec.model_validate(stored) == SPEC
    with pytest.raises(ValidationError, match="normalised"):
        ProbeSpec.model_validate({**SPEC.model_dump(), "normalised": False})
