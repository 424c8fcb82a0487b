"""`train-steering`: makes vectors that move a model's uncertainty. `--help` imports no torch."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from training.cli.errors import one_sentence_errors
from training.cli.options import add_job, print_settings
from training.steering.config import SteeringConfig

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="Make, export and import steering vectors.",
)


def train_steering(argv: Sequence[str] | None = None) -> None:
    """Run `train-steering COMMAND ...`."""
    app(args=None if argv is None else list(argv), prog_name="train-steering")


def east(config: SteeringConfig, dry_run: bool) -> None:
    """Make a vector that raises the entropy over an agent's actions (EAST).

    Reads the residual stream and the entropy over actions at every step of an agent's episodes; the
    vector is their entropy-weighted mean, centered within each episode.

    By default the episodes are bandits in many wordings: stories, names of arms and layouts of the
    history. Some wordings make the vector, others choose layer and strength, and the effect is
    tested on wordings that did neither, beside shuffled and random vectors: the report begins with
    whether the vector transfers. Writes a `steering-vector` artifact.

    For example:

        train-steering east

        train-steering east --wordings mine.jsonl --layers 10-25

        train-steering east ./checkpoint --task log.jsonl --estimator sampled --max-tokens 60

        train-steering east --task buttons --arms 5 --layers 15-25
    """
    from rich.console import Console

    from training.steering.job import check, cost, train_steering

    if dry_run:
        print_settings(config, cost(config, check(config)))
    else:
        train_steering(config, Console())


add_job(app, "east", SteeringConfig, east)


@app.command("export")
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
    with one_sentence_errors("train-steering export"):
        from training.steering.exchange import export_gguf

        export_gguf(artifact, file, strength_relative)
        print(f"control vector: {file}")


@app.command("import")
def import_vector(
    file: Annotated[
        Path, typer.Argument(help="GGUF control vector of llama.cpp, repeng or EasySteer.")
    ],
    name: Annotated[str, typer.Option(help="Id of the artifact, MODEL/NAME.")],
    model: Annotated[
        Path | None,
        typer.Option(help="Checkpoint folder it was made for; without it the embedded default."),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder of artifacts.")] = Path("artifacts"),
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
    with one_sentence_errors("train-steering import"):
        from training.steering.exchange import import_gguf

        folder = import_gguf(file, name, model, out, print, force=force)
        print(f"artifact: {folder}")
