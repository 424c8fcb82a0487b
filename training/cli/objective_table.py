"""Every objective and every shipped config, for people. No torch in here."""

import inspect
from collections.abc import Iterator
from itertools import takewhile
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

from training.objectives.catalog import SETTINGS
from training.objectives.core.requirements import ObjectiveSettings, RequiredTensor
from training.policy.config import shipped_configs

_LEAST_WIDTH = 120
"""Columns of a terminal below which a table would cut names."""


_MEASURED = {
    RequiredTensor.OLD_LOGPROBS: "log-probabilities of the sampling policy",
    RequiredTensor.OLD_ENTROPY: "entropies of the sampling policy",
    RequiredTensor.RESCORED_LOGPROBS: "log-probabilities at a temperature of its own",
    RequiredTensor.PROXY_LOGPROBS: "the sampling policy's full logits",
    RequiredTensor.NUCLEUS_ENTROPY: "the full logits of the training pass",
    RequiredTensor.CORRECT: "which answers are right",
    RequiredTensor.ANSWERS: "which final answers are equivalent",
    RequiredTensor.STEPS: "which tokens belong to which step",
    RequiredTensor.PLANNING: "which tokens belong to a strategy phrase",
    RequiredTensor.PHASES: "which tokens are thinking and which the answer",
    RequiredTensor.BELIEFS: "probabilities of hypotheses before and after each completion",
}
"""What the trainer measures for an objective, in words."""


class ObjectiveRow(NamedTuple):
    """What a person needs to know to choose an objective."""

    name: str
    summary: str
    acts_on: str
    checked: str
    """What it was compared with; says so if it was not."""
    notes: str


def objective_rows() -> list[ObjectiveRow]:
    """Every objective, in the order of the reference."""
    return [_row(name, kind) for name, kind in SETTINGS.items()]


def _row(name: str, kind: type[ObjectiveSettings]) -> ObjectiveRow:
    summary = (inspect.getdoc(kind) or "").split("\n\n")[0].replace("\n", " ")
    notes = [f"measures {_MEASURED[need]}" for need in sorted(kind.needs)]
    if kind.batch_needs:
        notes.append("one more scoring pass with gradient accumulation")
    if kind.inert_on_policy:
        notes.append("needs reused rollouts")
    if kind.actuator is not None:
        notes.append(f"a controller can drive its {kind.actuator}")
    if kind.experimental:
        notes.append(f"experimental: {kind.experimental}")
    acts = " and ".join(kind.acts_on) or ("nothing" if name == "none" else "samples")
    return ObjectiveRow(name, summary, acts, kind.checked or "nothing", "; ".join(notes))


def config_rows() -> Iterator[tuple[str, str]]:
    """Name and first comment of every shipped config."""
    for name, text in shipped_configs().items():
        head = takewhile(lambda line: line.startswith("# "), text.splitlines())
        yield name, " ".join(line.removeprefix("# ") for line in head)


def print_objectives(console: Console) -> None:
    """Print tables to a wide terminal, and plain paragraphs to anything else."""
    if console.is_terminal and console.width >= _LEAST_WIDTH:
        _print_tables(console)
        return
    for row in objective_rows():
        lines = [f"{row.name}: {row.summary}", f"  acts on: {row.acts_on}"]
        lines += [f"  checked against: {row.checked}"]
        lines += [f"  notes: {row.notes}"] if row.notes else []
        console.print("\n".join(lines), highlight=False, soft_wrap=True, markup=False)
    for name, what in config_rows():
        console.print(f"config {name}: {what}", highlight=False, soft_wrap=True, markup=False)


def _print_tables(console: Console) -> None:
    table = Table(title="Objectives")
    table.add_column("objective", no_wrap=True)
    for column in ("what it does", "acts on", "checked against", "notes"):
        table.add_column(column, overflow="fold")
    for row in objective_rows():
        table.add_row(*row)
    configs = Table(title="Shipped configs")
    configs.add_column("config", no_wrap=True)
    configs.add_column("what it is", overflow="fold")
    for name, what in config_rows():
        configs.add_row(name, what)
    console.print(table, configs)
