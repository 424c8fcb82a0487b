"""The page, data and plot of `benchmarks.difficulty.worth`."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure
from rich.console import Console

from benchmarks import machine
from benchmarks.difficulty.arms import Arm, at_equal_tokens, compare
from benchmarks.difficulty.page import arm_rows, interval_cell
from probes.difficulty.strategies import RouterSpec
from training.common.report import markdown_table
from training.common.strategy_choice import PRICES

SHARES = (0.4, 0.5, 0.6, 0.7, 0.8)
"""Tokens over those of the strategy normal at which the router is compared with its controls."""
_METHOD = """\
{problems} questions ({tasks}), {samples} answers to each by every strategy (`max_tokens`
{max_tokens}), recorded in [{answers}]({answers}). The router reads the hidden state at the end of
the prompt, predicts accuracy and tokens of every strategy (ridge), and takes the one with the
highest accuracy minus price times tokens, in units of a normal answer's. Forecasts, default price
and dropped strategies of a question come from a fit that left its group out. The state costs
{prepass:g} token of a pass before the answer, which is added to the router and to no control.
Intervals are 95 %, a paired bootstrap over questions. The controls predict accuracy and tokens
from the kind of the question, its words or its length, fitted on the same questions as the
router; or they mix the fixed strategies at random. The split oracle is chosen on half of a
question's answers and scored on the others."""


class RouterSection(NamedTuple):
    """One way to leave questions out."""

    title: str
    choices: dict[str, Arm]
    """The router at its default price, and controls without a price."""
    frontiers: dict[str, list[Arm]]
    """Over prices: the router first, then its controls."""
    free: list[Arm]
    """The router over prices, if the state cost nothing."""
    fits: list[RouterSpec]
    """Of the folds."""
    shares: list[float]
    """How often the router chose each strategy at its default price."""


class WorthPage(NamedTuple):
    """Everything measured."""

    facts: dict[str, Any]
    sections: list[RouterSection]
    classes: Arm
    """The paper's rule on the same answers, from questions that were left out."""


def write(page: WorthPage, stem: Path, console: Console) -> None:
    """Write STEM.md, STEM.json and STEM.png and show the page."""
    text = "\n".join(_page(page, stem.name)) + "\n"
    stem.parent.mkdir(parents=True, exist_ok=True)
    files = {kind: stem.parent / f"{stem.name}.{kind}" for kind in ("md", "json", "png")}
    files["md"].write_text(text)
    files["json"].write_text(json.dumps(_data(page)) + "\n")
    _draw(page).savefig(files["png"], dpi=110)
    console.print(text, markup=False, highlight=False)


def _data(page: WorthPage) -> dict[str, Any]:
    def means(arm: Arm) -> dict[str, float]:
        return {"accuracy": float(arm.accuracy.mean()), "tokens": float(arm.tokens.mean())}

    sections = [
        {
            "title": one.title,
            "choices": {name: means(arm) for name, arm in one.choices.items()},
            "prices": PRICES.tolist(),
            "frontiers": {name: list(map(means, arms)) for name, arms in one.frontiers.items()},
            "fits": [spec.model_dump() for spec in one.fits],
        }
        for one in page.sections
    ]
    return {**page.facts, "sections": sections}


def _page(page: WorthPage, name: str) -> list[str]:
    facts = page.facts
    lines = ["# Whether a router by worth pays", "", *machine.markdown(facts)]
    lines += [f"- model: {facts['model']}", "", _METHOD.format(**facts)]
    lines += ["", f"![Accuracy against tokens over the price]({name}.png)"]
    for section in page.sections:
        lines += ["", f"## {section.title}", "", *_section(section, page.classes)]
    return lines


def _section(section: RouterSection, classes: Arm) -> list[str]:
    normal, router = section.choices["fixed normal"], section.choices["router"]
    rows = arm_rows([*section.choices.values(), classes], normal)
    head = ["choice", "accuracy", "minus fixed normal", "tokens", "saved"]
    prices = ", ".join(f"{spec.price:.3g}" for spec in section.fits)
    dropped = ", ".join(" and ".join(spec.dropped) or "none" for spec in section.fits)
    shares = " / ".join(f"{share:.0%}" for share in section.shares)
    lines = [markdown_table(head, rows), ""]
    lines += [
        f"The router at its default price (by fold: {prices}) chooses easy / normal / hard for "
        f"{shares} of the questions; strategies dropped, by fold: {dropped}. The classes are those "
        "of other questions of the same kinds.",
        "",
        "The router minus each control at equal tokens; columns are tokens over those of fixed "
        "normal, the last one those of the router at its default price:",
        "",
        markdown_table(*_equal_tokens(section, normal, router, classes)),
    ]
    return lines


def _equal_tokens(
    section: RouterSection, normal: Arm, router: Arm, classes: Arm
) -> tuple[list[str], list[list[str]]]:
    full = float(normal.tokens.mean())
    places = {f"{share:.0%}": share * full for share in SHARES}
    places["default"] = float(router.tokens.mean())
    own, *controls = section.frontiers.items()
    rows = []
    for name, frontier in controls:
        rows.append([name, *_gains(own[1], frontier, list(places.values()))])
    name, frontier = controls[0]
    free = _gains(section.free, frontier, list(places.values()))
    rows.append([f"{name}, if the state were free", *free])
    at_classes = _at(own[1], float(classes.tokens.mean()))
    if at_classes is not None:
        share = classes.tokens.mean() / full
        cell = f"{_gain(at_classes, classes)} at {share:.0%}"
        rows.append([classes.name, cell, *[""] * (len(places) - 1)])
    return ["control", *places], rows


def _gains(one: list[Arm], other: list[Arm], places: list[float]) -> list[str]:
    """The first frontier minus the second at these tokens."""
    cells = []
    for tokens in places:
        pair = [_at(one, tokens), _at(other, tokens)]
        cells.append("-" if None in pair else _gain(*pair))  # type: ignore[arg-type]
    return cells


def _at(frontier: list[Arm], tokens: float) -> Arm | None:
    """The frontier at these tokens; beyond its most expensive point that point, before it None."""
    means = [float(arm.tokens.mean()) for arm in frontier]
    if tokens < min(means):
        return None
    return at_equal_tokens(_rising(frontier), min(tokens, max(means)))


def _rising(frontier: list[Arm]) -> list[Arm]:
    """One arm for each number of tokens."""
    return list({round(float(arm.tokens.mean()), 6): arm for arm in frontier}.values())


def _gain(one: Arm, other: Arm) -> str:
    return interval_cell(compare(one, other).accuracy, "+.3f")


def _draw(page: WorthPage) -> Figure:
    figure = Figure(figsize=(6.5 * len(page.sections), 5), layout="constrained")
    panels = figure.subplots(1, len(page.sections), squeeze=False)[0]
    for panel, section in zip(panels, page.sections, strict=True):
        for name, frontier in section.frontiers.items():
            points = sorted((arm.tokens.mean(), arm.accuracy.mean()) for arm in frontier)
            style = "o-" if name == "router" else ".--"
            panel.plot(*np.array(points).T, style, markersize=3, label=name)
        for name, arm in section.choices.items():
            marker = "*" if name == "router" else "s"
            panel.plot(arm.tokens.mean(), arm.accuracy.mean(), marker, markersize=8, label=name)
        panel.plot(page.classes.tokens.mean(), page.classes.accuracy.mean(), "x", color="black")
        panel.set(xlabel="generated tokens per answer", ylabel="accuracy", title=section.title)
        panel.legend(fontsize=7)
    return figure
