"""Fit, calibrate and test a difficulty probe on features and labels."""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import ClassifierMixin
from sklearn.calibration import CalibratedClassifierCV
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_score, train_test_split
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from probes.difficulty.probe import Head
from probes.difficulty.strategies import Difficulty
from training.common.errors import TrainingError
from training.common.metrics import Floats, Interval
from training.difficulty.config import HeadKind
from training.difficulty.metrics import (
    Labels,
    accuracy,
    expected_calibration_error,
    macro_f1,
)

MIN_QUESTIONS = 50
"""Minimum number of questions: ten to calibrate on and ten to test on."""
MIN_PER_CLASS = 10
"""Minimum number of questions of a class: it is split to train, calibrate and test."""
MAX_FOLDS = 5
_MANY = 100
"""Questions from which on an MLP gets the usual batches, and a tenth of them stops it early."""
_REGULARISATIONS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
_UNITS = (64, 256)


class Data(NamedTuple):
    """Features and labels of the questions."""

    features: Floats
    """Shape (questions, hidden)."""
    labels: Labels
    """Values of `Difficulty`, shape (questions,)."""
    tasks: NDArray[np.str_]
    lengths: Labels
    """Tokens of the prompt."""

    def subset(self, chosen: Labels) -> "Data":
        """The questions with these indices."""
        features, labels, tasks, lengths = self
        return Data(features[chosen], labels[chosen], tasks[chosen], lengths[chosen])


class DifficultyFit(NamedTuple):
    """A probe and its figures on held-out questions."""

    head: Head
    name: str
    """Head chosen by cross-validation."""
    test: Labels
    """Indices of the held-out questions."""
    num_calibrated: int
    """Questions that the probabilities were calibrated on."""
    probabilities: Floats
    """Of these, shape (held out, 3)."""
    macro_f1: Interval
    accuracy: Interval
    calibration_error: float
    """Expected calibration error over ten bins."""
    uncalibrated_error: float
    brier: float


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
                "--beta and --gamma; the answers sampled so far are kept"
            )
    everyone = np.arange(len(data.labels))
    rest, test = train_test_split(everyone, test_size=0.2, stratify=data.labels, random_state=seed)
    name, model, calibrated = fit_head(data.subset(rest), kind, seed)
    held_out = data.subset(test)
    probabilities = calibrated.predict_proba(held_out.features)
    truth = held_out.labels
    guesses = probabilities.argmax(1)
    return DifficultyFit(
        head=export_head(calibrated),
        name=name,
        test=test,
        num_calibrated=len(rest) // 4 + (len(rest) % 4 > 0),
        probabilities=probabilities,
        macro_f1=macro_f1(truth, guesses, seed),
        accuracy=accuracy(truth, guesses, seed),
        calibration_error=expected_calibration_error(truth, probabilities),
        uncalibrated_error=expected_calibration_error(
            truth, model.predict_proba(held_out.features)
        ),
        brier=float(((probabilities - np.eye(3)[truth]) ** 2).sum(1).mean()),
    )


def fit_head(data: Data, kind: HeadKind, seed: int) -> tuple[str, Pipeline, CalibratedClassifierCV]:
    """Choose and fit a head on three quarters of the questions, calibrate it on the rest.

    Returns:
        What was chosen; the fitted head; the same with calibrated probabilities.
    """
    train, calibration = train_test_split(
        np.arange(len(data.labels)), test_size=0.25, stratify=data.labels, random_state=seed
    )
    name, model = select_head(data.subset(train), kind, seed)
    model.fit(data.features[train], data.labels[train])
    return name, model, calibrate(model, data.features[calibration], data.labels[calibration])


def stratified_folds(labels: Labels, seed: int) -> StratifiedKFold:
    """Five folds, or as many as the smallest class has questions."""
    present = np.bincount(labels)
    smallest = int(present[present > 0].min())
    return StratifiedKFold(max(2, min(MAX_FOLDS, smallest)), shuffle=True, random_state=seed)


def candidates(kind: HeadKind, seed: int, num_questions: int = 1000) -> dict[str, Pipeline]:
    """The heads to choose from, unfitted, by name.

    Args:
        kind: Which.
        seed: Of the MLP's weights.
        num_questions: To train on; few of them come in small batches and stop it with a fifth.
    """
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
                batch_size=64 if num_questions >= _MANY else 8,
                learning_rate_init=1e-3,
                max_iter=100,
                early_stopping=True,
                validation_fraction=0.1 if num_questions >= _MANY else 0.2,
                random_state=seed,
            ),
        )
        for units in _UNITS
    }
    return {"linear": linear, "mlp": mlp, "auto": linear | mlp}[kind]


def select_head(train: Data, kind: HeadKind, seed: int) -> tuple[str, Pipeline]:
    """The head with the best cross-validated macro-F1 on the training questions."""
    folds = stratified_folds(train.labels, seed)
    tried = candidates(kind, seed, len(train.labels))
    scores = {
        name: cross_val_score(
            model, train.features, train.labels, cv=folds, scoring="f1_macro"
        ).mean()
        for name, model in tried.items()
    }
    best = max(scores, key=lambda name: scores[name])
    return best, tried[best]


def calibrate(model: ClassifierMixin, features: Floats, labels: Labels) -> CalibratedClassifierCV:
    """Scale the scores of a fitted model by one temperature, learned on these questions."""
    # A frozen model predicts the same in every fold; two need the fewest questions of a class.
    calibrated = CalibratedClassifierCV(
        FrozenEstimator(model), method="temperature", cv=StratifiedKFold(2)
    )
    calibrated.fit(features, labels)
    return calibrated


def export_head(calibrated: CalibratedClassifierCV) -> Head:
    """Tensors that give the probabilities of the calibrated model without scikit-learn."""
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
