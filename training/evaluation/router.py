"""A router beside ways to choose a strategy that read no hidden state."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy.sparse import spmatrix
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import Ridge

from training.common.metrics import (
    Floats,
    Interval,
    interval,
    resample_weights,
    smallest_difference,
)
from training.evaluation.answers import ArmAnswers
from training.evaluation.laws import Difference

_PRIOR = 3.0
"""Questions that a kind counts at the mean of all, so that a rare kind is not trusted."""
_PRICES = np.concatenate([[0.0], np.geomspace(1e-3, 3.0, 40)])
"""Accuracy that a normal answer's worth of tokens may cost, tried in turn."""


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
    halves: Floats
    """Accuracy of even and of odd samples, shape (2, strategies, questions)."""
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
        np.stack([right[:, :, 0::2].mean(2), right[:, :, 1::2].mean(2)]),
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
    controls = [
        *(
            StrategyChoice(f"always {name}", new.accuracy[row], new.tokens[row])
            for row, name in enumerate(names)
        ),
        StrategyChoice("random at the same rates", shares @ new.accuracy, shares @ new.tokens),
        *(_predicted(name, guess, seen, new) for name, guess in _PREDICTORS.items()),
        _oracle(new),
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


Predictor = Callable[[RoutedQuestions, RoutedQuestions, Floats], Floats]
"""From seen and new questions and a figure of the seen ones, (strategies, questions), to the same
figure of the new ones."""


def _predicted(
    name: str, guess: Predictor, seen: RoutedQuestions, new: RoutedQuestions
) -> StrategyChoice:
    """Choose by predicted accuracy and tokens, at a price that spends as much as the router."""
    wanted = float(seen.router.tokens.mean())
    scale = max(float(seen.tokens.mean()), 1.0)
    accuracy, tokens = guess(seen, seen, seen.accuracy), guess(seen, seen, seen.tokens)
    rows = np.arange(len(seen.texts))
    spent = [
        seen.tokens[(accuracy - price * tokens / scale).argmax(0), rows].mean() for price in _PRICES
    ]
    price = _PRICES[int(np.abs(np.array(spent) - wanted).argmin())]
    worth = guess(seen, new, seen.accuracy) - price * guess(seen, new, seen.tokens) / scale
    chosen, rows = worth.argmax(0), np.arange(len(new.texts))
    return StrategyChoice(name, new.accuracy[chosen, rows], new.tokens[chosen, rows])


def _by_kind(seen: RoutedQuestions, new: RoutedQuestions, figure: Floats) -> Floats:
    mean = figure.mean(1)
    kinds = np.array(seen.kinds)
    table = {
        kind: (figure[:, kinds == kind].sum(1) + _PRIOR * mean) / ((kinds == kind).sum() + _PRIOR)
        for kind in set(seen.kinds)
    }
    return np.stack([table.get(kind, mean) for kind in new.kinds], 1)


def _by_words(seen: RoutedQuestions, new: RoutedQuestions, figure: Floats) -> Floats:
    words = TfidfVectorizer(sublinear_tf=True, token_pattern=r"\w+|\S").fit(seen.texts)
    return _ridge(words.transform(seen.texts), words.transform(new.texts), figure)


def _by_length(seen: RoutedQuestions, new: RoutedQuestions, figure: Floats) -> Floats:
    before, after = (np.log([[float(len(text))] for text in part.texts]) for part in (seen, new))
    return _ridge(before, after, figure)


def _ridge(before: "Floats | spmatrix", after: "Floats | spmatrix", figure: Floats) -> Floats:
    model = Ridge(alpha=1.0).fit(before, figure.T)
    return np.asarray(model.predict(after).T, dtype=np.float64)


_PREDICTORS: dict[str, Predictor] = {
    "table by kind of question": _by_kind,
    "TF-IDF of the question": _by_words,
    "length of the question": _by_length,
}


def _oracle(new: RoutedQuestions) -> StrategyChoice:
    """The best strategy of every question, chosen on half of its answers, scored on the others."""
    rows = np.arange(len(new.texts))
    accuracy, tokens = np.zeros(len(rows)), np.zeros(len(rows))
    for chooses, scores in ((0, 1), (1, 0)):
        worth = new.halves[chooses] - 1e-6 * new.tokens  # of equally good ones the cheapest
        chosen = worth.argmax(0)
        accuracy += new.halves[scores][chosen, rows] / 2
        tokens += new.tokens[chosen, rows] / 2
    return StrategyChoice("split oracle", accuracy, tokens)
