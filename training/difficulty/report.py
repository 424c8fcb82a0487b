"""Report of a difficulty probe: a page, a figure and a table in the terminal."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table
from sklearn.metrics import confusion_matrix
from torch import Tensor

from probes.artifact import Artifact
from probes.difficulty.strategies import Difficulty, Outcomes, ProbeSpec, Thresholds
from training.common.metrics import Interval
from training.common.report import MIN_POINTS, markdown_table, provenance, write_page
from training.datasets.problem import Problem
from training.difficulty.baselines import TASK_FOLDS, BaselineComparison, FoldComparison
from training.difficulty.fit import MAX_FOLDS, Data, DifficultyFit
from training.difficulty.labels import AnswerStatistics
from training.difficulty.metrics import reliability
from training.difficulty.router_report import RouterComparison, router_section

_NAME = "difficulty-probe"
_COLORS = {Difficulty.EASY: "C2", Difficulty.NORMAL: "C0", Difficulty.HARD: "C3"}


class DifficultyResult(NamedTuple):
    """Contents of the report."""

    artifact: Artifact
    problems: list[Problem]
    tried: dict[Difficulty, AnswerStatistics]
    """By the strategies that were tried, normal always among them."""
    labels: Tensor
    data: Data
    fit: DifficultyFit
    comparison: BaselineComparison
    command: str
    router: RouterComparison | None = None
    """None if only the strategy normal was tried."""

    @property
    def answers(self) -> AnswerStatistics:
        """Of the strategy normal."""
        return self.tried[Difficulty.NORMAL]


def write_report(facts: DifficultyResult, folder: Path) -> Path:
    """Write `difficulty-probe.md` and its figure; returns the page."""
    return write_page(folder, _NAME, _page(facts), _draw(facts))


def write_summary(facts: DifficultyResult, console: Console) -> None:
    """Print the comparison with the baselines."""
    table = Table(*_COMPARED, title=facts.artifact.id)
    for row in _comparison_rows(facts.comparison.questions):
        table.add_row(*row)
    console.print(table)


_STRATEGY_COLUMNS = ("strategy tried", "accuracy", "tokens", "reached the budget", "entropy")
_COMPARED = ("macro-F1", "", "the probe's difference", "95 % interval of the difference")


def _comparison_rows(comparison: FoldComparison) -> list[tuple[str, ...]]:
    return [
        ("probe", f"{comparison.probe.value:.3f}", "", ""),
        *(
            (name, f"{baseline.macro_f1.value:.3f}", *_interval_cells(baseline.difference))
            for name, baseline in comparison.baselines.items()
        ),
    ]


def _interval_cells(interval: Interval) -> tuple[str, str]:
    return f"{interval.value:+.3f}", f"{interval.low:+.3f} to {interval.high:+.3f}"


def _probe_spec(facts: DifficultyResult) -> ProbeSpec:
    spec = facts.artifact.manifest.probe
    assert spec is not None
    return spec


def _draw(facts: DifficultyResult) -> Figure:
    figure = Figure(figsize=(12, 9), layout="constrained")
    grades, scatter, confusion, calibration = figure.subplots(2, 2).flat
    _draw_grades(facts, grades)
    _draw_scatter(facts, scatter)
    _draw_confusion(facts, confusion)
    _draw_reliability(facts, calibration)
    return figure


def _draw_grades(facts: DifficultyResult, axes: Axes) -> None:
    entropy = axes.twinx()
    for task, rows in _statistics_by_level(facts).items():
        grades = [grade for grade, *_ in rows]
        axes.plot(grades, [row[2] for row in rows], "o-", label=f"{task}: accuracy")
        entropy.plot(grades, [row[3] for row in rows], "x--", label=f"{task}: entropy")
    axes.set(xlabel="grade", ylabel="accuracy (solid)", title="Accuracy and entropy by grade")
    entropy.set_ylabel("entropy, nats per token (dashed)")
    axes.legend(fontsize=7)


def _draw_scatter(facts: DifficultyResult, axes: Axes) -> None:
    rule = _probe_spec(facts).labels
    accuracy, entropy = facts.answers.accuracy.numpy(), facts.answers.entropy.numpy()
    jitter = np.random.default_rng(0).uniform(-0.02, 0.02, len(accuracy))
    for difficulty, color in _COLORS.items():
        mine = facts.labels.numpy() == difficulty
        label = f"{difficulty.word}: {mine.sum()}"
        axes.scatter((accuracy + jitter)[mine], entropy[mine], s=12, color=color, label=label)
    if isinstance(rule, Thresholds):
        axes.axvline(rule.alpha, color="0.4", linestyle="--")
        axes.axvline(rule.gamma, color="0.4", linestyle=":")
        axes.axhline(rule.beta, color="0.4", linestyle="-.")
    axes.set(xlabel="accuracy", ylabel="entropy, nats per token", title="Labels of the questions")
    axes.legend()


def _draw_confusion(facts: DifficultyResult, axes: Axes) -> None:
    counts = _confusion(facts)
    axes.imshow(counts, cmap="Blues")
    for row, column in np.ndindex(*counts.shape):
        axes.text(column, row, str(counts[row, column]), ha="center", va="center")
    words = [difficulty.word for difficulty in Difficulty]
    axes.set(xticks=range(3), yticks=range(3), xticklabels=words, yticklabels=words)
    axes.set(xlabel="predicted", ylabel="label", title="Held-out questions")


def _confusion(facts: DifficultyResult) -> "np.ndarray[tuple[int, ...], np.dtype[np.int64]]":
    truth = facts.data.labels[facts.fit.test]
    guesses = facts.fit.probabilities.argmax(1)
    counts: np.ndarray[tuple[int, ...], np.dtype[np.int64]] = confusion_matrix(
        truth, guesses, labels=list(Difficulty)
    )
    return counts


def _draw_reliability(facts: DifficultyResult, axes: Axes) -> None:
    bins = reliability(facts.data.labels[facts.fit.test], facts.fit.probabilities)
    axes.plot([0, 1], [0, 1], color="0.7")
    axes.scatter([c for _, c, _ in bins], [r for _, _, r in bins], s=[600 * w for w, *_ in bins])
    axes.set(xlabel="confidence", ylabel="accuracy", xlim=(0, 1), ylim=(0, 1))
    axes.set_title(f"Reliability, calibration error {facts.fit.calibration_error:.3f}")


def _statistics_by_level(
    facts: DifficultyResult,
) -> dict[str, list[tuple[int, int, float, float, float]]]:
    """Grade, questions, accuracy, entropy and tokens, for every task."""
    rows: dict[str, list[tuple[int, int, float, float, float]]] = {}
    keys = [(problem.task, problem.level) for problem in facts.problems]
    for task, grade in sorted(set(keys)):
        mine = np.array([key == (task, grade) for key in keys])
        accuracy, entropy, tokens = (
            float(column.numpy()[mine].mean())
            for column in (facts.answers.accuracy, facts.answers.entropy, facts.answers.tokens)
        )
        rows.setdefault(task, []).append((grade, int(mine.sum()), accuracy, entropy, tokens))
    return rows


def curve_shape(values: list[float]) -> str:
    """Whether a curve over the grades falls and rises again."""
    if len(values) < 3:
        return "too few grades to tell"
    lowest = int(np.argmin(values))
    first, last, least = values[0], values[-1], values[lowest]
    if 0 < lowest < len(values) - 1 and least < 0.9 * min(first, last):
        return "a U: the middle grades are more than a tenth below both ends"
    slope = float(np.polyfit(range(len(values)), values, 1)[0])
    return f"no U; it {'rises' if slope > 0 else 'falls'} by {abs(slope):.3f} nats per grade"


def _page(facts: DifficultyResult) -> str:
    manifest, fit, spec = facts.artifact.manifest, facts.fit, _probe_spec(facts)
    grades = [
        (task, str(grade), str(count), *_levels(count, accuracy, entropy, tokens))
        for task, rows in _statistics_by_level(facts).items()
        for grade, count, accuracy, entropy, tokens in rows
    ]
    shapes = [
        f"- {task}: {curve_shape([row[3] for row in rows if row[1] >= MIN_POINTS])}"
        for task, rows in _statistics_by_level(facts).items()
        if len(rows) > 2
    ]
    counts = np.bincount(facts.labels.numpy(), minlength=3)
    words = [difficulty.word for difficulty in Difficulty]
    confusion = [
        (word, *map(str, row)) for word, row in zip(words, _confusion(facts).tolist(), strict=True)
    ]
    strategies = [
        (word, strategy.prompt or "-", f"{strategy.temperature:g}", f"{strategy.budget:g}")
        for word, strategy in zip(words, spec.strategies.all, strict=True)
    ]
    settings = manifest.settings
    return f"""# Difficulty probe of {manifest.model}

{provenance(manifest, facts.command)}

{len(facts.problems)} questions ({settings["tasks"]}), {settings["samples"]} answers to each by
every strategy that was tried, `max_tokens` {settings["max_tokens"]} (seed {manifest.seed}).
Entropies are those of the full vocabulary at temperature 1, in nats.

{markdown_table(("strategy", "text after the question", "temperature", "budget"), strategies)}

{markdown_table(_STRATEGY_COLUMNS, _strategy_rows(facts))}

## Labels

{_label_rule(spec.labels)}:
{counts[0]} easy, {counts[1]} normal, {counts[2]} hard.

![Grades, labels, confusion, reliability]({_NAME}.png)

Entropy of the strategy normal over the grades:

{chr(10).join(shapes) or "- no task has grades"}

{markdown_table(("task", "grade", "questions", "accuracy", "entropy", "tokens"), grades)}

## Probe

`{fit.name}`, chosen by cross-validated macro-F1 on three fifths of the questions and calibrated
on {fit.num_calibrated} questions. On the other {len(fit.test)}: macro-F1
{_format_interval(fit.macro_f1)}, accuracy
{_format_interval(fit.accuracy)}, expected calibration error {fit.calibration_error:.3f}
({fit.uncalibrated_error:.3f} uncalibrated), Brier score {fit.brier:.3f}. Intervals are bootstraps
over questions.

{markdown_table(("label, predicted:", *words), confusion)}

## Beside guesses without the state

A fifth of the questions is too few to compare on. So every question is guessed by a probe chosen
and trained on other questions, up to {MAX_FOLDS} folds,
{len(facts.comparison.questions.guesses)} times over. The differences are
measured on the same resampled questions.

{markdown_table(_COMPARED, _comparison_rows(facts.comparison.questions))}

{_left_out_tasks(facts.comparison)}

{"" if facts.router is None else router_section(facts.router)}

Artifact `{facts.artifact.id}`; sha256 of the rollouts `{manifest.data_hash}`.
"""


def _levels(count: int, accuracy: float, entropy: float, tokens: float) -> tuple[str, ...]:
    """Cells of one level of difficulty; dashes where there are too few questions."""
    if count < MIN_POINTS:
        return "-", "-", "-"
    return f"{accuracy:.2f}", f"{entropy:.3f}", f"{tokens:.1f}"


def _format_interval(interval: Interval) -> str:
    return f"{interval.value:.3f} ({interval.low:.3f} to {interval.high:.3f})"


def _left_out_tasks(comparison: BaselineComparison) -> str:
    if comparison.tasks is None:
        return "No task could be left out: without it a class would be missing."
    rows = [
        (task, f"{own:.3f}", f"{other:.3f}") for task, (own, other) in comparison.by_task.items()
    ]
    return f"""A probe that only recognises the task fails on one that it never saw. So whole tasks
are left out, in up to {TASK_FOLDS} groups, and all their questions are guessed by what was trained
on the other tasks:

{markdown_table(_COMPARED, _comparison_rows(comparison.tasks))}

Task by task:

{markdown_table(("macro-F1 on the task left out", "probe", "commonest class"), rows)}"""


def _strategy_rows(facts: DifficultyResult) -> list[tuple[str, ...]]:
    return [
        (
            difficulty.word,
            f"{float(answers.accuracy.mean()):.3f}",
            f"{float(answers.tokens.mean()):.1f}",
            f"{float(answers.cut.mean()):.1%}",
            f"{float(answers.entropy.mean()):.3f}",
        )
        for difficulty, answers in sorted(facts.tried.items())
    ]


def _label_rule(labels: Thresholds | Outcomes) -> str:
    if isinstance(labels, Thresholds):
        return (
            f"By the answers of the strategy normal: normal with an accuracy of at least\n"
            f"{labels.alpha:g} and at most {labels.beta:.3f} nats, else hard with less than "
            f"{labels.gamma:g}, else easy"
        )
    return (
        "By the answers of all strategies: hard where none is right in at least "
        f"{labels.gamma:g}\nof its answers, else the one with the fewest tokens among those whose "
        f"accuracy is at most\n{labels.tolerance:g} below normal's"
    )
