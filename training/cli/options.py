"""Command lines made from configs: every option is declared once, as a field of its config."""

import inspect
import json
import shlex
import sys
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

import typer
from pydantic import ValidationError
from pydantic.fields import FieldInfo

from training.common.config import JobConfig
from training.common.errors import TrainingError

Config = TypeVar("Config", bound=JobConfig)

_COMMON = {
    "config": Annotated[
        Path | None, typer.Option(help="TOML file with the settings below; options override it.")
    ],
    "change": Annotated[
        list[str] | None,
        typer.Option("--set", help="KEY=VALUE in TOML, as in the file; may be repeated."),
    ],
    "quick": Annotated[
        bool, typer.Option("--quick", help="Take a small size, to see whether everything works.")
    ],
    "dry_run": Annotated[
        bool, typer.Option("--dry-run", help="Check everything and show settings and cost.")
    ],
}


def add_job(
    app: typer.Typer,
    name: str,
    config: type[Config],
    run: Callable[[Config, bool], None],
) -> None:
    """Add a command whose options are the fields of a config.

    Args:
        app: Gets the command; its context object holds the flags of `entrostat serve`.
        name: Of the command.
        config: Its settings.
        run: Called with the settings and whether this is a dry run; its docstring is the help.
    """

    def command(ctx: typer.Context, **given: Any) -> None:
        program = ctx.parent.info_name if ctx.parent else ""
        _run(f"{program} {name}", config, run, given, ctx.obj or ())

    context = inspect.Parameter("ctx", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)
    _describe(command, [context, *_parameters(config)], run, config)
    app.command(name)(command)


def job_command(
    program: str, config: type[Config], run: Callable[[Config, bool], None]
) -> Callable[..., None]:
    """A command for typer whose options are the fields of a config.

    Args:
        program: Begins the messages of errors.
        config: Its settings.
        run: As for `add_job`.
    """

    def command(**given: Any) -> None:
        _run(program, config, run, given, ())

    _describe(command, _parameters(config), run, config)
    return command


def _describe(
    command: Callable[..., None],
    parameters: list[inspect.Parameter],
    run: Callable[[Config, bool], None],
    config: type[Config],
) -> None:
    """Give a command the signature and the help that typer reads."""
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {one.name: one.annotation for one in parameters}
    duration = f"Estimated duration: {config.minutes}, for the default model on two cores."
    command.__doc__ = f"{inspect.getdoc(run)}\n\n{duration}"


def _run(
    program: str,
    config: type[Config],
    run: Callable[[Config, bool], None],
    given: dict[str, Any],
    serve_flags: tuple[str, ...],
) -> None:
    from training.cli.errors import one_sentence_errors

    with one_sentence_errors(program):
        dry_run = given.pop("dry_run")
        flags: dict[str, Any] = {"command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])}
        if serve_flags:
            flags["serve_flags"] = serve_flags
        chosen = load_settings(
            config,
            file=given.pop("config"),
            changes=given.pop("change") or [],
            quick=given.pop("quick"),
            flags=flags | {key: value for key, value in given.items() if value not in (None, [])},
        )
        run(chosen, dry_run)


def _parameters(config: type[JobConfig]) -> list[inspect.Parameter]:
    return [
        *(_parameter(field, info, config) for field, info in _options(config)),
        *(
            inspect.Parameter(
                key,
                inspect.Parameter.KEYWORD_ONLY,
                default=False if get_args(kind)[0] is bool else None,
                annotation=kind,
            )
            for key, kind in _COMMON.items()
        ),
    ]


def _options(config: type[JobConfig]) -> list[tuple[str, FieldInfo]]:
    """Fields that are options: the job's own first, then those that all jobs have."""
    fields = [(key, info) for key, info in config.model_fields.items() if key not in config.hidden]
    return sorted(fields, key=lambda item: item[0] in JobConfig.model_fields)


def _parameter(field: str, info: FieldInfo, config: type[JobConfig]) -> inspect.Parameter:
    kind = _shell_type(info.annotation)
    text = " ".join((info.description or "").split())
    choices = _choices(info.annotation)
    if choices:
        text += f" One of {', '.join(choices)}."
    shown = _default_text(info.default)
    if shown and kind is not bool:
        text += f" Default: {shown}."
    option: Any
    if field in config.arguments:
        several = get_origin(info.annotation) is tuple
        kind = list[str] if several else kind
        metavar = field.upper().removesuffix("S") if several else field.upper()
        option = typer.Argument(help=text, show_default=False, metavar=metavar)
    else:
        names = (_flag(field), *config.aliases.get(field, ()))
        option = typer.Option(*names, help=text, show_default=False)
    return inspect.Parameter(
        field,
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[kind | None, option],
    )


def _flag(field: str) -> str:
    return "--" + field.replace("_", "-")


def _shell_type(annotation: Any) -> Any:
    """The type that the shell's text becomes; the config checks the rest."""
    is_union = get_origin(annotation) in (Union, UnionType)
    parts = get_args(annotation) if is_union else (annotation,)
    return next((kind for kind in (bool, int, float, Path) if kind in parts), str)


def _choices(annotation: Any) -> tuple[str, ...]:
    for part in (annotation, *get_args(annotation)):
        if get_origin(part) is Literal:
            return tuple(map(str, get_args(part)))
    return ()


def _default_text(default: Any) -> str:
    if default is None or default == ():
        return ""
    return ", ".join(map(str, default)) if isinstance(default, tuple) else str(default)


def load_settings(
    config: type[Config],
    *,
    file: Path | None,
    changes: list[str],
    quick: bool,
    flags: Mapping[str, Any],
) -> Config:
    """Settings from their sources; later ones override earlier ones.

    Args:
        config: Which.
        file: TOML file.
        changes: `KEY=VALUE`, of `--set`.
        quick: Whether to begin with the quick size.
        flags: Options of the command line.

    Raises:
        TrainingError: A source is wrong; names the option or the key.
    """
    from training.common.files import read_toml

    values: dict[str, Any] = dict(config.quick) if quick else {}
    origins = dict.fromkeys(values, "--quick")
    sources = [(str(file), read_toml(file))] if file is not None else []
    sources += [("--set", _parse_change(change)) for change in changes]
    for origin, table in sources:
        values |= table
        origins |= dict.fromkeys(table, origin)
    values |= flags
    origins |= dict.fromkeys(flags, "")
    try:
        return config.model_validate(values)
    except ValidationError as error:
        raise TrainingError(_error_sentence(error, values, origins)) from error


def _parse_change(text: str) -> dict[str, Any]:
    key, found, value = text.partition("=")
    if not found or not key.strip():
        raise TrainingError(f"--set `{text}`: write KEY=VALUE")
    try:
        return {key.strip(): tomllib.loads(f"value = {value}")["value"]}
    except tomllib.TOMLDecodeError:
        return {key.strip(): value.strip()}


def _error_sentence(
    error: ValidationError, values: Mapping[str, Any], origins: Mapping[str, str]
) -> str:
    """One sentence about the first thing that is wrong."""
    first = error.errors()[0]
    if not first["loc"]:
        return str(first["msg"]).removeprefix("Value error, ")
    key = str(first["loc"][0])
    origin = origins.get(key, "")
    if first["type"] == "extra_forbidden":
        return f"{origin}: there is no setting `{key}`"
    where = (
        f"{_flag(key)} {_default_text(values.get(key))}".strip()
        if not origin
        else f"{origin}: {key}"
    )
    return f"{where}: {first['msg']}"


def print_settings(config: JobConfig, cost: str) -> None:
    """Print all settings as JSON and what the run takes, for `--dry-run`."""
    print(json.dumps(config.model_dump(mode="json", exclude={"command"}), indent=2))
    print(f"everything is checked, nothing was started: {cost}")
