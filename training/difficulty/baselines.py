"""Comparison of a difficulty probe with baselines that do not see the model's hidden state.

A fifth of a few hundred questions is too few to distinguish a probe from the task of the question.
So in every repeat each question is classified by a probe that was chosen and trained without it,
and the differences to the baselines are measured on the same resampled questions.
"""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.compose import ColumnTransformer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from training.common.metrics import Interval
from training.common.report import MIN_POINTS
from training.difficulty.config import HeadKind
from training.difficulty.fit import MAX_FOLDS, Data, select_head, stratified_folds
from training.difficulty.metrics import Labels, difference, macro_f1

REPEATS = 3
TASK_FOLDS = 10
"""Maximum number of groups of held-out tasks."""

Split = tuple[Labels, Labels]
"""Indices of the training questions and of the held-out ones."""
Guess = Callable[[Data, Data], Labels]
"""Fits on the first and predicts the classes of the second."""


class Baseline(NamedTuple):
    """Macro-F1 of a baseline."""

    macro_f1: Interval
    difference: Interval
    """Macro-F1 of the probe minus that of the baseline."""


class FoldComparison(NamedTuple):
    """Macro-F1 over held-out questions."""

    probe: Interval
    baselines: dict[str, Baseline]
    guesses: Labels
    """Of the probe, shape (repeats, questions)."""
    truth: Labels


class BaselineComparison(NamedTuple):
    """Comparison over questions and over tasks."""

    questions: FoldComparison
    """Questions are held out; their kinds occur in training."""
    tasks: FoldComparison | None
    """Whole tasks are held out; None if none can be."""
    by_task: dict[str, tuple[float, float]]
    """Macro-F1 on each task left out, by the probe and by the majority class."""


def compare_with_baselines(
    data: Data, kind: HeadKind, seed: int, repeats: int = REPEATS
) -> BaselineComparison:
    """Compare the probe with every baseline, by cross-validation over questions and over tasks."""
    everyone = np.arange(len(data.labels))
    folds = [
        list(stratified_folds(data.labels, n).split(everyone, data.labels))
        for n in range(seed, seed + repeats)
    ]
    baselines = _baselines(seed)
    questions = _compare(data, folds, kind, baselines, seed)
    left_out = _tasks_left_out(data, seed)
    if not left_out:
        return BaselineComparison(questions, None, {})
    guessed = np.concatenate([test for _, test in left_out])
    unseen = {name: guess for name, guess in baselines.items() if _TASK not in name}
    tasks = _compare(data, [left_out], kind, unseen, seed, guessed)
    return BaselineComparison(questions, tasks, _by_task(data, left_out, tasks, guessed))


def _compare(
    data: Data,
    repeats: list[list[Split]],
    kind: HeadKind,
    baselines: dict[str, Guess],
    seed: int,
    among: Labels | None = None,
) -> FoldComparison:
    """Every baseline beside the probe over the questions `among`; None is all of them."""
    chosen = np.arange(len(data.labels)) if among is None else among

    def everywhere(guess: Guess) -> Labels:
        return np.stack([_out_of_fold(data, splits, guess)[chosen] for splits in repeats])

    def probe(seen: Data, new: Data) -> Labels:
        _, model = select_head(seen, kind, seed)
        return _predict(model, seen.features, seen.labels, new.features)

    truth, own = data.labels[chosen], everywhere(probe)
    found = {}
    for name, guess in baselines.items():
        other = everywhere(guess)
        found[name] = Baseline(macro_f1(truth, other, seed), difference(truth, own, other, seed))
    return FoldComparison(macro_f1(truth, own, seed), found, own, truth)


def _out_of_fold(data: Data, splits: Iterable[Split], guess: Guess) -> Labels:
    guesses = np.zeros_like(data.labels)
    for seen, new in splits:
        guesses[new] = guess(data.subset(seen), data.subset(new))
    return guesses


def _predict(model: Pipeline, seen: Any, labels: Labels, new: Any) -> Labels:
    return cast(Labels, clone(model).fit(seen, labels).predict(new))


_TASK = "task of the question"


def _baselines(seed: int) -> dict[str, Guess]:
    logistic = LogisticRegression(class_weight="balanced", max_iter=2000)
    by_name = OneHotEncoder(handle_unknown="ignore")
    by_length = make_pipeline(StandardScaler(), logistic)
    by_task = make_pipeline(by_name, logistic)
    by_both = make_pipeline(
        ColumnTransformer([("task", by_name, [0]), ("length", StandardScaler(), [1])]),
        logistic,
    )
    by_state = make_pipeline(StandardScaler(), LogisticRegression(C=1e-2, class_weight="balanced"))
    chance = np.random.default_rng(seed)
    return {
        "majority class": lambda seen, new: np.full_like(
            new.labels, np.bincount(seen.labels).argmax()
        ),
        "length of the prompt": lambda seen, new: _predict(
            by_length, seen.lengths[:, None], seen.labels, new.lengths[:, None]
        ),
        _TASK: lambda seen, new: _predict(
            by_task, seen.tasks[:, None], seen.labels, new.tasks[:, None]
        ),
        f"{_TASK} and length": lambda seen, new: _predict(
            by_both, _task_and_length(seen), seen.labels, _task_and_length(new)
        ),
        "the state with shuffled labels": lambda seen, new: _predict(
            by_state, seen.features, chance.permutation(seen.labels), new.features
        ),
    }


def _task_and_length(data: Data) -> NDArray[np.object_]:
    return np.column_stack([data.tasks.astype(object), data.lengths])


def _tasks_left_out(data: Data, seed: int) -> list[Split]:
    """Splits that leave out whole tasks, as far as all classes can be learned without them."""
    number = min(TASK_FOLDS, len(set(data.tasks.tolist())))
    if number < 2:
        return []
    folds = GroupKFold(number, shuffle=True, random_state=seed)
    return [
        (seen, new)
        for seen, new in folds.split(data.features, groups=data.tasks)
        if np.bincount(data.labels[seen], minlength=3).min() >= MAX_FOLDS
    ]


def _by_task(
    data: Data, splits: list[Split], compared: FoldComparison, guessed: Labels
) -> dict[str, tuple[float, float]]:
    result = {}
    for seen, new in splits:
        commonest = np.bincount(data.labels[seen]).argmax()
        for task in sorted(set(data.tasks[new].tolist())):
            own = data.tasks[guessed] == task
            if own.sum() < MIN_POINTS:
                continue
            truth, guesses = compared.truth[own], compared.guesses[0][own]
            majority = np.full_like(truth, commonest)
            result[task] = (macro_f1(truth, guesses, 0).value, macro_f1(truth, majority, 0).value)
    return dict(sorted(result.items()))
