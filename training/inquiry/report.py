"""Report of an inquiry calibration: coverage, accuracy and set sizes."""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor

from probes.artifact import Artifact
from probes.conformal import Calibration, Coverage
from probes.inquiry.task import Task
from training.common.report import MIN_POINTS, markdown_table, provenance, write_page
from training.inquiry.fit import LabelSplit, SimulatedGames


class InquiryResult(NamedTuple):
    """Contents of the report."""

    task: Task
    split: LabelSplit
    table: Tensor
    """Log-likelihoods, nats, shape (K, Q)."""
    calibration: Calibration
    fresh: dict[int, Coverage]
    """On new random histories, by length."""
    curves: list[SimulatedGames]
    """Simulated games about labels that were not fitted."""
    command: str


def separation(table: Tensor, answers: Tensor) -> float:
    """Mean over the questions of the AUC of a statement's likelihood for the answer yes.

    Args:
        table: Log-likelihoods, nats, shape (K, Q).
        answers: Known answers, shape (K, Q).
    """
    found = []
    for column in range(table.shape[1]):
        yes = table[answers[:, column] == 1, column]
        no = table[answers[:, column] == 0, column]
        if len(yes) and len(no):
            truth = torch.cat([torch.ones(len(yes)), torch.zeros(len(no))])
            found.append(float(roc_auc_score(truth.numpy(), torch.cat([yes, no]).numpy())))
    return sum(found) / len(found) if found else 0.5


def pool_lengths(coverage: Iterable[Coverage]) -> Coverage:
    """All lengths together; their sets are not independent within one game."""
    parts = list(coverage)
    return Coverage(sum(one.num_sets for one in parts), sum(one.num_covered for one in parts))


def metrics(facts: InquiryResult) -> dict[str, float | int]:
    """Metrics for the manifest."""
    last = len(facts.calibration.thresholds) - 1
    found: dict[str, float | int] = {
        "auc": separation(facts.table, facts.task.answer_table()),
        "confidence_level": facts.calibration.confidence_level,
        "coverage_random_histories": pool_lengths(facts.fresh.values()).rate,
        "num_games": len(facts.curves[0].games),
    }
    for curve in facts.curves:
        found[f"coverage_{curve.name}"] = pool_lengths(curve.coverage().values()).rate
        found[f"accuracy_{curve.name}_{last}"] = curve.accuracy(last)
    return {key: round(value, 4) for key, value in found.items()}


def write_report(facts: InquiryResult, artifact: Artifact, folder: Path) -> Path:
    """Write `inquiry.md`; returns its path."""
    return write_page(folder, "inquiry", _page(facts, artifact))


def _page(facts: InquiryResult, artifact: Artifact) -> str:
    task, calibration = facts.task, facts.calibration
    answers = task.answer_table()
    held_out = ", ".join(task.names[label] for label in facts.split.calibrated)
    known = int((~answers.isnan()).sum())
    return f"""# Inquiry calibration `{artifact.id}`

{provenance(artifact.manifest, facts.command)}

{len(task.labels)} labels, {len(task.queries)} questions, {known} of {answers.numel()} answers
known.
A statement's log-likelihood tells yes from no with an AUC of
{separation(facts.table, answers):.3f} per question (0.5 is chance). Answers of half of the labels
taught the predictor; {calibration.num_samples} random histories of each length about the other
{len(facts.split.calibrated)} labels calibrate it, and everything below is about them: {held_out}.

## Coverage at level {calibration.confidence_level}

Share of prediction sets that hold the true label, with 95 % intervals: on new random histories, for
which the promise holds (from {calibration.confidence_level} to
{calibration.confidence_level + 1 / (calibration.num_samples + 1):.3f} but for chance), and on the
histories of {len(facts.curves[0].games)} games in which a rule chose the questions, for which
nothing is promised. Games about the same label are much alike, so their intervals are those of
{len(facts.split.calibrated)} games, one for each label.

{_coverage_table(facts)}

## Accuracy and set size by questions asked

{_curve_table(facts)}
"""


def _coverage_table(facts: InquiryResult) -> str:
    columns: list[tuple[dict[int, Coverage], int | None]] = [(facts.fresh, None)]
    columns += [(curve.coverage(), len(facts.split.calibrated)) for curve in facts.curves]
    names = ["random histories", *(f"{curve.name} games" for curve in facts.curves)]
    rows = [
        (str(length), *(_interval(found.get(length, Coverage(0, 0)), n) for found, n in columns))
        for length in range(len(facts.calibration.thresholds))
    ]
    return markdown_table(("answers", *names), rows)


def _interval(found: Coverage, independent: int | None) -> str:
    low, high = found.interval(independent=independent)
    return f"{found.rate:.3f} ({low:.3f} to {high:.3f})" if found.num_sets >= MIN_POINTS else "-"


def _curve_table(facts: InquiryResult) -> str:
    names = [curve.name for curve in facts.curves]
    rows = [
        (
            str(count),
            *(f"{one.accuracy(count):.2f}, set {one.size(count):.1f}" for one in facts.curves),
        )
        for count in range(len(facts.calibration.thresholds))
    ]
    return markdown_table(("questions", *names), rows)
