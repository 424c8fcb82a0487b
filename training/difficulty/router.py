"""Fits a router by worth: expected accuracy and tokens of every strategy from the hidden state."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import GroupKFold
from sklearn.preprocessing import StandardScaler

from probes.difficulty.probe import Head
from probes.difficulty.strategies import Difficulty, RouterSpec
from training.common.metrics import Floats, resample_weights
from training.common.strategy_choice import PRICES, Indices, choose

FOLDS = 5
TOLERANCE = 0.01
"""Accuracy that the lower bound at the default price may be below the strategy normal."""
_PENALTIES = np.geomspace(10.0, 10_000.0, 7)


class StrategyOutcomes(NamedTuple):
    """Answers to questions by every strategy, in the order of `Difficulty`."""

    states: Floats
    """Shape (questions, hidden)."""
    accuracy: Floats
    """Share of right answers, shape (3, questions)."""
    tokens: Floats
    """Mean length, likewise."""
    groups: Sequence[str]
    """Questions of a group are never split: equal texts, or a kind that is left out."""

    def subset(self, chosen: Indices) -> "StrategyOutcomes":
        """The questions with these numbers."""
        groups = [self.groups[i] for i in chosen.tolist()]
        return StrategyOutcomes(
            self.states[chosen], self.accuracy[:, chosen], self.tokens[:, chosen], groups
        )


class RouterFit(NamedTuple):
    """A fitted router; its tensors are for standardized states."""

    spec: RouterSpec
    mean: Floats
    scale: Floats
    weight: Floats
    """Shape (6, hidden): accuracy of each strategy, then its tokens over those of normal."""
    bias: Floats
    kept: Floats
    """1 or 0 for each strategy."""
    keeps_accuracy: bool
    """Whether the default price keeps the accuracy of the strategy normal on questions left out."""

    def forecast(self, states: Floats) -> tuple[Floats, Floats]:
        """Accuracy and relative tokens of every strategy, shape (3, questions) each."""
        found = (((states - self.mean) / self.scale) @ self.weight.T + self.bias).T
        return found[:3].clip(0, 1), found[3:].clip(0)

    def choose(self, states: Floats, price: float) -> Indices:
        """The strategy of every question at a price."""
        accuracy, tokens = self.forecast(states)
        return choose(np.where(self.kept[:, None] > 0, accuracy, -np.inf), tokens, price)


def with_router(head: Head, router: RouterFit) -> Head:
    """The head with the router's tensors, for states that the head standardizes."""
    mean, scale = head.mean.double().numpy(), head.scale.double().numpy()
    tensors = {
        "router_weight": router.weight * scale / router.scale,
        "router_bias": router.bias + router.weight @ ((mean - router.mean) / router.scale),
        "router_kept": router.kept,
    }
    return head._replace(**{key: torch.from_numpy(one).float() for key, one in tensors.items()})


def fit_router(seen: StrategyOutcomes, seed: int) -> RouterFit:
    """Fit the forecasts, the default price and which strategies are dropped.

    Price and strategies are chosen on forecasts of questions that were left out of a fit.

    Args:
        seen: Questions to learn from.
        seed: Of the folds and of the bootstrap.
    """
    unit = max(float(seen.tokens[Difficulty.NORMAL].mean()), 1.0)
    figures = np.concatenate([seen.accuracy, seen.tokens / unit])
    forecasts = np.zeros_like(figures)
    for one, rest in _folds(seen.groups, seed):
        mean, scale, weight, bias = _ridge(seen.states[one], figures[:, one])
        forecasts[:, rest] = (((seen.states[rest] - mean) / scale) @ weight.T + bias).T
    forecasts[:3], forecasts[3:] = forecasts[:3].clip(0, 1), forecasts[3:].clip(0)
    everything = np.ones(len(Difficulty))
    kept = _kept(forecasts, figures, _default_price(forecasts, figures, everything, seed) or 0.0)
    price = _default_price(forecasts, figures, kept, seed)
    dropped = tuple(one.word for one in Difficulty if not kept[one])
    spec = RouterSpec(price=price or 0.0, normal_tokens=unit, dropped=dropped)
    return RouterFit(spec, *_ridge(seen.states, figures), kept, price is not None)


def _folds(groups: Sequence[str], seed: int) -> Iterator[tuple[Indices, Indices]]:
    """Splits by group; by question where there is one group only."""
    number = len(set(groups))
    names = groups if number > 1 else [str(i) for i in range(len(groups))]
    splitter = GroupKFold(min(FOLDS, max(number, 2)), shuffle=True, random_state=seed)
    yield from splitter.split(names, groups=names)


def _ridge(states: Floats, figures: Floats) -> tuple[Floats, Floats, Floats, Floats]:
    """Mean and scale of the states, weight and bias of all figures."""
    scaler = StandardScaler().fit(states)
    model = RidgeCV(alphas=_PENALTIES, alpha_per_target=True).fit(
        scaler.transform(states), figures.T
    )
    return scaler.mean_, scaler.scale_, model.coef_, model.intercept_


def _routed(forecasts: Floats, figures: Floats, kept: Floats, price: float) -> tuple[Floats, ...]:
    """Accuracy and relative tokens of every question at a price."""
    accuracy = np.where(kept[:, None] > 0, forecasts[:3], -np.inf)
    chosen, rows = choose(accuracy, forecasts[3:], price), np.arange(figures.shape[1])
    return figures[chosen, rows], figures[3 + chosen, rows]


def _default_price(forecasts: Floats, figures: Floats, kept: Floats, seed: int) -> float | None:
    """The highest price that keeps the accuracy of the strategy normal, if there is one.

    It does if the mean is not below and the lower bound of its interval is at most `TOLERANCE`
    below.
    """
    weights = resample_weights(figures.shape[1], seed)
    best = None
    for price in PRICES:
        accuracy, _ = _routed(forecasts, figures, kept, float(price))
        gain = accuracy - figures[Difficulty.NORMAL]
        if gain.mean() >= 0 and np.quantile(weights @ gain, 0.025) >= -TOLERANCE:
            best = float(price)
    return best


def _kept(forecasts: Floats, figures: Floats, price: float) -> Floats:
    """1 for strategies that can be the best choice.

    A strategy is dropped if another one is right at least as often with at most as many tokens, and
    choosing without it is worth at least as much at the default price.
    """
    means, kept = figures.mean(1), np.ones(len(Difficulty))

    def worth(kept: Floats) -> float:
        accuracy, tokens = _routed(forecasts, figures, kept, price)
        return float((accuracy - price * tokens).mean())

    for one in Difficulty:
        others = [two for two in Difficulty if two != one and kept[two]]
        if any(means[two] >= means[one] and means[3 + two] <= means[3 + one] for two in others):
            without = kept.copy()
            without[one] = 0.0
            if worth(without) >= worth(kept):
                kept = without
    return kept
