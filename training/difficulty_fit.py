"""From features and labels to a calibrated difficulty probe, and to what it is worth."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import ClassifierMixin, clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_score, train_test_split
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from probes.difficulty import Head
from probes.strategies import Difficulty
from training.errors import TrainingError

HeadKind = Literal["auto", "linear", "mlp"]
MIN_PER_CLASS = 10
"""Fewer questions of a class cannot be split three ways."""
_PERMUTATIONS = 20
_RESAMPLES = 2000
_BINS = 10
_REGULARISATIONS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
_UNITS = (64, 256)

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]


class Interval(NamedTuple):
    """A figure and its 95 % bootstrap interval over questions."""

    value: float
    low: float
    high: float


class Data(NamedTuple):
    """What is known about every question."""

    features: Floats
    """Shape (questions, hidden)."""
    labels: Labels
    """Values of `Difficulty`, shape (questions,)."""
    tasks: NDArray[np.str_]
    lengths: Labels
    """Tokens of the prompt."""

    def take(self, chosen: Labels) -> "Data":
        """The questions with these numbers."""
        features, labels, tasks, lengths = self
        return Data(features[chosen], labels[chosen], tasks[chosen], lengths[chosen])


class DifficultyFit(NamedTuple):
    """A probe and its figures on questions that it has not seen."""

    head: Head
    name: str
    """Which head won the cross-validation."""
    test: Labels
    """Numbers of the held-out questions."""
    probabilities: Floats
    """Of these, shape (held out, 3)."""
    macro_f1: Interval
    accuracy: Interval
    calibration_error: float
    """Expected calibration error over ten bins."""
    uncalibrated_error: float
    brier: float
    baselines: dict[str, Interval]
    """Macro-F1 without the model's state."""
    held_out_tasks: dict[str, tuple[float, float]]
    """Macro-F1 on each task by a probe that was trained without it, and by the majority class."""


def fit_difficulty(data: Data, kind: HeadKind, seed: int) -> DifficultyFit:
    """Fit on three fifths of the questions, calibrate on one, test on one.

    Raises:
        TrainingError: A class has too few questions; names it.
    """
    counts = np.bincount(data.labels, minlength=3)
    for difficulty in Difficulty:
        if counts[difficulty] < MIN_PER_CLASS:
            raise TrainingError(
                f"{counts[difficulty]} of {len(data.labels)} questions are {difficulty.word}, "
                f"{MIN_PER_CLASS} are needed: take more or other questions, or set --alpha, "
                "--beta and --gamma"
            )
    everyone = np.arange(len(data.labels))
    rest, test = train_test_split(everyone, test_size=0.2, stratify=data.labels, random_state=seed)
    train, calibration = train_test_split(
        rest, test_size=0.25, stratify=data.labels[rest], random_state=seed
    )
    name, model = _select(data.take(train), kind, seed)
    model.fit(data.features[train], data.labels[train])
    calibrated = calibrate(model, data.features[calibration], data.labels[calibration])
    held_out = data.take(test)
    probabilities = calibrated.predict_proba(held_out.features)
    truth = held_out.labels
    guesses = probabilities.argmax(1)
    return DifficultyFit(
        head=export(calibrated),
        name=name,
        test=test,
        probabilities=probabilities,
        macro_f1=macro_f1(truth, guesses, seed),
        accuracy=_bootstrap(truth, guesses, _accuracy, seed),
        calibration_error=expected_calibration_error(truth, probabilities),
        uncalibrated_error=expected_calibration_error(
            truth, model.predict_proba(held_out.features)
        ),
        brier=float(((probabilities - np.eye(3)[truth]) ** 2).sum(1).mean()),
        baselines=_baselines(data.take(train), held_out, model, seed),
        held_out_tasks=_held_out_tasks(data, model),
    )


def _candidates(kind: HeadKind, seed: int) -> dict[str, Pipeline]:
    linear = {
        f"linear, C = {c:g}": make_pipeline(
            StandardScaler(), LogisticRegression(C=c, class_weight="balanced", max_iter=2000)
        )
        for c in _REGULARISATIONS
    }
    # The paper's head; early stopping and the penalty are ours, its own are not published.
    mlp = {
        f"mlp, {units} units": make_pipeline(
            StandardScaler(),
            MLPClassifier(
                (units,),
                alpha=1.0,
                batch_size=64,
                learning_rate_init=1e-3,
                max_iter=100,
                early_stopping=True,
                random_state=seed,
            ),
        )
        for units in _UNITS
    }
    return {"linear": linear, "mlp": mlp, "auto": linear | mlp}[kind]


def _select(train: Data, kind: HeadKind, seed: int) -> tuple[str, Pipeline]:
    """The head with the best cross-validated macro-F1 on the training questions."""
    folds = StratifiedKFold(5, shuffle=True, random_state=seed)
    candidates = _candidates(kind, seed)
    scores = {
        name: cross_val_score(
            model, train.features, train.labels, cv=folds, scoring="f1_macro"
        ).mean()
        for name, model in candidates.items()
    }
    best = max(scores, key=lambda name: scores[name])
    return best, candidates[best]


def calibrate(model: ClassifierMixin, features: Floats, labels: Labels) -> CalibratedClassifierCV:
    """Scale the scores of a fitted model by one temperature, learnt on these questions."""
    calibrated = CalibratedClassifierCV(FrozenEstimator(model), method="temperature")
    calibrated.fit(features, labels)
    return calibrated


def export(calibrated: CalibratedClassifierCV) -> Head:
    """The tensors of what `calibrate` gave: the same probabilities without scikit-learn."""
    (member,) = calibrated.calibrated_classifiers_
    (scaling,) = member.calibrators
    scaler, model = member.estimator.estimator
    if isinstance(model, MLPClassifier):
        (first, second), (first_bias, second_bias) = model.coefs_, model.intercepts_
        hidden = {"hidden_weight": first.T, "hidden_bias": first_bias}
        output = {"weight": second.T, "bias": second_bias}
    else:
        hidden, output = {}, {"weight": model.coef_, "bias": model.intercept_}
    parts = {"mean": scaler.mean_, "scale": scaler.scale_, **output, **hidden}
    parts["temperature"] = np.asarray(1 / scaling.beta_)
    return Head(
        **{
            key: torch.from_numpy(np.ascontiguousarray(part, dtype=np.float32)).reshape(part.shape)
            for key, part in parts.items()
        }
    )


def macro_f1(truth: Labels, guesses: Labels, seed: int) -> Interval:
    """Mean of the classes' F1; a class that neither holds counts as 0, as in scikit-learn."""
    return _bootstrap(truth, guesses, _macro_f1, seed)


def _macro_f1(confusion: Floats) -> Floats:
    hits = np.diagonal(confusion, axis1=-2, axis2=-1)
    both = confusion.sum(-1) + confusion.sum(-2)
    return cast(Floats, (2 * hits / np.maximum(both, 1)).mean(-1))


def _accuracy(confusion: Floats) -> Floats:
    return cast(Floats, np.trace(confusion, axis1=-2, axis2=-1) / confusion.sum((-2, -1)))


def _bootstrap(
    truth: Labels, guesses: Labels, figure: Callable[[Floats], Floats], seed: int
) -> Interval:
    """A figure of the confusion matrix; scikit-learn's take a millisecond for each resample."""
    cells = np.eye(9)[3 * truth + guesses]  # one row a question
    chance = np.random.default_rng(seed)
    weights = chance.multinomial(len(truth), np.full(len(truth), 1 / len(truth)), _RESAMPLES)
    values = figure((weights @ cells).reshape(-1, 3, 3))
    low, high = np.quantile(values, (0.025, 0.975))
    return Interval(float(figure(cells.sum(0).reshape(3, 3))), float(low), float(high))


def _score(truth: Labels, guesses: Labels) -> float:
    return float(_macro_f1(np.eye(9)[3 * truth + guesses].sum(0).reshape(3, 3)))


def expected_calibration_error(truth: Labels, probabilities: Floats) -> float:
    """Mean gap between confidence and accuracy of the likeliest class, weighted by bin size.

    Args:
        truth: Shape (questions,).
        probabilities: Shape (questions, classes).
    """
    return sum(
        weight * abs(confidence - right)
        for weight, confidence, right in reliability(truth, probabilities)
    )


def reliability(truth: Labels, probabilities: Floats) -> list[tuple[float, float, float]]:
    """Share of the questions, mean confidence and accuracy of every bin that is not empty."""
    confidence, right = probabilities.max(1), probabilities.argmax(1) == truth
    bins = np.minimum((confidence * _BINS).astype(int), _BINS - 1)
    return [
        (
            float((bins == b).mean()),
            float(confidence[bins == b].mean()),
            float(right[bins == b].mean()),
        )
        for b in np.unique(bins)
    ]


def _baselines(train: Data, test: Data, model: Pipeline, seed: int) -> dict[str, Interval]:
    """What can be had without the model's state, and with it but without the labels."""
    majority = np.full_like(test.labels, np.bincount(train.labels).argmax())
    logistic = LogisticRegression(class_weight="balanced", max_iter=2000)

    def simple(before: Any, seen: Any, new: Any) -> Interval:
        fitted = make_pipeline(before, clone(logistic)).fit(seen, train.labels)
        return macro_f1(test.labels, fitted.predict(new), seed)

    chance = np.random.default_rng(seed)
    shuffled = [
        _score(
            test.labels,
            clone(model)
            .fit(train.features, chance.permutation(train.labels))
            .predict(test.features),
        )
        for _ in range(_PERMUTATIONS)
    ]
    return {
        "majority class": macro_f1(test.labels, majority, seed),
        "length of the prompt": simple(
            StandardScaler(), train.lengths[:, None], test.lengths[:, None]
        ),
        "task of the question": simple(
            OneHotEncoder(handle_unknown="ignore"), train.tasks[:, None], test.tasks[:, None]
        ),
        f"shuffled labels, {_PERMUTATIONS} times": Interval(
            float(np.mean(shuffled)), *np.quantile(shuffled, (0.025, 0.975)).tolist()
        ),
    }


def _held_out_tasks(data: Data, model: Pipeline) -> dict[str, tuple[float, float]]:
    """A probe that only recognises the task fails on a task that it never saw."""
    result = {}
    for task in sorted(set(data.tasks.tolist())):
        inside = data.tasks == task
        seen, own = data.labels[~inside], data.labels[inside]
        if len(np.unique(seen)) < 3 or len(np.unique(own)) < 2:
            continue
        fitted = clone(model).fit(data.features[~inside], seen)
        guesses = cast(Labels, fitted.predict(data.features[inside]))
        majority = np.full_like(own, np.bincount(seen).argmax())
        result[task] = (_score(own, guesses), _score(own, majority))
    return result
