"""Reference pages that come from code: `python -m scripts.docs`; `--check` fails if one is stale.

Writes `cli.md`, the help of every command, `objectives.md`, what `train-policy` can act with,
`policy-config.md`, what its config can say, `metrics.md`, every metric, `decision-log.md`, every
field of a line of the decision log, `routes.md`, every route, `wire-schema.json`, the JSON schema
of what a request may ask for and of what comes back, and `inquiry-task.schema.json`, the one of a
task file.
"""

import argparse
import json
import sys
from copy import copy
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import typer
from typer.main import get_command

from probes.inquiry.task import Task
from scripts.config_page import config_page, settings_table
from scripts.decision_log_page import decision_log_page
from scripts.metrics_page import metrics_page
from scripts.routes_page import routes_page
from server.wire import schema
from training.cli import policy as policy_cli
from training.cli import probe as training_cli
from training.cli import steering as steering_cli
from training.cli.objective_table import objective_rows
from training.objectives.catalog import SETTINGS

FOLDER = Path(__file__).resolve().parents[1] / "docs" / "reference"
_WIDTH = 88

_CLI_HEAD = """\
# Commands

<!-- Written by `python -m scripts.docs`; do not edit. -->

The same text as `COMMAND --help`.
"""

_OBJECTIVES_HEAD = """\
# Objectives of `train-policy`

<!-- Written by `python -m scripts.docs`; do not edit. -->

`train-policy --list-objectives` shows the same. Formulas, sources and what differs from published
code stand in the docstrings of `training/objectives/`.

- **Acts on** groups: it changes rewards or advantages of whole groups of completions. On tokens: it
  changes the loss of each token. On samples: it changes which completions are trained on.
- **Checked against**: what a test, or a comparison in float64, found equal in value and gradient.
  An experimental objective was not compared, or differs, and needs `experimental = true` in the
  config.
- **Statistics** of the batch are over the whole rollout of all processes, so neither the number of
  processes nor gradient accumulation changes the gradient. Objectives marked "one more scoring pass
  with gradient accumulation" pay for that with a forward pass over the rollout. `siren` is the
  exception: it squares the distance of a mean of each micro-batch. Two to eight accumulated
  micro-batches change its part of the gradient by 5 to 13 % of its norm (16 random completions of
  40 tokens).

"""


def main() -> int:
    """Write the pages, or with `--check` compare them.

    Returns:
        Exit code: 1 if a page is stale under `--check`.
    """
    parser = argparse.ArgumentParser(prog="python -m scripts.docs", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing, fail if stale")
    check = parser.parse_args().check
    stale = {path: text for path, text in pages().items() if _read(path) != text}
    if check and stale:
        names = ", ".join(path.name for path in stale)
        print(f"stale: {names}: run `make docs`", file=sys.stderr)
        return 1
    for path, text in stale.items():
        path.write_text(text)
        print(f"wrote docs/reference/{path.name}")
    return 0


def pages() -> dict[Path, str]:
    """What every generated page should hold."""
    return {
        FOLDER / "cli.md": cli_page(),
        FOLDER / "objectives.md": objectives_page(),
        FOLDER / "policy-config.md": config_page(),
        FOLDER / "metrics.md": metrics_page(),
        FOLDER / "decision-log.md": decision_log_page(),
        FOLDER / "routes.md": routes_page(),
        FOLDER / "wire-schema.json": wire_schema(),
        FOLDER / "inquiry-task.schema.json": task_schema(),
    }


def cli_page() -> str:
    """The help of every command, as Markdown."""
    sections = [_CLI_HEAD]
    for program, command in command_groups().items():
        for name in sorted(getattr(command, "commands", ())):
            text = _help(command.commands[name], f"{program} {name}")
            sections.append(f"## {program} {name}\n\n```text\n{text}\n```\n")
        if not hasattr(command, "commands"):
            sections.append(f"## {program}\n\n```text\n{_help(command, program)}\n```\n")
    return "\n".join(sections)


@cache
def command_groups() -> dict[str, Any]:
    """Every program of the package as a click command, by name."""
    apps = {
        "entrostat": _entrostat(),
        "train-probe": training_cli.app,
        "train-steering": steering_cli.app,
        "train-policy": policy_cli.app,
    }
    return {program: _plain(app) for program, app in apps.items()}


def objectives_page() -> str:
    """Every objective of `train-policy`, what it was checked against, and its settings."""
    rows = objective_rows()
    table = ["| objective | acts on | checked against |", "|---|---|---|"]
    table += [f"| [`{row.name}`](#{row.name}) | {row.acts_on} | {row.checked} |" for row in rows]
    parts = [_OBJECTIVES_HEAD + "\n".join(table) + "\n"]
    for row in rows:
        notes = f"; {row.notes}" if row.notes else ""
        lines = [f"## {row.name}\n", f"{row.summary}\n", f"Acts on {row.acts_on}{notes}.\n"]
        parts.append("\n".join([*lines, *settings_table(SETTINGS[row.name], skip=("type",))]))
    return "\n".join(parts)


def wire_schema() -> str:
    """JSON schema of the request's field (`Control`, `DecisionControl`) and of the answer's."""
    return json.dumps(schema.wire_schema(), indent=2) + "\n"


def task_schema() -> str:
    """JSON schema of an inquiry's task file."""
    return json.dumps(Task.model_json_schema(), indent=2) + "\n"


def _entrostat() -> typer.Typer:
    app = typer.Typer()
    for entry in entry_points(group="entrostat.commands"):
        app.command(entry.name)(entry.load())
    return app


def _plain(app: typer.Typer) -> Any:
    """The app's commands, with help that does not depend on a terminal."""
    plain = copy(app)
    plain.rich_markup_mode = None
    return get_command(plain)


def _help(command: Any, path: str) -> str:
    context = command.make_context(path, [], resilient_parsing=True, terminal_width=_WIDTH)
    lines = command.get_help(context).splitlines()
    return "\n".join(line.rstrip() for line in lines).strip()


def _read(path: Path) -> str | None:
    return path.read_text() if path.is_file() else None


if __name__ == "__main__":
    sys.exit(main())
