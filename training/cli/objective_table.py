"""Every objective in one table."""

import inspect
from itertools import takewhile

from rich.console import Group, RenderableType
from rich.table import Table

from training.objectives.compose import Objectives
from training.objectives.registry import OBJECTIVES, ObjectiveList, build_objective
from training.policy.config import shipped_configs


def objective_rows() -> list[tuple[str, str, str, str]]:
    """Name, what it does, when it acts and what it needs, of every objective."""
    from pydantic import TypeAdapter

    rows = []
    for name, kind in OBJECTIVES.items():
        (config,) = TypeAdapter(ObjectiveList).validate_python([name])
        objectives = Objectives([config])
        first = (inspect.getdoc(kind) or "").split("\n\n")[0].replace("\n", " ")
        acts = [
            word
            for word, acts in (
                ("groups", objectives.acts_on_groups),
                ("tokens", objectives.acts_on_tokens),
            )
            if acts
        ]
        notes = sorted(need.value for need in objectives.needs)
        if build_objective(config).inert_on_policy:
            notes.append("reused rollouts")
        if kind.actuator is not None:
            notes.append(f"can be driven: {kind.actuator.value}")
        if kind.experimental:
            notes.append(f"experimental: {kind.experimental}")
        rows.append((name, first, " and ".join(acts) or "nothing", "; ".join(notes)))
    return rows


def objective_table() -> RenderableType:
    """For the terminal."""
    table = Table("objective", "what it does", "acts on", "notes", title="Objectives")
    for row in objective_rows():
        table.add_row(*row)
    configs = Table("config", "what it is", title="Shipped configs")
    for name, text in shipped_configs().items():
        head = takewhile(lambda line: line.startswith("# "), text.splitlines())
        configs.add_row(name, " ".join(line.removeprefix("# ") for line in head))
    return Group(table, configs)
