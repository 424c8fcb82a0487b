"""The page, data and plot of the difficulty benchmark."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from rich.console import Console

from benchmarks import machine
from benchmarks.difficulty.arms import (
    Arm,
    Floats,
    Labels,
    at_equal_tokens,
    compare,
    frequencies,
    oracle,
)
from probes.difficulty.strategies import Difficulty

_PAPER = 0.224
_METHOD = """\
{problems} questions ({tasks}), {samples} answers to each by every strategy; `max_tokens`
{max_tokens}. Tokens are generated ones, that of a pre-pass included. Intervals are 95 %, a paired
bootstrap over questions. `random` gives out the probe's classes with the same shares without
looking, averaged exactly; `probe of shuffled labels` is the mean of 20 probes fitted to permuted
labels; the oracle knows how often each strategy is right in these very answers, so that it is
better than anything can be."""


class Result(NamedTuple):
    """Everything measured."""

    facts: dict[str, Any]
    how: str
    """Says how the probe came to questions that it was not fitted on."""
    probe_arm: str
    """The arm that the claims are about."""
    arms: dict[str, Arm]
    budgets: list[Arm]
    labels: Labels
    """The probe's, shape (questions,)."""
    tasks: NDArray[np.str_]
    accuracy: Floats
    """By strategy, shape (3, questions)."""
    tokens: Floats


def write(result: Result, stem: Path, console: Console) -> None:
    """Write STEM.md, STEM.json and STEM.png and show the page."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    page = "\n".join(_page(result, stem.name)) + "\n"
    files = {kind: stem.parent / f"{stem.name}.{kind}" for kind in ("md", "json", "png")}
    files["md"].write_text(page)
    data = {
        **result.facts,
        "arms": [
            {"arm": arm.name, "accuracy": arm.accuracy.tolist(), "tokens": arm.tokens.tolist()}
            for arm in [*result.arms.values(), *result.budgets]
        ],
        "labels": result.labels.tolist(),
    }
    files["json"].write_text(json.dumps(data) + "\n")
    _draw(result).savefig(files["png"], dpi=110)
    console.print(page, markup=False, highlight=False)


def _draw(result: Result) -> Figure:
    figure = Figure(figsize=(8, 5.5), layout="constrained")
    axes = figure.subplots()
    curve = sorted((arm.tokens.mean(), arm.accuracy.mean()) for arm in result.budgets)
    axes.plot(*zip(*curve, strict=True), ".-", color="0.6", label="normal, fixed budgets")
    for number, arm in enumerate(result.arms.values()):
        spread = arm.accuracy.std() / np.sqrt(len(arm.accuracy))
        axes.errorbar(
            arm.tokens.mean(), arm.accuracy.mean(), 1.96 * spread, fmt="o", capsize=3,
            color=f"C{number}", label=arm.name,
        )  # fmt: skip
    axes.set(xlabel="generated tokens per answer", ylabel="accuracy", title=result.facts["model"])
    axes.legend(fontsize=8)
    return figure


def _page(result: Result, name: str) -> list[str]:
    facts, arms = result.facts, result.arms
    normal, probe = arms["fixed normal"], arms[result.probe_arm]
    lines = ["# What the difficulty probe saves", "", *machine.markdown(facts)]
    lines += [f"- model: {facts['model']}", f"- probe: {facts['probe']}, labels {facts['labels']}"]
    lines += [
        "",
        result.how,
        "",
        _METHOD.format(**facts),
        "",
        f"![Accuracy against tokens]({name}.png)",
        "",
    ]
    header = ["arm", "accuracy", "against fixed normal", "tokens", "saved against fixed normal"]
    lines += [*_table(header, arm_rows(arms.values(), normal)), ""]
    against = compare(probe, normal)
    chance = compare(probe, arms["random, same shares"])
    level = at_equal_tokens(result.budgets, float(probe.tokens.mean()))
    budget = compare(probe, level)
    head = compare(arms["oracle"], normal)
    lines += ["## What is shown", ""]
    lines += [
        f"- Accuracy against fixed normal: {interval_cell(against.accuracy, '+.3f')}; "
        f"{_verdict(against.accuracy[1] >= -0.01, against.accuracy[0] >= -0.01)} within one point.",
        f"- Tokens saved: {interval_cell(against.saved, '.1%')}; the paper's best is {_PAPER:.1%}: "
        f"{_verdict(against.saved[1] >= _PAPER, against.saved[0] >= _PAPER)}.",
        f"- Accuracy against the same shares at random: {interval_cell(chance.accuracy, '+.3f')} "
        f"at {_fewer(chance.saved)}: {_verdict(chance.accuracy[1] > 0, False)}.",
        f"- Accuracy against a fixed budget that costs as much ({level.tokens.mean():.1f} tokens): "
        f"{interval_cell(budget.accuracy, '+.3f')}: {_verdict(budget.accuracy[1] > 0, False)}.",
        f"- The oracle's headroom: accuracy {interval_cell(head.accuracy, '+.3f')}, tokens saved "
        f"{interval_cell(head.saved, '.1%')}.",
    ]
    lines += ["", "## By kind of question", "", *_table(*_kinds(result))]
    return lines


def _kinds(result: Result) -> tuple[list[str], list[list[str]]]:
    best = oracle(result.accuracy, result.tokens)
    rows = []
    for kind in sorted(set(result.tasks.tolist())):
        mine = result.tasks == kind
        outcomes = [
            f"{result.accuracy[one, mine].mean():.2f} / {result.tokens[one, mine].mean():.0f}"
            for one in Difficulty
        ]
        shares = [
            " / ".join(f"{share:.0%}" for share in frequencies(labels[mine]))
            for labels in (result.labels, best)
        ]
        rows.append([kind, str(int(mine.sum())), *outcomes, *shares])
    words = [f"{one.word}: accuracy / tokens" for one in Difficulty]
    split = "easy / normal / hard"
    return ["kind", "questions", *words, f"probe: {split}", f"oracle: {split}"], rows


def _fewer(saved: tuple[float, float, float]) -> str:
    """Tokens saved, in words that need no second minus."""
    if saved[0] >= 0:
        return f"{interval_cell(saved, '.1%')} fewer tokens"
    value, low, high = saved
    return f"{interval_cell((-value, -high, -low), '.1%')} more tokens"


def arm_rows(arms: Iterable[Arm], normal: Arm) -> list[list[str]]:
    """Name, accuracy and tokens of every arm, both also against the strategy normal."""
    found = []
    for arm in arms:
        against = compare(arm, normal)
        found.append(
            [
                arm.name,
                f"{arm.accuracy.mean():.3f}",
                interval_cell(against.accuracy, "+.3f"),
                f"{arm.tokens.mean():.1f}",
                interval_cell(against.saved, ".1%"),
            ]
        )
    return found


def interval_cell(values: tuple[float, float, float], form: str) -> str:
    """A value and its interval, each in a format."""
    value, low, high = (format(number, form) for number in values)
    return f"{value} ({low} to {high})"


def _verdict(surely: bool, perhaps: bool) -> str:
    return "shown" if surely else "at the mean, not beyond the interval" if perhaps else "not shown"


def _table(header: list[str], rows: list[list[str]]) -> list[str]:
    lines = [header, ["---"] * len(header), *rows]
    return [f"| {' | '.join(line)} |" for line in lines]
