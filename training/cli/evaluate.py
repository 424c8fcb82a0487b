"""`entrostat evaluate`: what controls are worth on a model and a task. Imports no torch."""

from training.cli.options import job_command, print_settings
from training.evaluation.config import EvaluateConfig


def _evaluate(config: EvaluateConfig, dry_run: bool) -> None:
    """Measure which controls help on your model and your questions, and which do not.

    Asks every question in many ways: at fixed temperatures, under each profile of the server, and
    under the controls that a profile has to beat, such as its own temperatures in random order.
    Half of the questions choose, the other half score. Also measures how well the entropy report
    tells wrong answers from right ones.

    With `--against plain` each profile is compared with the plain request only. That costs a third
    or less and shows whether a profile loses accuracy, but recommends no law and no router.

    Writes a folder for each task: a page with a figure, the raw numbers as JSON, and
    `recommended.toml`, the profiles that beat their controls, for `entrostat serve --profiles`. An
    interrupted run is resumed by the same command.

    For example:

        entrostat evaluate quiz --quick

        entrostat evaluate words --max-tokens 256 --url http://127.0.0.1:8000

        entrostat evaluate mine.jsonl --grader numeric --profiles adaptive,steady

        entrostat evaluate quiz --against plain --questions 400 --samples 2
    """
    from rich.console import Console

    from training.evaluation.job import check, cost, evaluate

    if dry_run:
        print_settings(config, cost(config, check(config)))
    else:
        evaluate(config, Console())


evaluate = job_command("entrostat evaluate", EvaluateConfig, _evaluate)
