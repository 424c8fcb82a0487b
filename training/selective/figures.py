"""A confidence probe beside what a user could order answers by instead."""

import numpy as np

from training.common.metrics import Floats, resample_weights
from training.common.selective import ScoreFigures, compare_scores
from training.selective.fit import FitData, fit_probe, folds, probabilities
from training.selective.rows import GradedAnswer

PROBE, REFERENCE = "probe", "logprob_mean"


def compare(
    rows: list[GradedAnswer], data: FitData, probability: Floats, seed: int
) -> dict[str, ScoreFigures]:
    """Every score against the answers; of fitted ones on questions that were left out.

    Args:
        rows: The answers.
        data: The same as arrays.
        probability: Of the probe, cross-fitted.
        seed: Of resamples, permutation and folds.
    """
    wrong, weights = _resampled(data, seed)
    doubts: dict[str, Floats] = {REFERENCE: -data.columns["logprob_mean"], PROBE: -probability}
    estimates: dict[str, Floats] = {PROBE: probability}
    for name in data.columns:
        alone = _alone(data, name, seed)
        estimates[name] = alone
        doubts.setdefault(name, _turned(data, name))
    doubts["question length"] = np.array([float(len(row.question)) for row in rows])
    doubts["kind of question"] = _by_kind(rows, data, seed)
    doubts["probe, shuffled"] = np.random.default_rng(seed).permutation(-probability)
    return _compared(doubts, estimates, wrong, weights)


def compare_elsewhere(data: FitData, probability: Floats, seed: int) -> dict[str, ScoreFigures]:
    """A finished probe and single scores on answers that it was not fitted to.

    Args:
        data: The answers.
        probability: Of the probe.
        seed: Of the resamples.
    """
    wrong, weights = _resampled(data, seed)
    doubts: dict[str, Floats] = {REFERENCE: -data.columns["logprob_mean"], PROBE: -probability}
    for name in data.columns:
        doubts.setdefault(name, _turned(data, name))
    return _compared(doubts, {PROBE: probability}, wrong, weights)


def _resampled(data: FitData, seed: int) -> tuple[Floats, Floats]:
    """Whether each answer is wrong, and its weight in every resample of the questions."""
    numbers = np.unique(data.groups, return_inverse=True)[1]
    by_question = resample_weights(int(numbers.max()) + 1, seed)
    return (1.0 - data.right)[:, None], by_question[:, numbers]


def _compared(
    doubts: dict[str, Floats], estimates: dict[str, Floats], wrong: Floats, weights: Floats
) -> dict[str, ScoreFigures]:
    columns = {name: doubt[:, None] for name, doubt in doubts.items()}
    return compare_scores(columns, REFERENCE, estimates, wrong, weights)


def _turned(data: FitData, name: str) -> Floats:
    from probes.selective.scores import uncertainty

    values = data.columns[name]  # type: ignore[index]
    return np.array([uncertainty(name, value) for value in values.tolist()])  # type: ignore[arg-type]


def _alone(data: FitData, name: str, seed: int) -> Floats:
    """Probability from one score, fitted on other questions."""
    found = np.zeros(len(data.right))
    for fitted, left_out in folds(data, seed + 1):
        probe = fit_probe(data.take(fitted), (name,), "platt", seed)  # type: ignore[arg-type]
        found[left_out] = probabilities(probe, data.take(left_out))
    return found


def _by_kind(rows: list[GradedAnswer], data: FitData, seed: int) -> Floats:
    """Error rate of the kind among other questions; a kind not seen gets the mean."""
    kinds = np.array([row.kind for row in rows])
    found = np.zeros(len(rows))
    for fitted, left_out in folds(data, seed + 1):
        for kind in set(kinds[left_out]):
            same = fitted[kinds[fitted] == kind]
            seen = same if len(same) else fitted
            found[left_out[kinds[left_out] == kind]] = 1 - data.right[seen].mean()
    return found
