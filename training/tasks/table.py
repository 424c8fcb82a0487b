"""Where questions come from: the name of a built-in task, a file, or a data set of the hub."""

import json
import random
import re
from collections import defaultdict
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from pydantic import ValidationError

from probes.grading import GRADERS, GraderName
from training.errors import TrainingError
from training.tasks.arithmetic import arithmetic, drill, word_problems
from training.tasks.problem import Problem
from training.text import read_text

BUILT_IN = ("arithmetic", "words", "facts", "quiz", "drill")
HUB = {"openai/gsm8k": "numeric", "HuggingFaceH4/MATH-500": "math"}
"""Data sets of the Hugging Face hub and their graders."""


def load_problems(
    tasks: Sequence[str], number: int, seed: int, grader: GraderName | None = None
) -> list[Problem]:
    """Questions of these tasks, evenly.

    Args:
        tasks: Built-in names, paths of JSONL files with `prompt` and `answer`, or ids of `HUB`.
        number: How many over all tasks; a task that has fewer gives all it has.
        seed: Same seed, same questions.
        grader: For files whose lines name none.

    Raises:
        TrainingError: A task is unknown, or a file cannot be read; names the line.
    """
    share = -(-number // len(tasks))
    chosen = [problem for task in tasks for problem in _load(task, share, seed, grader)]
    if not chosen:
        raise TrainingError("there are no questions in these tasks")
    return chosen[:number]


def _load(task: str, number: int, seed: int, grader: GraderName | None) -> list[Problem]:
    if task == "arithmetic":
        return arithmetic(number, seed)
    if task == "drill":
        return drill(number, seed)
    if task == "words":
        return word_problems(number, seed)
    if task == "facts":
        return _sample(_shipped(task), number, seed)
    if task == "quiz":
        return _in_turn(_shipped(task), number, seed)
    if task in HUB:
        return _sample(_from_hub(task), number, seed)
    path = Path(task)
    if path.suffix == ".jsonl" or path.is_file():
        return _sample(_parse(read_text(path), str(path), path.stem, grader), number, seed)
    known = ", ".join([*BUILT_IN, *HUB])
    raise TrainingError(f"--task `{task}`: neither a JSONL file nor one of {known}")


def _shipped(task: str) -> list[Problem]:
    text = files("training").joinpath(f"tasks/{task}.jsonl").read_text("utf-8")
    return _parse(text, task, task, "contains")


def _in_turn(problems: list[Problem], number: int, seed: int) -> list[Problem]:
    """As many of every kind, as far as there are."""
    turns: dict[str, int] = defaultdict(int)
    rows = []
    for problem in _sample(problems, len(problems), seed):
        rows.append((turns[problem.task], problem))
        turns[problem.task] += 1
    return [problem for _, problem in sorted(rows, key=lambda row: row[0])][:number]


def _sample(problems: list[Problem], number: int, seed: int) -> list[Problem]:
    order = random.Random(seed).sample(range(len(problems)), min(number, len(problems)))
    return [problems[index] for index in order]


def _parse(text: str, where: str, task: str, grader: GraderName | None) -> list[Problem]:
    problems = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
            fields = {key: record[key] for key in ("prompt", "answer", "grade") if key in record}
            fields["grader"] = record.get("grader", grader)
            if fields["grader"] is None:
                raise TrainingError(
                    f"{where}: line {number} names no `grader`: add one, or say --grader "
                    f"{'|'.join(GRADERS)}"
                )
            fields["answer"] = str(fields.get("answer", ""))
            problems.append(Problem(task=str(record.get("task", task)), **fields))
        except (json.JSONDecodeError, TypeError, AttributeError) as error:
            raise TrainingError(f"{where}: line {number} is no JSON object") from error
        except ValidationError as error:
            finding = error.errors()[0]
            field = ".".join(map(str, finding["loc"]))
            raise TrainingError(f"{where}: line {number}: {field}: {finding['msg']}") from error
    return problems


def _from_hub(name: str) -> list[Problem]:
    try:
        from datasets import load_dataset

        config = ("main",) if name == "openai/gsm8k" else ()
        rows = load_dataset(name, *config, split="test")
    except ModuleNotFoundError:
        raise
    except Exception as error:  # whatever the hub's client raises without a network
        raise TrainingError(
            f"--task {name}: cannot be loaded from the hub: {str(error).splitlines()[0]}"
        ) from error
    if name == "openai/gsm8k":
        return [
            Problem(
                task="gsm8k",
                prompt=row["question"],
                answer=re.sub(r"[,$]", "", row["answer"].rpartition("####")[2]).strip(),
                grader="numeric",
            )
            for row in rows
        ]
    return [
        Problem(
            task="math500",
            grade=int(row["level"]),
            prompt=row["problem"],
            answer=row["answer"],
            grader="math",
        )
        for row in rows
    ]
