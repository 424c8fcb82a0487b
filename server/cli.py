"""`entrostat`: finds its commands among the installed packages and loads only the one called."""

import inspect
import sys
from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Any

import typer

_PASS_THROUGH = {
    "allow_extra_args": True,
    "ignore_unknown_options": True,
}


def main() -> None:
    """Run `entrostat COMMAND ...`."""
    app = typer.Typer(
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode="markdown",
        help="Measure and control the entropy of a language model at every token.",
    )
    app.callback()(lambda: None)  # keep subcommands even when only one is loaded
    commands = {entry.name: entry for entry in entry_points(group="entrostat.commands")}
    called = sys.argv[1] if len(sys.argv) > 1 else None
    if called == "serve" and any(argument.startswith("--help=") for argument in sys.argv):
        from server.serve import vllm_help

        vllm_help(sys.argv[2:])
        return
    for name in [called] if called in commands else sorted(commands):
        _add(app, str(name), commands[str(name)].load())
    app()


def _add(app: typer.Typer, name: str, function: Callable[..., Any]) -> None:
    passes_through = "ctx" in inspect.signature(function).parameters
    app.command(name, context_settings=_PASS_THROUGH if passes_through else None)(function)
