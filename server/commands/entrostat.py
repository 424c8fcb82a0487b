"""`entrostat`: discovers its commands by entry point and imports only the requested one."""

import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import entry_points
from typing import Any

import typer

_PASS_THROUGH = {
    "allow_extra_args": True,
    "ignore_unknown_options": True,
}
_FROM_EXTRAS = {
    "fastapi",
    "numpy",
    "prometheus_client",
    "safetensors",
    "torch",
    "transformers",
    "uvicorn",
    "vllm",
    "zmq",
}
"""Modules that the extras `cpu` and `gpu` install and the base install lacks."""


class _MissingError(Exception):
    """A command needs a module of an extra that is not installed."""


def main() -> None:
    """Run `entrostat COMMAND ...`."""
    commands = {entry.name: entry for entry in entry_points(group="entrostat.commands")}
    called = sys.argv[1] if len(sys.argv) > 1 else None
    try:
        if called == "serve" and any(argument.startswith("--help=") for argument in sys.argv):
            with _require_extras():
                from server.commands.serve import vllm_help

                vllm_help(sys.argv[2:])
            return
        functions: dict[str, Callable[..., Any]] = {}
        without: list[str] = []
        for name in [called] if called in commands else sorted(commands):
            try:
                with _require_extras():
                    functions[str(name)] = commands[str(name)].load()
            except _MissingError as missing:
                if name == called:
                    raise
                without.append(f"`{name}` {missing}.")
        with _require_extras():
            _app(functions, without)()
    except _MissingError as missing:
        print(f"entrostat {called}: {missing}", file=sys.stderr)
        raise SystemExit(2) from None


@contextmanager
def _require_extras() -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as error:
        module = (error.name or "").partition(".")[0]
        if module not in _FROM_EXTRAS:
            raise
        raise _MissingError(f"needs {module}: install the extra `cpu` or `gpu`") from error


def _app(functions: dict[str, Callable[..., Any]], without: list[str]) -> typer.Typer:
    app = typer.Typer(
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode="markdown",
        help="Measure and control the entropy of a language model at every token.",
        epilog="\n\n".join(without) or None,
    )
    app.callback()(lambda: None)  # keep subcommands even when only one is loaded
    for name, function in functions.items():
        passes_through = "ctx" in inspect.signature(function).parameters
        app.command(name, context_settings=_PASS_THROUGH if passes_through else None)(function)
    return app
