"""The page of a decision calibration: quality, coverage, and how sure is how right."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from probes.artifact import Artifact
from probes.decisions.calibration import QuestionCalibration, TooFewRows, scaled
from probes.decisions.question import DecisionQuestion, Read
from probes.decisions.scores import OptionLogprobs, probabilities
from training.common.metrics import reliability, resample_weights
from training.common.report import markdown_table, provenance, write_page
from training.decisions.fit import (
    ReadCandidate,
    RowSplit,
    candidates,
    evidence_of,
    fit_scaling,
)
from training.decisions.metrics import (
    Quality,
    class_coverage,
    letters_formula,
    order_distance,
    quality,
    risk_at,
    set_figures,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_LEVELS = (0.8, 0.9, 0.95)
_SHARES = (0.25, 0.5, 0.75, 1.0)


class QuestionResult(NamedTuple):
    """One calibrated question and its rows."""

    name: str
    question: DecisionQuestion
    found: list[OptionLogprobs]
    labels: Tensor
    """Index of the right option of each row."""
    split: RowSplit
    ways: list[ReadCandidate]
    """The chosen way to read it first."""
    calibration: QuestionCalibration

    def scaled(self, rows: Tensor) -> Tensor:
        """Calibrated probabilities of some rows."""
        evidence = evidence_of([self.found[one] for one in rows.tolist()], self.ways[0].settings)
        return self.calibration.scaled(evidence)

    def tested(self) -> Quality:
        """Quality on the held-out rows."""
        return quality(self.scaled(self.split.held_out), self.labels[self.split.held_out])


def metrics(results: list[QuestionResult]) -> dict[str, float | int]:
    """Metrics for the manifest, for each question."""
    kept: dict[str, float | int] = {}
    for place, one in enumerate(results):
        found = one.tested()
        kept[f"{place}.rows"] = len(one.labels)
        kept |= {f"{place}.{key}": round(value, 4) for key, value in found._asdict().items()}
    return kept


def write_report(
    results: list[QuestionResult],
    artifact: Artifact,
    level: float,
    command: str,
    folder: Path,
    splits: int = 1000,
) -> Path:
    """Write `decisions.md` and `decisions.png`; returns the page.

    Args:
        results: One for each question.
        artifact: What was made.
        level: Confidence level of the coverage by value.
        command: The command line.
        folder: Where to.
        splits: Random halves that coverage is measured on.
    """
    parts = [f"# Decision calibration `{artifact.id}`\n", provenance(artifact.manifest, command)]
    parts += [_section(one, level, splits) for one in results]
    figure = _figure(results)
    parts.append("![Accuracy by confidence on held-out rows](decisions.png)\n")
    return write_page(folder, "decisions", "\n".join(parts), figure)


def _section(one: QuestionResult, level: float, splits: int) -> str:
    split = one.split
    sizes = ", ".join(
        f"{len(part)} {what}"
        for part, what in zip(split, ("to fit", "to calibrate", "held out"), strict=True)
    )
    best = one.ways[0]
    return f"""
## {one.name}

{one.question.instructions} ({one.question.kind}, {len(one.question.options)} options;
{len(one.labels)} rows: {sizes})

Chosen by cross-validation on the rows to fit: {_way(best)}.

### Probabilities on the held-out rows

ECE has ten bins; "by chance" is what a confidence that is exactly right would show on so few rows.
The Brier score sums over the options. "vLLM's letters" is the softmax over the letters in the given
order, with the confidence times label mass for the ECE.

{_qualities(one)}

Each way to read, calibrated on the same rows to fit, with its best prior and scaling there. The
last column is the accuracy of the chosen way minus this one, with a 95 % paired bootstrap interval:

{_reads(one)}

### Prediction sets

{splits:,} random halves of the {len(split.calibrated) + len(split.held_out)} rows that were not
fitted: one half calibrates, the other is tested. "Kept" is the share of halves whose coverage is
not lower than chance allows a calibration that keeps its level (at 99.5 %). "Risk" is the share of
wrong answers among sets of one value.

{_sets(one, splits)}

Coverage by right value at level {level} on the held-out rows, with 95 % intervals:

{_classes(one, level)}

### Wrong answers among the most confident rows

{_risks(one)}

### Order of the options

{_orders(one)}
"""


def _way(way: ReadCandidate) -> str:
    prior = "with" if way.settings.prior else "without"
    reads = " and ".join(way.settings.reads)
    ridge = f" with ridge {way.ridge:g}" if way.ridge else ""
    return f"{reads}, {prior} the prior, {way.method} scaling{ridge} ({way.loss:.3f} nats)"


def _qualities(one: QuestionResult) -> str:
    rows = one.split.held_out.tolist()
    labels = one.labels[one.split.held_out]
    found = [one.found[row] for row in rows]
    lines = []
    if found[0].letters:
        shown, confidence = letters_formula(found)
        lines.append(_line("vLLM's letters", quality(shown, labels, confidence)))
    for way in {way.settings: way for way in reversed(one.ways)}:
        name = f"{' and '.join(way.reads)}, {'prior' if way.prior else 'no prior'}, uncalibrated"
        raw = probabilities(evidence_of(found, way))
        lines.append(_line(name, quality(raw, labels)))
    lines.append(_line("**chosen, calibrated**", one.tested()))
    common = torch.bincount(one.labels[one.split.fitted]).argmax()
    guess = float((labels == common).double().mean())
    lines.append(["most frequent value", f"{guess:.3f}", "", "", "", ""])
    return markdown_table(("", "accuracy", "ECE", "ECE by chance", "Brier", "log loss"), lines)


def _reads(one: QuestionResult) -> str:
    """Letters in one order and in all, statements, and both, each fitted and calibrated alike."""
    fitted, held_out = one.split.fitted, one.split.held_out
    seen, new = ([one.found[row] for row in part.tolist()] for part in (fitted, held_out))
    labels = one.labels[held_out]
    own = (one.scaled(held_out).argmax(-1) == labels).double().numpy()
    weights = resample_weights(len(labels), 0)
    lines = []
    for name, reads, orders in _ways(one):
        way = candidates(seen, one.labels[fitted], [reads], orders, 0)[0]
        evidence = evidence_of(seen, way.settings)
        scaling = fit_scaling(evidence, one.labels[fitted], way.method, way.ridge)
        shown = scaled(evidence_of(new, way.settings), scaling.weight, scaling.bias)
        gain = own - (shown.argmax(-1) == labels).double().numpy()
        low, high = np.quantile(weights @ gain, (0.025, 0.975))
        difference = f"{gain.mean():+.3f} ({low:+.3f} to {high:+.3f})"
        lines.append([*_line(name, quality(shown, labels)), difference])
    head = ("", "accuracy", "ECE", "ECE by chance", "Brier", "log loss", "chosen minus this")
    return markdown_table(head, lines)


def _ways(one: QuestionResult) -> list[tuple[str, tuple[Read, ...], int]]:
    """Name, reads and orders of the ways that the rows were read in."""
    orders, statements = len(one.found[0].letters), bool(one.found[0].statements)
    found: list[tuple[str, tuple[Read, ...], int]] = []
    if orders:
        found.append(("letters, one order", ("letters",), 1))
    if orders > 1:
        found.append((f"letters, {orders} orders", ("letters",), orders))
    if statements:
        found.append(("statements", ("statements",), 1))
    if orders and statements:
        name = f"letters, {orders} orders, and statements"
        found.append((name, ("letters", "statements"), orders))
    return found


def _line(name: str, found: Quality) -> list[str]:
    return [name, *(f"{value:.3f}" for value in found)]


def _sets(one: QuestionResult, splits: int) -> str:
    rows = torch.cat([one.split.calibrated, one.split.held_out])
    scaled, labels = one.scaled(rows), one.labels[rows]
    lines = []
    for level in _LEVELS:
        try:
            found = set_figures(one.calibration, scaled, labels, level, splits)
        except TooFewRows as error:
            lines.append([f"{level}", str(error), "", "", "", "", ""])
            continue
        lines.append(
            [
                f"{level}",
                f"{found.coverage:.3f}",
                f"{found.low:.3f} to {found.high:.3f}",
                f"{found.kept:.1%}",
                f"{found.size:.2f}",
                f"{found.single:.1%}",
                "-" if math.isnan(found.risk) else f"{found.risk:.1%}",
            ]
        )
    head = ("level", "coverage", "95 % of halves", "kept", "set size", "single", "risk")
    return markdown_table(head, lines)


def _classes(one: QuestionResult, level: float) -> str:
    rows = one.split.held_out
    scaled, labels = one.scaled(rows), one.labels[rows]
    columns = {}
    for name, by_class in (("marginal", False), ("by class", True)):
        members = one.calibration.sets(scaled, level, by_class=by_class)
        columns[name] = class_coverage(members, labels)
    lines = []
    for label in columns["marginal"]:
        shown = []
        for found in columns.values():
            low, high = found[label].interval()
            shown.append(f"{found[label].rate:.2f} ({low:.2f} to {high:.2f})")
        lines.append([str(one.question.options[label].text), *shown])
    return markdown_table(("value", *columns), lines)


def _risks(one: QuestionResult) -> str:
    rows = torch.cat([one.split.calibrated, one.split.held_out])
    found = risk_at(one.scaled(rows), one.labels[rows], _SHARES)
    lines = [[f"{risk:.1%}" for risk in found.values()]]
    return markdown_table([f"{share:.0%} answered" for share in found], lines)


def _orders(one: QuestionResult) -> str:
    count = len(one.found[0].letters)
    if count < 2:
        return "Only one order was read."
    alone = order_distance(one.found, slice(0, 1), slice(1, 2))
    text = (
        "Mean total-variation distance of the uncalibrated letters between the given order and its "
        f"reverse: {alone:.3f}."
    )
    if count >= 4:
        pair = order_distance(one.found, slice(0, 2), slice(2, 4))
        text += f" Between two means over two orders each: {pair:.3f}."
    return text


def _figure(results: list[QuestionResult]) -> "Figure":
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.2 * len(results), 4), layout="constrained")
    for place, one in enumerate(results, start=1):
        axes = figure.add_subplot(1, len(results), place)
        rows = torch.cat([one.split.calibrated, one.split.held_out])
        labels = one.labels[rows]
        shown = {"calibrated": one.scaled(rows)}
        if one.found[0].letters:
            shown["vLLM's letters"], _ = letters_formula([one.found[row] for row in rows.tolist()])
        for name, values in shown.items():
            right = (values.argmax(-1) == labels).double()
            bins = reliability(values.max(-1).values.double().numpy(), right.numpy())
            axes.plot([bin[1] for bin in bins], [bin[2] for bin in bins], "o-", label=name)
        axes.plot([0, 1], [0, 1], color="gray", linewidth=0.8)
        axes.set(title=one.name, xlabel="confidence", ylabel="accuracy", xlim=(0, 1), ylim=(0, 1))
        axes.legend()
    return figure
