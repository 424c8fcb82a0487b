"""The fit of a router by worth, on planted strategies."""

import numpy as np
import pytest
import torch

from probes.difficulty.probe import Head
from probes.difficulty.strategies import Difficulty
from training.common.strategy_choice import QuestionTexts, choose, split_oracle
from training.difficulty.router import StrategyOutcomes, fit_router, with_router
from training.difficulty.router_report import compare_router, router_section

EASY, NORMAL, HARD = Difficulty
HIDDEN = 12


def planted(number: int = 400, *, seed: int = 0, signal: float = 2.0) -> StrategyOutcomes:
    """Half need the long strategy, the others suffer from it; the state says which."""
    chance = np.random.default_rng(seed)
    needs = chance.random(number) < 0.5
    states = chance.normal(size=(number, HIDDEN))
    states[:, 3] += signal * np.where(needs, 1, -1)
    rates = np.stack([np.where(needs, 0.1, 0.95), np.full(number, 0.8), np.full(number, 0.05)])
    accuracy = chance.binomial(4, rates) / 4
    tokens = np.array([[5.0], [50.0], [20.0]]) + chance.normal(size=(3, number))
    return StrategyOutcomes(states, accuracy, tokens, [str(i) for i in range(number)])


def test_a_router_keeps_the_accuracy_with_fewer_tokens_and_drops_the_dominated_strategy() -> None:
    fit, new = fit_router(planted(), 0), planted(seed=1)
    assert fit.spec.dropped == ("hard",)
    assert fit.spec.normal_tokens == pytest.approx(50, abs=1)
    chosen, rows = fit.choose(new.states, fit.spec.price), np.arange(400)
    assert new.tokens[chosen, rows].mean() < 0.7 * new.tokens[NORMAL].mean()
    assert new.accuracy[chosen, rows].mean() > new.accuracy[NORMAL].mean() - 0.03


def test_a_state_that_says_nothing_saves_nothing() -> None:
    fit = fit_router(planted(signal=0.0), 0)
    chosen = fit.choose(planted(seed=1, signal=0.0).states, fit.spec.price)
    assert (chosen == NORMAL).mean() > 0.9


def test_a_strategy_that_is_shorter_and_as_good_replaces_normal() -> None:
    """Then even the highest price loses no accuracy."""
    outcomes = planted()
    outcomes.accuracy[EASY] = outcomes.accuracy[NORMAL]
    fit = fit_router(outcomes, 0)
    assert "normal" in fit.spec.dropped
    assert set(fit.choose(outcomes.states, fit.spec.price).tolist()) == {EASY}


def test_groups_are_never_split() -> None:
    """A state that only names its group forecasts nothing about others."""
    chance = np.random.default_rng(0)
    groups = np.arange(200) // 20
    states = 30.0 * np.eye(HIDDEN)[groups]
    accuracy = np.stack([(groups % 2).astype(float), np.full(200, 0.6), np.zeros(200)])
    tokens = np.array([[5.0], [50.0], [20.0]]) + chance.normal(size=(3, 200))
    outcomes = StrategyOutcomes(states, accuracy, tokens, [str(i) for i in range(200)])
    apart = outcomes._replace(groups=[str(one) for one in groups])
    assert fit_router(outcomes, 0).spec.price > fit_router(apart, 0).spec.price


@pytest.mark.parametrize("scale", [1.0, 7.0])
def test_the_heads_tensors_forecast_what_the_fit_does(scale: float) -> None:
    """The head standardizes the states in its own way."""
    outcomes, draw = planted(), torch.Generator().manual_seed(0)
    fit = fit_router(outcomes, 0)
    head = Head(
        mean=torch.randn(HIDDEN, generator=draw),
        scale=scale * (torch.rand(HIDDEN, generator=draw) + 0.5),
        weight=torch.zeros(3, HIDDEN),
        bias=torch.zeros(3),
        temperature=torch.tensor(1.0),
    )
    routed = with_router(head, fit)
    states = planted(seed=1).states
    for got, expected in zip(
        routed.forecast(torch.from_numpy(states)), fit.forecast(states), strict=True
    ):
        assert np.abs(got.numpy().T - expected).max() < 1e-4
    assert Head.from_tensors(routed.tensors(), HIDDEN).router_kept is not None


def test_the_report_sets_the_router_beside_its_controls() -> None:
    seen, new = planted(), planted(100, seed=1)
    texts = [
        QuestionTexts([f"question {i % 7}" for i in range(n)], ["one"] * n) for n in (400, 100)
    ]
    found = compare_router(fit_router(seen, 0), (seen, texts[0]), (new, texts[1]), 4, 0)
    assert found.choices["router"].saved.low > 0.2
    assert found.choices["router"].accuracy > found.choices["random at the same rates"].accuracy
    assert found.choices["always normal"].gain.value == 0
    page = router_section(found)
    assert "The strategy hard is dropped" in page
    gain = found.choices["router"].gain
    assert ("The router pays" in page) == (gain.low > 0)
    assert "is the highest at which" in page
    for name in ("table by kind of question", "TF-IDF of the question", "split oracle"):
        assert f"| {name} | " in page


def test_a_router_without_a_price_that_keeps_the_accuracy_says_so() -> None:
    chance = np.random.default_rng(1)
    rates = np.full((3, 60), 0.55) + np.array([[0.0], [0.1], [0.0]])
    noise, accuracy = chance.normal(size=(60, 40)), chance.binomial(4, rates) / 4
    tokens = np.array([[20.0], [50.0], [60.0]]) + chance.normal(size=(3, 60))
    names = [str(i) for i in range(60)]
    outcomes = StrategyOutcomes(noise, accuracy, tokens, names)
    fit, texts = fit_router(outcomes, 0), QuestionTexts(names, ["one"] * 60)
    assert not fit.keeps_accuracy
    assert fit.spec.price == 0
    page = router_section(compare_router(fit, (outcomes, texts), (outcomes, texts), 4, 0))
    assert "No price keeps the accuracy" in page
    assert "is the highest at which" not in page


def test_the_split_oracle_of_answers_that_tell_nothing_gains_nothing() -> None:
    """All strategies are right half of the time, so the best of four answers is luck."""
    accuracy = np.random.default_rng(0).binomial(4, 0.5, (3, 3000)) / 4
    found, _ = split_oracle(accuracy, np.ones((3, 3000)), 4, 0)
    assert found.mean() == pytest.approx(0.5, abs=0.02)
    assert accuracy.max(0).mean() > 0.7


def test_a_choice_is_the_accuracy_minus_the_price_of_the_tokens() -> None:
    accuracy, tokens = np.array([[0.4], [0.7], [0.6]]), np.array([[0.2], [1.0], [0.5]])
    assert [int(choose(accuracy, tokens, price)[0]) for price in (0, 0.3, 2)] == [1, 2, 0]
