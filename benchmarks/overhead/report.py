"""From throughputs to ratios with intervals, and to the table, page, data and plot of them."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks import machine
from benchmarks.arms import PEER_TARGET, STOCK, Arm

Samples = Mapping[str, list[float]]
"""Output tokens per second of every round, by arm."""
_RESAMPLES = 10_000
_HEADER = ["arm", "tokens/s", "ratio to stock", "low to high", "target", "verdict"]
_METHOD = """\
Servers of stock vLLM, of stock vLLM once more and of Entrostat are alive together, with the same
flags and their engines bound to the same cores; one at a time is under load, the others are frozen
(SIGSTOP). A round visits every arm once in random order: a short batch to warm the caches, then
{max_tokens} tokens for each of the concurrent chat requests (`temperature` 1, `ignore_eos`, no
streaming). tokens/s is the median of {rounds} rounds; the ratio is the median over rounds of the
arm's throughput over stock's in the same round; low to high is its 95 % interval, a bootstrap over
rounds. The second stock process is the control: how far its ratio lies from 1 is what the method
cannot see. A verdict is `unsure` where the interval contains the target."""


class Estimate(NamedTuple):
    """An arm's cost."""

    arm: str
    tokens_per_second: list[float]
    ratio: float
    """Median over rounds of the throughput over stock's."""
    low: float
    high: float
    target: float | None

    @property
    def verdict(self) -> str:
        """Whether the target is met."""
        if self.target is None:
            return ""
        word = "pass" if self.ratio >= self.target else "fail"
        return f"{word}, unsure" if self.low < self.target <= self.high else word

    def cells(self) -> list[str]:
        """A row of the table."""
        first = [self.arm, f"{np.median(self.tokens_per_second):.1f}"]
        if self.arm == STOCK.name:
            return [*first, "1", "", "", ""]
        target = "" if self.target is None else f">= {self.target}"
        interval = f"{self.low:.3f} to {self.high:.3f}"
        return [*first, f"{self.ratio:.3f}", interval, target, self.verdict]


class Section(NamedTuple):
    """All arms at one mode and batch."""

    mode: str
    batch: int
    cores: list[int] | None
    """Cores of every engine's OpenMP threads."""
    idle: dict[str, float]
    """Share of a core that each server burns when awake and idle."""
    estimates: list[Estimate]
    peers: list[Estimate] = []  # noqa: RUF012, never changed
    """Arms compared with another arm than stock."""

    @property
    def title(self) -> str:
        """Heading."""
        return f"{self.mode}, batch {self.batch}"


def estimate(arm: Arm, samples: Samples) -> Estimate:
    """Median ratio to stock of the same round, with a bootstrap interval."""
    return _compare(arm.name, samples[arm.name], samples[STOCK.name], arm.target)


def estimate_peer(arm: Arm, samples: Samples) -> Estimate:
    """Median ratio to the arm's peer of the same round, with a bootstrap interval."""
    assert arm.peer is not None
    name = f"{arm.name} over {arm.peer}"
    return _compare(name, samples[arm.name], samples[arm.peer], PEER_TARGET)


def _compare(name: str, own: list[float], other: list[float], target: float | None) -> Estimate:
    ratios = np.array(own) / np.array(other)
    draws = np.random.default_rng(0).choice(ratios, (_RESAMPLES, len(ratios)))
    low, high = np.quantile(np.median(draws, axis=1), [0.025, 0.975])
    return Estimate(name, own, float(np.median(ratios)), float(low), float(high), target)


def pool(everything: Sequence[Arm], runs: Sequence[Section]) -> Section:
    """Several runs with servers started anew: the mean of their ratios, and the least and largest.

    Two processes of one program differ by some percent for as long as they live, for their memory
    lies elsewhere. Rounds with the same processes cannot show that; other processes can.
    """
    estimates = []
    for arm in everything:
        found = [next((e for e in run.estimates if e.arm == arm.name), None) for run in runs]
        mine = [one for one in found if one is not None]
        if mine:
            ratios = [one.ratio for one in mine]
            speeds = [speed for one in mine for speed in one.tokens_per_second]
            mean = float(np.mean(ratios))
            estimates.append(Estimate(arm.name, speeds, mean, min(ratios), max(ratios), arm.target))
    return runs[0]._replace(estimates=estimates)


def write(
    facts: dict[str, Any],
    sections: list[Section],
    stem: Path,
    console: Console,
    *,
    title: str = "What Entrostat costs beside stock vLLM",
    method: str = _METHOD,
    more: Sequence[str] = (),
) -> None:
    """Print the latest tables and write everything so far to STEM.md, STEM.json and STEM.png.

    Args:
        facts: From `machine.describe`, with what `_METHOD` names.
        sections: What was measured.
        stem: Where to write.
        console: Where to print.
        title: Of the page.
        method: What was done, with places for facts.
        more: Lines at its end.
    """
    stem.parent.mkdir(parents=True, exist_ok=True)
    for section in sections:
        if section.mode == sections[-1].mode:
            console.print(_table(section))
    data = {**facts, "sections": [_data(section) for section in sections]}
    stem.with_suffix(".json").write_text(json.dumps(data, indent=1) + "\n")
    stem.with_suffix(".md").write_text(
        "\n".join([f"# {title}", *page(facts, sections, stem.name, method), *more]) + "\n"
    )
    _plot(sections, stem.with_suffix(".png"))


def _table(section: Section) -> Table:
    table = Table(title=section.title, title_justify="left")
    for column in _HEADER:
        table.add_column(column, justify="left" if column in ("arm", "verdict") else "right")
    for row in section.estimates:
        style = "red" if row.verdict.startswith("fail") else None
        table.add_row(*row.cells(), style=style)
    return table


def _data(section: Section) -> dict[str, Any]:
    rows, peers = (
        [{**row._asdict(), "verdict": row.verdict} for row in part]
        for part in (section.estimates, section.peers)
    )
    return {**section._asdict(), "estimates": rows, "peers": peers}


def page(facts: dict[str, Any], sections: list[Section], name: str, method: str) -> list[str]:
    lines = ["", *machine.markdown(facts)]
    lines += [f"- model: {facts['model']}, both on vLLM's V1 runner", ""]
    lines += [method.format(**facts), "", f"![ratios with intervals]({name}.png)"]
    for section in sections:
        idle = ", ".join(f"{name} {load:.1%}" for name, load in section.idle.items())
        lines += ["", f"## {section.title}", ""]
        lines += [f"Engine cores: {section.cores}. Load of one core when awake and idle: {idle}."]
        lines += ["", "| " + " | ".join(_HEADER) + " |", "|---|--:|--:|--:|--:|---|"]
        lines += ["| " + " | ".join(row.cells()) + " |" for row in section.estimates]
        if section.peers:
            header = [_HEADER[0], "tokens/s", "ratio", *_HEADER[3:]]
            lines += ["", "| " + " | ".join(header) + " |", "|---|--:|--:|--:|--:|---|"]
            lines += ["| " + " | ".join(row.cells()) + " |" for row in section.peers]
    return lines


def _plot(sections: list[Section], path: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    size = (4.2 * len(sections) + 2, 4.2)
    figure, panels = plt.subplots(
        1, len(sections), figsize=size, sharex=True, sharey=True, squeeze=False
    )
    names = [row.arm for row in max((s.estimates for s in sections), key=len)]
    for panel, section in zip(panels[0], sections, strict=True):
        panel.axvline(1.0, color="0.6", linewidth=1)
        for row in section.estimates:
            height = len(names) - names.index(row.arm)
            color = "tab:red" if row.verdict.startswith("fail") else "tab:blue"
            color = "0.4" if row.target is None else color
            panel.hlines(height, row.low, row.high, color=color)
            panel.plot(row.ratio, height, "o", color=color)
            if row.target is not None:
                panel.plot(row.target, height, "|", color="black", markersize=14)
        panel.set_title(section.title)
        panel.set_xlabel("throughput / stock vLLM")
        panel.grid(axis="x", alpha=0.3)
    panels[0][0].set_yticks(range(len(names), 0, -1), names)
    figure.suptitle("dot: ratio, line: low to high, tick: target", fontsize=9)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)
