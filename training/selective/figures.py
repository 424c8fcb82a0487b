"""A confidence probe beside what a user could order answers by instead."""

from collections.abc import Mapping

import numpy as np
from sklearn.linear_model import LogisticRegression

from probes.selective.scores import SCORE_NAMES, uncertainty
from training.common.metrics import Floats, calibration_error, resample_weights
from training.common.report import markdown_table
from training.common.selective import ScoreFigures, compare_scores
from training.selective.fit import STATE, Feature, FitData, fit_probe, folds, probabilities
from training.selective.rows import GradedAnswer
from training.selective.self_report import P_TRUE, VERBALIZED

_SAID = {P_TRUE: "p(True)", VERBALIZED: "verbalized confidence"}
PROBE, REFERENCE, PROMPT = "probe", "logprob_mean", "state of the prompt"

_HEADER = (
    *("score", "AUROC", "minus `logprob_mean`", "surest 25, 50, 75 % right", "E-AURC"),
    *("ECE before", "ECE", "ECE by chance", "Brier"),
)


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
    if data.states is not None:
        estimates[PROMPT] = _alone(data, STATE, seed)
        doubts[PROMPT] = -estimates[PROMPT]
    for reported, label in _SAID.items():
        if all(reported in row.reports for row in rows):
            said = np.array([row.reports[reported] for row in rows])
            doubts[label], estimates[label] = -said, _curve(said, data, seed)
    doubts["question length"] = np.array([float(len(row.question)) for row in rows])
    doubts["kind of question"] = _by_kind(rows, data, seed)
    doubts["probe, shuffled"] = np.random.default_rng(seed).permutation(-probability)
    return _compared(doubts, estimates, wrong, weights)


def uncalibrated_errors(rows: list[GradedAnswer], data: FitData) -> dict[str, float]:
    """ECE of the scores that are a probability before any curve is fitted.

    Args:
        rows: The answers.
        data: The same as arrays.
    """
    known: dict[str, Floats] = {
        name: data.columns[name] if name == "collision_mean" else np.exp(data.columns[name])
        for name in data.columns
        if name.startswith("logprob") or name == "collision_mean"
    }
    for reported, label in _SAID.items():
        if all(reported in row.reports for row in rows):
            known[label] = np.array([row.reports[reported] for row in rows])
    return {name: calibration_error(values, data.right) for name, values in known.items()}


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
    values = data.columns[name]  # type: ignore[index]
    return np.array([uncertainty(name, value) for value in values.tolist()])  # type: ignore[arg-type]


def _alone(data: FitData, name: Feature, seed: int) -> Floats:
    """Probability from one feature, fitted on other questions."""
    found = np.zeros(len(data.right))
    for fitted, left_out in folds(data, seed + 1):
        probe = fit_probe(data.take(fitted), (name,), "platt", seed)
        found[left_out] = probabilities(probe, data.take(left_out))
    return found


def _curve(values: Floats, data: FitData, seed: int) -> Floats:
    """Probability from a logistic curve of one number, fitted on other questions."""
    found = np.zeros(len(data.right))
    for fitted, left_out in folds(data, seed + 1):
        curve = LogisticRegression(C=1e3).fit(values[fitted, None], data.right[fitted])
        found[left_out] = curve.predict_proba(values[left_out, None])[:, 1]
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


def figures_table(
    figures: dict[str, ScoreFigures], before: Mapping[str, float] | None = None
) -> str:
    """One line for each score, the best first.

    Args:
        figures: By score.
        before: From `uncalibrated_errors`; None leaves out the column.
    """
    ordered = sorted(figures.items(), key=lambda item: -item[1].auroc.value)
    header = [name for name in _HEADER if before is not None or name != "ECE before"]
    return markdown_table(header, (_line(name, one, before) for name, one in ordered))


def _line(name: str, one: ScoreFigures, before: Mapping[str, float] | None) -> list[str]:
    ahead = one.ahead
    raw = [] if before is None else [f"{before[name]:.3f}" if name in before else ""]
    return [
        f"`{name}`" if name in SCORE_NAMES else name,
        f"{one.auroc.value:.3f} ({one.auroc.low:.3f} to {one.auroc.high:.3f})",
        "" if ahead is None else f"{ahead.value:+.3f} ({ahead.low:+.3f} to {ahead.high:+.3f})",
        ", ".join(f"{share.value:.2f}" for share in one.accuracy),
        f"{one.excess_aurc:.3f}",
        *raw,
        "" if one.ece is None else f"{one.ece:.3f}",
        "" if one.chance_ece is None else f"{one.chance_ece:.3f}",
        "" if one.brier is None else f"{one.brier:.3f}",
    ]
