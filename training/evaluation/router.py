"""A router beside ways to choose a strategy that read no hidden state."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from training.common.metrics import (
    Floats,
    Interval,
    interval,
    resample_weights,
    smallest_difference,
)
from training.common.strategy_choice import (
    PREDICTORS,
    PRICES,
    Predictor,
    QuestionTexts,
    choose,
    split_oracle,
)
from training.evaluation.answers import ArmAnswers
from training.evaluation.laws import Difference


class StrategyChoice(NamedTuple):
    """A way to answer, on the questions that score."""

    name: str
    accuracy: Floats
    """Shape (questions,)."""
    tokens: Floats


class RoutedQuestions(NamedTuple):
    """One half of the questions and the answers by every strategy."""

    texts: Sequence[str]
    kinds: Sequence[str]
    accuracy: Floats
    """Shape (strategies, questions)."""
    tokens: Floats
    router: ArmAnswers
    chosen: np.ndarray[tuple[int], np.dtype[np.int64]]
    """Strategy that the router chose for every question."""


class RouterResult(NamedTuple):
    """The router and every control."""

    choices: dict[str, tuple[Interval, Interval]]
    """Accuracy and tokens by name."""
    differences: list[Difference]
    shares: dict[str, float]
    """How often the router chose each strategy."""
    raw: dict[str, StrategyChoice]


def routed_questions(
    texts: Sequence[str],
    kinds: Sequence[str],
    router: ArmAnswers,
    strategies: Mapping[str, ArmAnswers],
) -> RoutedQuestions:
    """Put the answers of the strategies side by side.

    Args:
        texts: The questions.
        kinds: Their kinds.
        router: What the server answered with the router in charge.
        strategies: Answers by the name of the strategy, in the order of their classes.
    """
    names = list(strategies)
    right = np.stack([arm.right for arm in strategies.values()])
    return RoutedQuestions(
        texts,
        kinds,
        right.mean(2),
        np.stack([arm.tokens.mean(1) for arm in strategies.values()]),
        router,
        np.array([names.index(label) if label in names else 1 for label in router.labels]),
    )


def measure_router(
    seen: RoutedQuestions, new: RoutedQuestions, names: Sequence[str], seed: int
) -> RouterResult:
    """Fit the controls on one half of the questions and score all on the other.

    A control that predicts accuracies chooses the strategy with the highest accuracy minus price
    times tokens. Its price is the one that takes as many tokens as the router on `seen`.
    """
    router = StrategyChoice(
        "router, as served", new.router.right.mean(1), new.router.tokens.mean(1)
    )
    shares = np.bincount(new.chosen, minlength=len(names)) / len(new.chosen)
    samples = new.router.right.shape[1]
    controls = [
        *(
            StrategyChoice(f"always {name}", new.accuracy[row], new.tokens[row])
            for row, name in enumerate(names)
        ),
        StrategyChoice("random at the same rates", shares @ new.accuracy, shares @ new.tokens),
        *(_predicted(name, guess, seen, new) for name, guess in PREDICTORS.items()),
        StrategyChoice("split oracle", *split_oracle(new.accuracy, new.tokens, samples, seed)),
    ]
    weights = resample_weights(len(new.texts), seed)
    everything = {choice.name: choice for choice in (router, *controls)}
    return RouterResult(
        {
            name: (
                interval(float(one.accuracy.mean()), weights @ one.accuracy),
                interval(float(one.tokens.mean()), weights @ one.tokens),
            )
            for name, one in everything.items()
        },
        [_difference(router, one, weights) for one in controls],
        {name: float(share) for name, share in zip(names, shares, strict=True)},
        everything,
    )


def _difference(router: StrategyChoice, control: StrategyChoice, weights: Floats) -> Difference:
    gain = router.accuracy - control.accuracy
    values = weights @ gain
    value = interval(float(gain.mean()), values)
    return Difference(control.name, "accuracy", value, smallest_difference(values))


def _predicted(
    name: str, guess: Predictor, seen: RoutedQuestions, new: RoutedQuestions
) -> StrategyChoice:
    """Choose by predicted accuracy and tokens, at a price that spends as much as the router."""
    wanted = float(seen.router.tokens.mean())
    scale = max(float(seen.tokens.mean()), 1.0)
    before, after = (QuestionTexts(part.texts, part.kinds) for part in (seen, new))

    def forecast(asked: QuestionTexts) -> tuple[Floats, Floats]:
        return guess(before, asked, seen.accuracy), guess(before, asked, seen.tokens) / scale

    known, rows = forecast(before), np.arange(len(seen.texts))
    spent = [seen.tokens[choose(*known, price), rows].mean() for price in PRICES]
    price = float(PRICES[int(np.abs(np.array(spent) - wanted).argmin())])
    chosen, rows = choose(*forecast(after), price), np.arange(len(new.texts))
    return StrategyChoice(name, new.accuracy[chosen, rows], new.tokens[chosen, rows])
