"""Where questions come from: the name of a built-in task, a file, or a data set of the hub."""

import json
import random
import re
from collections import defaultdict
from collections.abc import Sequence
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from probes.graders import GRADERS, GraderName
from training.common.errors import TrainingError
from training.common.files import read_text
from training.datasets.arithmetic import arithmetic, drill, word_problems
from training.datasets.problem import Problem
from training.datasets.turns import in_turn

BUILT_IN = ("arithmetic", "words", "facts", "quiz", "drill")
HUB = {"openai/gsm8k": "numeric", "HuggingFaceH4/MATH-500": "math"}
"""Data sets of the Hugging Face hub and their graders."""
Split = Literal["train", "test"]

_WANTED: dict[GraderName, str] = {
    "exact": "text without `Answer:`",
    "contains": "text without `Answer:`",
    "numeric": "one number",
    "math": "mathematics in LaTeX",
    "choice": "a letter from A to J",
}


def load_problems(
    tasks: Sequence[str],
    number: int,
    seed: int,
    grader: GraderName | None = None,
    *,
    split: Split = "test",
) -> list[Problem]:
    """Questions of these tasks in turn, so that the first few have all of them evenly.

    Args:
        tasks: Built-in names, paths of JSONL files with `prompt` and `answer`, or ids of `HUB`.
        number: How many over all tasks; a task that has fewer gives all it has.
        seed: Same seed, same questions.
        grader: For files whose lines name none.
        split: Of the data sets of the hub; train on "train", measure on "test".

    Raises:
        TrainingError: A task is unknown or has no such split, or a file cannot be read or has an
            answer that its grader cannot use; names the line.
    """
    share = -(-number // len(tasks))
    chosen = list(in_turn(_load(task, share, seed, grader, split) for task in tasks))
    if not chosen:
        raise TrainingError("there are no questions in these tasks")
    return chosen[:number]


def _load(
    task: str, number: int, seed: int, grader: GraderName | None, split: Split
) -> list[Problem]:
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
        return _sample(_from_hub(task, split), number, seed)
    path = Path(task)
    if path.suffix == ".jsonl" or path.is_file():
        return _sample(_parse(read_text(path), str(path), path.stem, grader), number, seed)
    known = ", ".join([*BUILT_IN, *HUB])
    raise TrainingError(f"--task `{task}`: neither a JSONL file nor one of {known}")


def _shipped(task: str) -> list[Problem]:
    text = files("training.datasets").joinpath(f"{task}.jsonl").read_text("utf-8")
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
    found: dict[str, tuple[int, Problem]] = {}
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        place = f"{where}: line {number}"
        problem = _problem(line, place, task, grader)
        first, known = found.setdefault(problem.prompt, (number, problem))
        if known.answer != problem.answer:
            raise TrainingError(
                f"{place} asks what line {first} asks, and has another answer: "
                f"`{problem.answer}`, not `{known.answer}`"
            )
    return [problem for _, problem in found.values()]


def _problem(line: str, place: str, task: str, grader: GraderName | None) -> Problem:
    """The problem of a line.

    Raises:
        TrainingError: It is none; begins with the place.
    """
    try:
        record = json.loads(line)
        fields = {key: record[key] for key in ("prompt", "grade") if key in record}
        fields["answer"] = _answer(record.get("answer"), place)
        fields["grader"] = record.get("grader", grader)
        if fields["grader"] is None:
            raise TrainingError(
                f"{place} names no `grader`: add one, or say --grader {'|'.join(GRADERS)}"
            )
        problem = Problem(task=str(record.get("task", task)), **fields)
    except (json.JSONDecodeError, TypeError, AttributeError) as error:
        raise TrainingError(f"{place} is no JSON object") from error
    except ValidationError as error:
        finding = error.errors()[0]
        field = ".".join(map(str, finding["loc"]))
        raise TrainingError(f"{place}: {field}: {finding['msg']}") from error
    _check_answer(problem, place)
    return problem


def _answer(value: Any, place: str) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise TrainingError(f"{place}: answer: must be a text or a number")
    return str(value).strip()


def _check_answer(problem: Problem, place: str) -> None:
    """Refuse an answer that would make every reply wrong."""
    is_math = problem.grader == "math"
    if is_math and find_spec("math_verify") is None:
        return
    reply = f"${problem.answer}$" if is_math else problem.answer
    if not problem.is_right(reply):
        raise TrainingError(
            f"{place}: answer: `{problem.answer}` can never be given, because the grader "
            f"`{problem.grader}` wants {_WANTED[problem.grader]}"
        )


def _from_hub(name: str, split: Split) -> list[Problem]:
    if split == "train" and name != "openai/gsm8k":
        raise TrainingError(f"--task {name}: is a test set, to measure on and not to train on")
    try:
        from datasets import load_dataset

        config = ("main",) if name == "openai/gsm8k" else ()
        rows = load_dataset(name, *config, split=split)
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
