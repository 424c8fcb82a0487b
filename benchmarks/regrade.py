"""Grade the stored answers of a run again: `python -m benchmarks.regrade RUN --task quiz ...`.

A run of `train-probe difficulty` keeps every answer in `traces.jsonl` of a strategy's folder, and
of the verdicts only the accuracies, in `questions.jsonl`. Grading reads no model, so that a change
of graders needs no new answers.
"""

from collections import defaultdict
from pathlib import Path
from typing import Annotated, NamedTuple

import typer
from rich.console import Console

from training.common.files import read_json_lines
from training.common.server_pool import RolloutRecord
from training.datasets.loaders import load_problems
from training.datasets.problem import Problem


class Regraded(NamedTuple):
    """How the verdicts over one task changed."""

    answers: int
    accuracy: float
    """Under the graders of today."""
    stored: float | None
    """The accuracy that the run kept; None where it kept none."""
    questions_changed: int
    """Questions whose accuracy differs from the one that the run kept."""


def regrade(
    problems: list[Problem], answers: dict[int, str], samples: int, stored: dict[str, float]
) -> dict[str, Regraded]:
    """Verdicts by task, and over all under the name `all`.

    Args:
        problems: The questions of the run, in its order.
        answers: Texts by number; answer s of question q has the number q * samples + s.
        samples: Answers to each question.
        stored: Accuracy by prompt, as far as the run kept it.
    """
    verdicts: dict[str, list[tuple[int, int, str]]] = defaultdict(list)
    for index, problem in enumerate(problems):
        texts = [answers[n] for n in range(index * samples, (index + 1) * samples) if n in answers]
        if texts:
            row = (sum(map(problem.is_right, texts)), len(texts), problem.prompt)
            verdicts[problem.task].append(row)
            verdicts["all"].append(row)
    return {task: _summary(rows, stored) for task, rows in verdicts.items()}


def _summary(rows: list[tuple[int, int, str]], stored: dict[str, float]) -> Regraded:
    total = sum(number for _, number, _ in rows)
    known = [(right / number, stored[prompt]) for right, number, prompt in rows if prompt in stored]
    return Regraded(
        answers=total,
        accuracy=sum(right for right, _, _ in rows) / total,
        stored=sum(before for _, before in known) / len(known) if known else None,
        questions_changed=sum(abs(now - before) > 1e-3 for now, before in known),
    )


def main(
    run: Annotated[Path, typer.Argument(help="Folder with traces.jsonl.")],
    task: Annotated[str, typer.Option(help="Tasks of the run, separated by commas.")],
    problems: Annotated[int, typer.Option(help="Questions of the run.")],
    samples: Annotated[int, typer.Option(help="Answers to each question.")] = 1,
    seed: Annotated[int, typer.Option(help="Seed of the run.")] = 0,
) -> None:
    """Print the accuracies of a run under the graders of today, beside those that it kept."""
    asked = load_problems(tuple(task.split(",")), problems, seed)
    records = (RolloutRecord.model_validate(r) for _, r in read_json_lines(run / "traces.jsonl"))
    answers = {record.number: record.text for record in records}
    file = run / "questions.jsonl"
    kept = read_json_lines(file) if file.is_file() else iter(())
    stored = {record["prompt"]: record["accuracy"] for _, record in kept}
    results = regrade(asked, answers, samples, stored)
    console = Console()
    for name, row in sorted(results.items()):
        before = "" if row.stored is None else f", was {row.stored:.3f}"
        console.print(
            f"{name}: {row.answers} answers, accuracy {row.accuracy:.3f}{before}; "
            f"{row.questions_changed} questions changed",
            highlight=False,
        )


if __name__ == "__main__":
    typer.run(main)
