"""Fits a confidence probe; what is chosen is chosen by cross-validation grouped by question."""

from collections.abc import Sequence
from typing import Final, Literal, NamedTuple

import numpy as np
import torch
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold

from probes.selective.confidence import Calibrator, ConfidenceProbe, ConfidenceSpec
from probes.selective.scores import SCORE_NAMES, Predicted, ScoreName
from probes.selective.state import PromptState
from training.common.errors import TrainingError
from training.common.metrics import Floats
from training.selective.prompt_state import (
    SHRINK,
    coordinates,
    fit_reader,
    state_spec,
    with_weight,
)
from training.selective.rows import GradedAnswers

FOLDS = 5
"""Of every cross-validation."""
STATE: Final = "prompt_state"
"""The feature that is not a score: the hidden state at the end of the prompt."""
Feature = ScoreName | Literal["prompt_state"]


class ProbeChoice(NamedTuple):
    """Features and calibrator, with the cross-validated loss."""

    features: tuple[Feature, ...]
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
    states: Floats | None = None
    """Hidden state at the end of the prompt of every question, shape (questions, hidden); None if
    they were not read."""

    def take(self, chosen: Floats) -> "FitData":
        """Some of the answers."""
        columns = {name: values[chosen] for name, values in self.columns.items()}
        return self._replace(columns=columns, right=self.right[chosen], groups=self.groups[chosen])

    def matrix(self, features: Sequence[ScoreName]) -> Floats:
        """Shape (answers, features)."""
        columns = [self.columns[name] for name in features]
        return np.stack(columns, 1) if columns else np.zeros((len(self.right), 0))

    @property
    def own_states(self) -> Floats:
        """States of the questions that have an answer, each once."""
        assert self.states is not None
        found: Floats = self.states[np.unique(self.groups).astype(int)]
        return found


def folds(data: FitData, seed: int) -> list[tuple[Floats, Floats]]:
    """Rows to fit and rows left out; all answers to a question are on one side.

    Raises:
        TrainingError: There are too few questions.
    """
    if len(set(data.groups)) < 2 * FOLDS:
        raise TrainingError(f"{2 * FOLDS} different questions are needed for cross-validation")
    split = GroupKFold(FOLDS, shuffle=True, random_state=seed)
    return list(split.split(data.right, groups=data.groups))


def candidates(data: FitData, sets: Sequence[tuple[Feature, ...]], seed: int) -> list[ProbeChoice]:
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
    data: FitData, features: tuple[Feature, ...], calibrator: Calibrator, seed: int
) -> ConfidenceProbe:
    """Weights from all answers; the curve from sums of answers that were left out of a fit.

    Raises:
        TrainingError: All answers are right, or all are wrong.
    """
    if data.right.min() == data.right.max():
        raise TrainingError("all answers are right, or all are wrong: nothing can be told apart")
    scores = tuple(name for name in SCORE_NAMES if name in features)
    matrix = data.matrix(scores)
    mean, scale = matrix.mean(0), matrix.std(0)
    scale = np.where(scale > 0, scale, 1.0)
    standard, reader, state = (matrix - mean) / scale, None, None
    if STATE in features:
        reader = fit_reader(data.own_states)
        found, distances = coordinates(reader, data.own_states)
        places = np.unique(data.groups, return_inverse=True)[1]
        standard = np.hstack([standard, SHRINK * found[places]])
        state = state_spec(reader, distances)
    sums = np.zeros(len(matrix))
    for fitted, left_out in folds(data, seed):
        sums[left_out] = standard[left_out] @ _weights(standard[fitted], data.right[fitted])
    curve, knots = _curve(sums, data.right, calibrator)
    spec = ConfidenceSpec(
        features=scores,
        calibrator=calibrator,
        knots=knots,
        rows=len(matrix),
        state=state,
    )
    weight = _weights(standard, data.right)
    return ConfidenceProbe(
        spec,
        mean.tolist(),
        scale.tolist(),
        weight[: len(scores)].tolist(),
        curve,
        matrix.min(0).tolist(),
        matrix.max(0).tolist(),
        None if reader is None else with_weight(reader, SHRINK * weight[len(scores) :]),
    )


def final_probe(
    data: FitData,
    choice: ProbeChoice,
    made: GradedAnswers,
    seed: int,
    predicts: Predicted = "probability",
) -> ConfidenceProbe:
    """The probe of an artifact. If states were read it flags prompts, whether it uses them or not.

    Args:
        data: All answers.
        choice: Features and calibrator.
        made: How the answers were made.
        seed: Of the folds.
        predicts: What `right` of the data is.
    """
    probe = fit_probe(data, choice.features, choice.calibrator, seed)
    reader, state = probe.reader, None
    if data.states is not None:
        reader = reader or fit_reader(data.own_states)
        state = state_spec(reader, left_out_distances(data, seed))
    own = {"temperature": made.temperature, "window": made.window}
    spec = probe.spec.model_copy(update={**own, "state": state, "predicts": predicts})
    return probe._replace(spec=spec, reader=reader)


def left_out_distances(data: FitData, seed: int) -> Floats:
    """Distance of every question to the others of a fold, shape (questions,)."""
    found = []
    for fitted, left_out in folds(data, seed):
        reader = fit_reader(data.take(fitted).own_states)
        found.append(coordinates(reader, data.take(left_out).own_states)[1])
    return np.concatenate(found)


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
    states: list[PromptState | None] = [None] * len(rows)
    if probe.reader is not None and data.states is not None:
        by_question = probe.reader.read(torch.from_numpy(data.states))
        read = by_question[data.groups.astype(int)].tolist()
        states = [PromptState(*values) for values in read]
    pairs = zip(rows, states, strict=True)
    return np.array([probe.probability(row, state) for row, state in pairs])


def _log_loss(probe: ConfidenceProbe, data: FitData) -> float:
    found = probabilities(probe, data)
    return -float(np.log(np.where(data.right > 0, found, 1 - found)).mean())


def cross_fitted(
    data: FitData, sets: Sequence[tuple[Feature, ...]], seed: int
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
