"""`train-policy`: GRPO with control of the entropy. `--help` imports no torch."""

import os
from typing import Annotated

import typer

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)


def train_policy() -> None:
    """Run `train-policy CONFIG`."""
    app(prog_name="train-policy")


@app.command()
def train(
    config: Annotated[
        str | None, typer.Argument(help="TOML file, or the name of a shipped config.")
    ] = None,
    change: Annotated[
        list[str] | None,
        typer.Option("--set", help="key=value for one run, such as optimizer.steps=40."),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Check the run; show its config, memory, disk and time."),
    ] = False,
    list_objectives: Annotated[
        bool, typer.Option("--list-objectives", help="Show every objective and shipped config.")
    ] = False,
    quick: Annotated[
        bool,
        typer.Option("--quick", help="Try it first: few steps, few problems, a folder of its own."),
    ] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Discard the run and start over.")] = False,
) -> None:
    """Train a policy with GRPO and entropy objectives.

    Re-running the same command resumes the run. The run folder holds checkpoints, the
    measurements of every step and a report with a figure. `plain` takes 5 to 16 minutes on
    two CPU cores; try it with --quick first.

    For example:

        train-policy plain --quick

        train-policy plain

        train-policy target-entropy --set seed=1 --set run=runs/second

        train-policy mine.toml --dry-run

        accelerate launch --config_file training/policy/configs/cpu.yaml -m training mine.toml
    """
    from training.cli.errors import one_sentence_errors

    with one_sentence_errors("train-policy"):
        from rich.console import Console

        from training.common.errors import TrainingError

        console = Console(quiet=int(os.environ.get("RANK", "0")) > 0)
        if list_objectives:
            from training.cli.objective_table import print_objectives

            print_objectives(console)
            return
        if config is None:
            raise TrainingError(
                "name a config: a TOML file or a shipped one, see --list-objectives"
            )
        from training.policy.config import config_json, load_config, quick_version

        chosen = load_config(config, change or ())
        if quick:
            chosen = quick_version(chosen)
        if dry_run:
            from training.policy.cost import describe, estimate
            from training.policy.preparation import prepare
            from training.policy.run_folder import refuse_full_disk

            prepare(chosen, fresh=fresh)
            found = estimate(chosen)
            refuse_full_disk(chosen, found.trained)
            console.print_json(config_json(chosen))
            console.print(describe(found, chosen), highlight=False, soft_wrap=True)
            return
        from training.policy import job

        job.train_policy(chosen, console, fresh=fresh)
