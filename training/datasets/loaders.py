"""Loads problems from a built-in task, a file, or a data set of the hub."""

import random
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from probes.graders import GRADERS, GraderName
from training.common.errors import TrainingError
from training.common.files import parse_json_lines, read_json_lines
from training.datasets.arithmetic import arithmetic, drill, word_problems
from training.datasets.problem import Problem
from training.datasets.records import Record, read_level, read_record
from training.datasets.turns import interleave

BUILT_IN = ("arithmetic", "words", "facts", "quiz", "drill")
HUB = {"openai/gsm8k": "gsm8k", "HuggingFaceH4/MATH-500": "math500"}
"""Tested data sets of the Hugging Face hub, and their names in reports."""
TEST_ONLY = frozenset(("HuggingFaceH4/MATH-500",))
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
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
    """Load the problems of tasks, interleaved so that every prefix is balanced.

    Args:
        tasks: Built-in names, paths of JSONL files in a shape that `read_record`
            reads, or ids of data sets of the hub.
        number: Number of problems over all tasks; a task with fewer problems returns all of them.
        seed: Seed; equal seeds give equal problems.
        grader: Grader for files whose lines have no `grader`.
        split: Split of the data sets of the hub; train on "train", evaluate on "test".

    Raises:
        TrainingError: A task is unknown or lacks the split, or a file cannot be read or has an
            answer that its grader does not support; the message names the line.
    """
    share = -(-number // len(tasks))
    chosen = list(interleave(_load(task, share, seed, grader, split) for task in tasks))
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
        return _balance_tasks(_shipped(task), number, seed)
    path = Path(task)
    if path.suffix == ".jsonl" or path.is_file():
        return _sample(_parse(read_json_lines(path), path.stem, grader), number, seed)
    if _HUB_ID.fullmatch(task):
        return _sample(_from_hub(task, split, grader), number, seed)
    known = ", ".join([*BUILT_IN, *HUB])
    raise TrainingError(f"--task `{task}`: neither a JSONL file nor one of {known}")


def _shipped(task: str) -> list[Problem]:
    text = files("training.datasets").joinpath(f"{task}.jsonl").read_text("utf-8")
    return _parse(parse_json_lines(text, task), task, "contains")


def _balance_tasks(problems: list[Problem], number: int, seed: int) -> list[Problem]:
    """Choose equally many problems of every task, as far as available."""
    turns: dict[str, int] = defaultdict(int)
    rows = []
    for problem in _sample(problems, len(problems), seed):
        rows.append((turns[problem.task], problem))
        turns[problem.task] += 1
    return [problem for _, problem in sorted(rows, key=lambda row: row[0])][:number]


def _sample(problems: list[Problem], number: int, seed: int) -> list[Problem]:
    order = random.Random(seed).sample(range(len(problems)), min(number, len(problems)))
    return [problems[index] for index in order]


def _parse(
    records: Iterable[tuple[str, Record]], task: str, grader: GraderName | None
) -> list[Problem]:
    found: dict[str, tuple[str, Problem]] = {}
    for place, record in records:
        problem = _problem(record, place, task, grader)
        first, known = found.setdefault(problem.prompt, (place, problem))
        if known.answer != problem.answer:
            raise TrainingError(
                f"{place} asks what {first.rpartition(': ')[2]} asks, and has another answer: "
                f"`{problem.answer}`, not `{known.answer}`"
            )
    return [problem for _, problem in found.values()]


def _problem(record: Record, place: str, task: str, grader: GraderName | None) -> Problem:
    """Convert a record to a problem.

    Raises:
        TrainingError: The record is not a problem; the message starts with its place.
    """
    fields = read_record(record, place)
    fields["grader"] = record.get("grader") or grader or fields.get("grader")
    if fields["grader"] is None:
        raise TrainingError(
            f"{place} names no `grader`: add one, or say --grader {'|'.join(GRADERS)}"
        )
    if (level := read_level(record, place)) is not None:
        fields["level"] = level
    try:
        problem = Problem(task=str(record.get("task", task)), **fields)
    except ValidationError as error:
        finding = error.errors()[0]
        field = ".".join(map(str, finding["loc"]))
        raise TrainingError(f"{place}: {field}: {finding['msg']}") from error
    _check_answer(problem, place)
    return problem


def _check_answer(problem: Problem, place: str) -> None:
    """Refuse an answer that no reply can match."""
    is_math = problem.grader == "math"
    if is_math and find_spec("math_verify") is None:
        return
    reply = f"${problem.answer}$" if is_math else problem.answer
    if not problem.is_right(reply):
        raise TrainingError(
            f"{place}: answer: `{problem.answer[:100]}` can never be given, because the grader "
            f"`{problem.grader}` wants {_WANTED[problem.grader]}"
        )


def _from_hub(name: str, split: Split, grader: GraderName | None) -> list[Problem]:
    if split == "train" and name in TEST_ONLY:
        raise TrainingError(f"--task {name}: is a test set, to measure on and not to train on")
    try:
        from datasets import load_dataset

        config = ("main",) if name == "openai/gsm8k" else ()
        rows = load_dataset(name, *config, split=split)
    except ModuleNotFoundError:
        raise
    except Exception as error:  # the hub client raises various errors without a network
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise TrainingError(
            f"--task {name}: is no file here and cannot be loaded from the hub: {reason}"
        ) from error
    places = ((f"{name} ({split}): row {number}", row) for number, row in enumerate(rows, start=1))
    return _parse(places, HUB.get(name, name.rpartition("/")[2]), grader)
