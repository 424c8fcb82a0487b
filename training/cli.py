"""`train-probe`: makes the artifacts that a server acts with. `--help` imports no torch."""

import os
import shlex
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

_app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="Make the artifacts that a server acts with.",
)
_app.callback()(lambda: None)  # keep subcommands even while there is only one


def train_probe(argv: Sequence[str] | None = None) -> None:
    """Run `train-probe COMMAND ...`; what follows `--` are flags of `entrostat serve`."""
    words = list(sys.argv[1:] if argv is None else argv)
    cut = words.index("--") if "--" in words else len(words)
    _app(args=words[:cut], obj=tuple(words[cut + 1 :]), prog_name="train-probe")


@_app.command()
def temperature(
    ctx: typer.Context,
    model: Annotated[
        str | None,
        typer.Argument(help="Checkpoint to serve for this; without it the embedded default."),
    ] = None,
    server: Annotated[
        str | None,
        typer.Option(help="Use running servers instead: one address or several, by commas."),
    ] = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option(help="Folder of the model's files, where the server's own is not here."),
    ] = None,
    prompts: Annotated[
        Path | None,
        typer.Option(help="JSONL, a `prompt` per line; without it the shipped ones."),
    ] = None,
    tokens: Annotated[
        int, typer.Option(max=10_000_000, help="How many tokens to sample, 2000 or more.")
    ] = 20_000,
    max_tokens: Annotated[int, typer.Option(min=1, help="Longest answer.")] = 256,
    temperature: Annotated[
        float, typer.Option(min=0.01, max=2.0, help="Temperature of the answers.")
    ] = 1.0,
    quantile: Annotated[
        float, typer.Option(min=0.01, max=0.99, help="Quantile of ln H that stays at T0.")
    ] = 0.8,
    tail: Annotated[
        float, typer.Option(min=0.0, max=0.2, help="Share of tokens beyond each limit.")
    ] = 0.01,
    seed: Annotated[int, typer.Option(help="Same seed, same requests.")] = 0,
    concurrency: Annotated[int, typer.Option(min=1, help="Requests at once.")] = 16,
    out: Annotated[Path, typer.Option(help="Folder of artifacts.")] = Path("artifacts"),
    name: Annotated[
        str | None, typer.Option(help="Id of the artifact, MODEL/NAME; else MODEL/entropy.")
    ] = None,
    runs: Annotated[
        Path, typer.Option(help="Folder of runs; the same command goes on where it stopped.")
    ] = Path("runs"),
    fresh: Annotated[bool, typer.Option("--fresh", help="Start the run over.")] = False,
) -> None:
    """Fit the entropy statistics that the law `hapo` needs.

    Samples the model through a server, measures the entropy of every token and writes an
    `entropy-statistics` artifact and a report. What follows `--` goes to `entrostat serve`.

    For example:

        train-probe temperature

        train-probe temperature ./checkpoint --prompts mine.jsonl -- --dtype float32

        train-probe temperature --server http://127.0.0.1:8000 --tokens 100000
    """
    from training.errors import TrainingError

    signal.signal(signal.SIGTERM, _leave)
    os.environ.setdefault("NO_PROXY", "127.0.0.1")  # a server started here is never behind a proxy
    try:
        from rich.console import Console

        from training.train_temperature import TemperatureJob, train_temperature

        job = TemperatureJob(
            model=model,
            servers=() if server is None else tuple(url.strip() for url in server.split(",")),
            serve_flags=ctx.obj,
            checkpoint=checkpoint,
            prompts=prompts,
            tokens=tokens,
            max_tokens=max_tokens,
            temperature=temperature,
            quantile=quantile,
            tail=tail,
            seed=seed,
            concurrency=concurrency,
            out=out,
            name=name,
            runs=runs,
            fresh=fresh,
            command=shlex.join(["train-probe", *sys.argv[1:]]),
        )
        train_temperature(job, Console())
    except TrainingError as error:
        _fail("temperature", error)
    except ModuleNotFoundError as error:
        _fail("temperature", f"needs {error.name}: run `pip install 'entrostat[train]'`")
    except KeyboardInterrupt:
        print("stopped: the same command goes on from here", file=sys.stderr)
        raise SystemExit(130) from None


def _leave(signum: int, frame: object) -> None:
    """Unwind on SIGTERM, so that a server started here is stopped too."""
    raise SystemExit(143)


def _fail(command: str, message: object) -> None:
    print(f"train-probe {command}: {message}", file=sys.stderr)
    raise SystemExit(2)
