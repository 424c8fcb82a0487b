"""A confidence probe beside what a user could order answers by instead."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from training.common.metrics import (
    Floats,
    Interval,
    calibration_error,
    interval,
    resample_weights,
    smallest_difference,
)
from training.common.selective import accuracy_at_coverage, auroc, excess_aurc
from training.selective.fit import FitData, fit_probe, folds, probabilities
from training.selective.rows import GradedAnswer

PROBE, REFERENCE = "probe", "logprob_mean"
COVERAGES = (0.25, 0.5, 0.75)


class ScoreFigures(NamedTuple):
    """What one score says about wrong answers."""

    auroc: Interval
    ahead: Interval | None
    """AUROC minus that of `logprob_mean`; None for itself."""
    smallest: float
    """Smallest difference to it that so many questions could show."""
    accuracy: tuple[Interval, ...]
    """Of the surest 25, 50 and 75 % of the answers."""
    excess_aurc: float
    ece: float | None
    """Of the probability that the score alone gives, fitted on other questions."""
    brier: float | None


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
    return _figures(doubts, estimates, wrong, weights)


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
    return _figures(doubts, {PROBE: probability}, wrong, weights)


def _resampled(data: FitData, seed: int) -> tuple[Floats, Floats]:
    """Whether each answer is wrong, and its weight in every resample of the questions."""
    numbers = np.unique(data.groups, return_inverse=True)[1]
    by_question = resample_weights(int(numbers.max()) + 1, seed)
    return (1.0 - data.right)[:, None], by_question[:, numbers]


def _figures(
    doubts: Mapping[str, Floats], estimates: Mapping[str, Floats], wrong: Floats, weights: Floats
) -> dict[str, ScoreFigures]:
    once = np.full((1, len(wrong)), 1 / len(wrong))
    found, own, own_values = {}, 0.0, np.zeros(len(weights))
    for name, flat in doubts.items():
        doubt = flat[:, None]
        value, values = float(auroc(doubt, wrong, once)[0]), auroc(doubt, wrong, weights)
        if name == REFERENCE:
            own, own_values = value, values
        kept = ~np.isnan(values)
        gap = (values - own_values)[kept]
        estimate = estimates.get(name)
        found[name] = ScoreFigures(
            interval(value, values[kept]),
            None if name == REFERENCE else interval(value - own, gap),
            smallest_difference(gap),
            tuple(
                interval(
                    float(accuracy_at_coverage(doubt, wrong, coverage, once)[0]),
                    accuracy_at_coverage(doubt, wrong, coverage, weights),
                )
                for coverage in COVERAGES
            ),
            excess_aurc(flat, wrong[:, 0]),
            None if estimate is None else calibration_error(estimate, 1 - wrong[:, 0]),
            None if estimate is None else float(((estimate - 1 + wrong[:, 0]) ** 2).mean()),
        )
    return found


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
