"""The page and the plots of `benchmarks.inquiry`."""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import torch
from matplotlib.figure import Figure
from scipy.stats import norm as normal
from scipy.stats import t as student
from torch import Tensor

from training.inquiry.simulate import GameStep

_RESAMPLES = 2000
_COLORS = {"random": "tab:gray", "IP": "tab:blue", "C-IP": "tab:red", "model asks": "tab:green"}


class Arm(NamedTuple):
    """A way to choose questions, and its games."""

    name: str
    correct: Tensor
    """Shape (games, questions + 1)."""
    size: Tensor
    covered: Tensor

    @classmethod
    def of(cls, name: str, games: list[list[GameStep]], questions: int) -> "Arm":
        """Games as rows; one that ended early stays as it ended."""

        def column(field: str) -> Tensor:
            rows = [[float(getattr(step, field)) for step in game] for game in games]
            padded = [row + [row[-1]] * (questions + 1 - len(row)) for row in rows]
            return torch.tensor(padded, dtype=torch.float64)

        return cls(name, column("correct"), column("size"), column("covered"))


class Section(NamedTuple):
    """Games that can be compared: the same labels, answers and predictor."""

    title: str
    note: str
    arms: list[Arm]
    labels: Tensor
    """What each game was about, shape (games,)."""


def interval(values: Tensor, labels: Tensor) -> tuple[float, float]:
    """95 % interval of the mean of games, with labels drawn anew; values of shape (games,).

    Games about one label are alike, so labels are what is resampled.
    """
    means = _resampled(values[:, None], labels)[:, 0]
    low, high = means.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return low, high


def band(values: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """95 % band of the means of columns, for all columns at once, with labels drawn anew.

    Twelve intervals of 95 % leave some truth out in nearly every other set of games. A claim about
    every column needs a band that holds for all of them: as wide, in standard errors, as the
    largest deviation of a redraw is in 95 of 100. Redraws know nothing of how uncertain a standard
    error of few labels is, so that width is taken from Student's t in place of the normal.

    Args:
        values: Shape (games, columns).
        labels: What each game was about, shape (games,).

    Returns:
        Lower and upper ends, shape (columns,).
    """
    means, center = _resampled(values, labels), values.mean(0)
    error = means.std(0)
    moved = error > 1e-9
    if not bool(moved.any()):
        return center, center
    away = float(((means - center).abs() / error)[:, moved].max(-1).values.quantile(0.95))
    freedom = len(set(labels.tolist())) - 1
    away = float(student.isf(normal.sf(away), freedom)) * ((freedom + 1) / freedom) ** 0.5
    return center - away * error, center + away * error


def _resampled(values: Tensor, labels: Tensor) -> Tensor:
    """Means of columns with labels drawn anew, shape (resamples, columns)."""
    names, places = torch.unique(labels, return_inverse=True)
    total = torch.zeros(len(names), values.shape[1], dtype=torch.float64)
    total.index_add_(0, places, values)
    count = torch.bincount(places).double()
    draw = torch.Generator().manual_seed(0)
    picked = torch.randint(len(names), (_RESAMPLES, len(names)), generator=draw)
    return total[picked].sum(1) / count[picked].sum(1, keepdim=True)


def against(arm: Arm, other: Arm, labels: Tensor, count: int | None = None) -> str:
    """Difference in accuracy after `count` questions, or its mean over the game; with interval."""
    gain = arm.correct - other.correct
    value = gain[:, 1:].mean(-1) if count is None else gain[:, count]
    low, high = interval(value, labels)
    return f"{float(value.mean()):+.3f} ({low:+.3f} to {high:+.3f})"


def section(one: Section) -> list[str]:
    """Accuracy over the game, set size and coverage, and the difference to IP."""
    questions = one.arms[0].correct.shape[1] - 1
    shown = [count for count in (1, 2, 4, 5, 6, 8, 12) if count <= questions]
    plain = next(arm for arm in one.arms if arm.name == "IP")
    head = " | ".join(str(count) for count in shown)
    lines = [
        f"## {one.title}",
        "",
        f"{one.note} {len(one.labels)} games about {len(set(one.labels.tolist()))} labels.",
        "",
        f"| right after | {head} | labels left | coverage | mean over the game against IP |",
        "|---" * (len(shown) + 4) + "|",
    ]
    for arm in one.arms:
        cells = " | ".join(f"{float(arm.correct[:, count].mean()):.2f}" for count in shown)
        size, covered = float(arm.size[:, -1].mean()), float(arm.covered[:, 1:].mean())
        gain = "" if arm.name == "IP" else against(arm, plain, one.labels)
        lines.append(f"| {arm.name} | {cells} | {size:.1f} | {covered:.3f} | {gain} |")
    return [*lines, "", *_by_count(one, plain), ""]


def _by_count(one: Section, plain: Arm) -> list[str]:
    """C-IP less IP after each number of questions, and where the difference is not 0."""
    arm = next(arm for arm in one.arms if arm.name == "C-IP")
    gain, sizes = arm.correct[:, 1:] - plain.correct[:, 1:], arm.size[:, 1:] - plain.size[:, 1:]
    lines = ["| questions | accuracy, C-IP less IP | labels left, C-IP less IP |", "|---|---|---|"]
    for at in range(gain.shape[1]):
        least, most = interval(sizes[:, at], one.labels)
        change = f"{float(sizes[:, at].mean()):+.2f} ({least:+.2f} to {most:+.2f})"
        lines.append(f"| {at + 1} | {against(arm, plain, one.labels, at + 1)} | {change} |")
    low, high = band(gain, one.labels)
    _, most_left = band(sizes, one.labels)
    alone = [interval(column, one.labels) for column in gain.T]
    verdict = (
        "Beyond a band that holds for all counts at once C-IP is worse than IP "
        f"{_after(high < 0)}, better {_after(low > 0)}, and leaves fewer labels "
        f"{_after(most_left < 0)}. Beyond the interval of a single count, of which one in twenty "
        f"is wrong, it is worse {_after([end < 0 for _, end in alone])} and better "
        f"{_after([end > 0 for end, _ in alone])}."
    )
    return [verdict, "", *lines]


def _after(found: Iterable[bool | Tensor]) -> str:
    counts = [str(at) for at, here in enumerate(found, 1) if here]
    return "after " + ", ".join(counts) if counts else "nowhere"


def plot(sections: list[Section], path: Path) -> None:
    """Accuracy and set size against the number of questions, with 95 % intervals."""
    figure = Figure(figsize=(9, 3.2 * len(sections)), layout="constrained")
    axes = figure.subplots(len(sections), 2, squeeze=False)
    for row, one in zip(axes, sections, strict=True):
        for arm in one.arms:
            if arm.name not in _COLORS:
                continue
            for axis, values in zip(row, (arm.correct, arm.size), strict=True):
                counts = list(range(values.shape[1]))
                bounds = [interval(values[:, count], one.labels) for count in counts]
                color = _COLORS[arm.name]
                axis.plot(counts, values.mean(0).tolist(), color=color, label=arm.name)
                low, high = zip(*bounds, strict=True)
                axis.fill_between(counts, low, high, color=color, alpha=0.12, linewidth=0)
        row[0].set(title=one.title.replace("`", ""), xlabel="questions", ylabel="right")
        row[1].set(xlabel="questions", ylabel="labels in the prediction set")
        row[0].legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=110)
