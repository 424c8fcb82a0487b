"""Fits a confidence probe; what is chosen is chosen by cross-validation grouped by question."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold

from probes.selective.confidence import Calibrator, ConfidenceProbe, ConfidenceSpec
from probes.selective.scores import ScoreName
from training.common.errors import TrainingError
from training.common.metrics import Floats

_FOLDS = 5


class ProbeChoice(NamedTuple):
    """Features and calibrator, with the cross-validated loss."""

    features: tuple[ScoreName, ...]
    calibrator: Calibrator
    loss: float
    """Mean negative log-likelihood of answers left out, nats."""


class FitData(NamedTuple):
    """Answers as arrays."""

    columns: dict[ScoreName, Floats]
    """Scores that all answers have."""
    right: Floats
    groups: Floats
    """Number of the question of every answer."""

    def take(self, chosen: Floats) -> "FitData":
        """Some of the answers."""
        columns = {name: values[chosen] for name, values in self.columns.items()}
        return FitData(columns, self.right[chosen], self.groups[chosen])

    def matrix(self, features: Sequence[ScoreName]) -> Floats:
        """Shape (answers, features)."""
        return np.stack([self.columns[name] for name in features], 1)


def folds(data: FitData, seed: int) -> list[tuple[Floats, Floats]]:
    """Rows to fit and rows left out; all answers to a question are on one side.

    Raises:
        TrainingError: There are too few questions.
    """
    if len(set(data.groups)) < 2 * _FOLDS:
        raise TrainingError(f"{2 * _FOLDS} different questions are needed for cross-validation")
    split = GroupKFold(_FOLDS, shuffle=True, random_state=seed)
    return list(split.split(data.right, groups=data.groups))


def candidates(
    data: FitData, sets: Sequence[tuple[ScoreName, ...]], seed: int
) -> list[ProbeChoice]:
    """Every set of features with both calibrators, the best first."""
    calibrators: tuple[Calibrator, ...] = ("platt", "isotonic")
    found = []
    for features in sets:
        for calibrator in calibrators:
            losses = []
            for fitted, left_out in folds(data, seed):
                probe = fit_probe(data.take(fitted), features, calibrator, seed)
                losses.append(_log_loss(probe, data.take(left_out)))
            found.append(ProbeChoice(features, calibrator, float(np.mean(losses))))
    return sorted(found, key=lambda choice: choice.loss)


def fit_probe(
    data: FitData,
    features: tuple[ScoreName, ...],
    calibrator: Calibrator,
    seed: int,
    temperature: float | None = None,
    window: int | None = None,
) -> ConfidenceProbe:
    """Weights from all answers; the curve from sums of answers that were left out of a fit.

    Raises:
        TrainingError: All answers are right, or all are wrong.
    """
    if data.right.min() == data.right.max():
        raise TrainingError("all answers are right, or all are wrong: nothing can be told apart")
    matrix = data.matrix(features)
    mean, scale = matrix.mean(0), matrix.std(0)
    scale = np.where(scale > 0, scale, 1.0)
    standard = (matrix - mean) / scale
    sums = np.zeros(len(matrix))
    for fitted, left_out in folds(data, seed):
        sums[left_out] = standard[left_out] @ _weights(standard[fitted], data.right[fitted])
    curve, knots = _curve(sums, data.right, calibrator)
    spec = ConfidenceSpec(
        features=features,
        calibrator=calibrator,
        knots=knots,
        rows=len(matrix),
        temperature=temperature,
        window=window,
    )
    weight = _weights(standard, data.right)
    return ConfidenceProbe(
        spec,
        mean.tolist(),
        scale.tolist(),
        weight.tolist(),
        curve,
        matrix.min(0).tolist(),
        matrix.max(0).tolist(),
    )


def _weights(standard: Floats, right: Floats) -> Floats:
    if right.min() == right.max():
        return np.zeros(standard.shape[1])
    found: Floats = LogisticRegression().fit(standard, right).coef_[0]
    return found


def _curve(sums: Floats, right: Floats, calibrator: Calibrator) -> tuple[list[float], int]:
    """The curve of `ConfidenceProbe`, and the number of its knots."""
    if calibrator == "platt":
        found = LogisticRegression(C=1e3).fit(sums[:, None], right)
        return [float(found.coef_[0, 0]), float(found.intercept_[0])], 0
    isotonic = IsotonicRegression().fit(sums, right)
    heights = isotonic.y_thresholds_.clip(0, 1)
    return [*isotonic.X_thresholds_.tolist(), *heights.tolist()], len(heights)


def probabilities(probe: ConfidenceProbe, data: FitData) -> Floats:
    """Of every answer."""
    rows = [
        dict(zip(probe.spec.features, values, strict=True))
        for values in data.matrix(probe.spec.features).tolist()
    ]
    return np.array([probe.probability(row) for row in rows])


def _log_loss(probe: ConfidenceProbe, data: FitData) -> float:
    found = probabilities(probe, data)
    return -float(np.log(np.where(data.right > 0, found, 1 - found)).mean())


def cross_fitted(
    data: FitData, sets: Sequence[tuple[ScoreName, ...]], seed: int
) -> tuple[Floats, list[ProbeChoice]]:
    """Probabilities of answers that neither chose nor fitted the probe, and each fold's choice."""
    found, chosen = np.zeros(len(data.right)), []
    for fitted, left_out in folds(data, seed + 1):
        part = data.take(fitted)
        best = candidates(part, sets, seed)[0]
        chosen.append(best)
        probe = fit_probe(part, best.features, best.calibrator, seed)
        found[left_out] = probabilities(probe, data.take(left_out))
    return found, chosen
