"""Choices among strategies of answering, by predicted accuracy and tokens.

A choice takes the strategy with the highest accuracy minus price times tokens. The predictors here
read the text of a question or its kind, no hidden state: a router has to beat them.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import spmatrix
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import Ridge

from training.common.metrics import Floats

Indices = NDArray[np.int64]

_PRIOR = 3.0
"""Questions that a kind counts at the mean of all, so that a rare kind is not trusted."""
PRICES: Floats = np.concatenate([[0.0], np.geomspace(1e-3, 3.0, 40)])
"""Accuracy that a normal answer's worth of tokens may cost, tried in turn."""
_SHUFFLES = 50


class QuestionTexts(NamedTuple):
    """What can be known about questions without a model."""

    texts: Sequence[str]
    kinds: Sequence[str]

    def subset(self, chosen: Indices) -> "QuestionTexts":
        """The questions with these numbers."""
        return QuestionTexts(*([part[i] for i in chosen.tolist()] for part in self))


Predictor = Callable[[QuestionTexts, QuestionTexts, Floats], Floats]
"""From seen and new questions and a figure of the seen ones, (strategies, questions), to the same
figure of the new ones."""


def choose(accuracy: Floats, tokens: Floats, price: float) -> Indices:
    """The strategy of every question.

    Args:
        accuracy: Predicted, shape (strategies, questions).
        tokens: Likewise, over the mean length of a normal answer.
        price: Accuracy that a normal answer's worth of tokens may cost.
    """
    return np.asarray((accuracy - price * tokens).argmax(0), dtype=np.int64)


def _by_kind(seen: QuestionTexts, new: QuestionTexts, figure: Floats) -> Floats:
    mean = figure.mean(1)
    kinds = np.array(seen.kinds)
    table = {
        kind: (figure[:, kinds == kind].sum(1) + _PRIOR * mean) / ((kinds == kind).sum() + _PRIOR)
        for kind in set(seen.kinds)
    }
    return np.stack([table.get(kind, mean) for kind in new.kinds], 1)


def _by_words(seen: QuestionTexts, new: QuestionTexts, figure: Floats) -> Floats:
    words = TfidfVectorizer(sublinear_tf=True, token_pattern=r"\w+|\S").fit(seen.texts)
    return _ridge(words.transform(seen.texts), words.transform(new.texts), figure)


def _by_length(seen: QuestionTexts, new: QuestionTexts, figure: Floats) -> Floats:
    before, after = (np.log([[float(len(text))] for text in part.texts]) for part in (seen, new))
    return _ridge(before, after, figure)


def _ridge(before: "Floats | spmatrix", after: "Floats | spmatrix", figure: Floats) -> Floats:
    model = Ridge(alpha=1.0).fit(before, figure.T)
    return np.asarray(model.predict(after).T, dtype=np.float64)


PREDICTORS: dict[str, Predictor] = {
    "table by kind of question": _by_kind,
    "TF-IDF of the question": _by_words,
    "length of the question": _by_length,
}
"""By name."""


def split_oracle(
    accuracy: Floats, tokens: Floats, samples: int, seed: int
) -> tuple[Floats, Floats]:
    """The best strategy of every question, chosen on half of its answers and scored on the others.

    The order of a question's answers carries no information, so halves are drawn at random.

    Args:
        accuracy: Share of right answers, shape (strategies, questions).
        tokens: Mean length, likewise.
        samples: Answers to each question by each strategy.
        seed: Of the halves.

    Returns:
        Accuracy and tokens, shape (questions,).
    """
    chance = np.random.default_rng(seed)
    right = np.round(accuracy * samples).astype(np.int64)
    rows, half = np.arange(accuracy.shape[1]), samples // 2
    found, spent = np.zeros(len(rows)), np.zeros(len(rows))
    for _ in range(_SHUFFLES):
        drawn = chance.hypergeometric(right, samples - right, half)
        chosen = (drawn / half - 1e-6 * tokens).argmax(0)  # of equally good ones the cheapest
        rest = (right - drawn)[chosen, rows] / (samples - half)
        found += rest / _SHUFFLES
        spent += tokens[chosen, rows] / _SHUFFLES
    return found, spent
