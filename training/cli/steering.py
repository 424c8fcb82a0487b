"""`train-steering`: makes vectors that move a model's uncertainty. `--help` imports no torch."""

import re
import shlex
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Annotated

import typer

from training.cli.probe import FreshOption, OutOption, RunsOption, SeedOption, one_sentence_errors

_app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="Make, export and import steering vectors.",
)

_TRANSFER = "more-fruits,slots,buttons,lettered-buttons,numbered-buttons:2"


def train_steering(argv: Sequence[str] | None = None) -> None:
    """Run `train-steering COMMAND ...`."""
    _app(args=None if argv is None else list(argv), prog_name="train-steering")


@_app.command()
def east(
    model: Annotated[
        Path | None, typer.Argument(help="Checkpoint folder; without it the embedded default.")
    ] = None,
    task: Annotated[
        str,
        typer.Option(
            help="Episodes to learn from: a built-in bandit (fruits, more-fruits, slots, "
            "coloured-slots, lettered-slots, numbered-slots, buttons, coloured-buttons, "
            "lettered-buttons, numbered-buttons), or a JSONL log with `episode`, `step`, "
            "`prompt`, `actions` and optionally `answer_prefix`, the start of the answer."
        ),
    ] = "fruits",
    transfer: Annotated[
        str,
        typer.Option(
            help="Other bandits to test on, by commas, each perhaps with its number of arms."
        ),
    ] = _TRANSFER,
    arms: Annotated[int, typer.Option(help="Arms of a bandit, 2 to 8.")] = 4,
    histories: Annotated[int, typer.Option(min=2, help="Runs to learn from.")] = 24,
    held_out: Annotated[
        int, typer.Option(min=1, help="Runs to choose on, and as many to test on, per task.")
    ] = 8,
    steps: Annotated[int, typer.Option(min=2, help="Steps of a bandit's run.")] = 8,
    estimator: Annotated[
        str,
        typer.Option(
            help="Entropy over actions: `logit`, off the probabilities of the actions' tokens, or "
            "`sampled`, from completions that name an action, as in the paper."
        ),
    ] = "logit",
    completions: Annotated[int, typer.Option(min=2, help="To draw at each step.")] = 25,
    max_tokens: Annotated[int, typer.Option(min=1, help="Longest completion.")] = 6,
    miller_madow: Annotated[
        bool, typer.Option("--miller-madow", help="Correct the bias of `sampled`.")
    ] = False,
    layers: Annotated[
        str | None, typer.Option(help="Layers to try, such as 10-20,24, from 0; else all.")
    ] = None,
    strengths: Annotated[
        str,
        typer.Option(
            help="To try, by commas, in multiples of the residual stream's norm; 0 is added, and "
            "every strength is tried with both signs."
        ),
    ] = "0.05,0.1,0.15,0.2,0.3,0.4",
    valid_share: Annotated[
        float,
        typer.Option(
            min=0, max=1, help="Least probability of any action, as a share of the unsteered one."
        ),
    ] = 0.9,
    seed: SeedOption = 0,
    out: OutOption = Path("artifacts"),
    name: Annotated[
        str | None, typer.Option(help="Id of the artifact, MODEL/NAME; else MODEL/explore.")
    ] = None,
    runs: RunsOption = Path("runs"),
    fresh: FreshOption = False,
) -> None:
    """Make a vector that raises the entropy over an agent's actions (EAST).

    Reads the residual stream and the entropy over actions at every step of an agent's runs; the
    vector is their entropy-weighted mean, centred within each run. Layer and strength are chosen on
    other runs, and tested on others again beside shuffled and random vectors. Writes a
    `steering-vector` artifact and a report.

    For example:

        train-steering east

        train-steering east ./checkpoint --task log.jsonl --estimator sampled --max-tokens 60

        train-steering east --task buttons --arms 5 --layers 15-25
    """
    with _errors("east"):
        from rich.console import Console

        from training.common.errors import TrainingError
        from training.steering.config import SteeringJob
        from training.steering.job import train_steering as run

        if estimator not in ("logit", "sampled"):
            raise TrainingError(f"--estimator `{estimator}`: one of logit, sampled")
        job = SteeringJob(
            model=model,
            task=task,
            transfer=tuple(part.strip() for part in transfer.split(",") if part.strip()),
            arms=arms,
            histories=histories,
            held_out=held_out,
            steps=steps,
            estimator="logit" if estimator == "logit" else "sampled",
            completions=completions,
            max_tokens=max_tokens,
            miller_madow=miller_madow,
            layers=_numbers(layers),
            strengths=_strengths(strengths),
            valid_share=valid_share,
            seed=seed,
            out=out,
            name=name,
            runs=runs,
            fresh=fresh,
            command=shlex.join(["train-steering", *sys.argv[1:]]),
        )
        run(job, Console())


@_app.command("export")
def export_vector(
    artifact: Annotated[Path, typer.Argument(help="Folder of a steering vector.")],
    file: Annotated[Path, typer.Argument(help="GGUF file to write.")],
    strength_relative: Annotated[
        float | None,
        typer.Option(
            help="Scale the directions, in multiples of the residual stream's norm, so that a "
            "scale of 1 means this strength; else the vectors are written as they are."
        ),
    ] = None,
) -> None:
    """Write a steering vector as a control vector that llama.cpp and repeng read.

    `direction.N` belongs behind decoder layer N, counted from 0, as everywhere here.

    For example:

        train-steering export artifacts/smollm2-135m/explore explore.gguf --strength-relative 0.1
    """
    with _errors("export"):
        from training.steering.exchange import export_gguf

        export_gguf(artifact, file, strength_relative)
        print(f"control vector: {file}")


@_app.command("import")
def import_vector(
    file: Annotated[
        Path, typer.Argument(help="GGUF control vector of llama.cpp, repeng or EasySteer.")
    ],
    name: Annotated[str, typer.Option(help="Id of the artifact, MODEL/NAME.")],
    model: Annotated[
        Path | None,
        typer.Option(help="Checkpoint folder it was made for; without it the embedded default."),
    ] = None,
    out: OutOption = Path("artifacts"),
    force: Annotated[
        bool, typer.Option("--force", help="Import it although it names another architecture.")
    ] = False,
) -> None:
    """Make an artifact of a control vector, so that a server can steer with it.

    Reads some prompts with the model for the mean norm of the residual stream behind each layer,
    which the file does not hold and `strength_relative` counts in.

    For example:

        train-steering import explore.gguf --name smollm2-135m/imported
    """
    with _errors("import"):
        from training.steering.exchange import import_gguf

        folder = import_gguf(file, name, model, out, print, force=force)
        print(f"artifact: {folder}")


def _numbers(text: str | None) -> tuple[int, ...] | None:
    """`10-12,20` as 10, 11, 12, 20."""
    from training.common.errors import TrainingError

    if text is None:
        return None
    found = list[int]()
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d+)(?:-(\d+))?\s*", part)
        if match is None or int(match[2] or match[1]) < int(match[1]):
            raise TrainingError(f"--layers `{text}`: write numbers and ranges such as 10-20,24")
        found += range(int(match[1]), int(match[2] or match[1]) + 1)
    return tuple(found)


def _strengths(text: str) -> tuple[float, ...]:
    from training.common.errors import TrainingError

    try:
        found = {float(part) for part in text.split(",")}
    except ValueError:
        found = set()
    found -= {0.0}
    if not found or not all(abs(strength) <= 10 for strength in found):
        raise TrainingError(f"--strengths `{text}`: write numbers up to 10, such as 0.1,0.2,0.4")
    return tuple(sorted({0.0, *found, *(-strength for strength in found)}))


def _errors(command: str) -> AbstractContextManager[None]:
    return one_sentence_errors(f"train-steering {command}")
