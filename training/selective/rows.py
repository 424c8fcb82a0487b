"""Graded answers with their scores: drawn through a server, or read from a file."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from probes.artifact import text_hash
from probes.selective.scores import SCORE_NAMES
from probes.selective.votes import answer_key
from training.common.errors import TrainingError
from training.common.files import read_json_lines, write_text
from training.common.rollout_store import RolloutStore
from training.common.server_pool import SampleRequest, request_seed
from training.datasets.problem import Problem
from training.selective.self_report import SELF_REPORTS


class GradedAnswer(NamedTuple):
    """One answer."""

    question: str
    kind: str
    """Kind of the question."""
    right: bool
    scores: Mapping[str, float]
    """Those of `SCORE_NAMES` that are known."""
    answer: str | None = None
    """In a spelling that equal answers share; None if there is none, or it is not known."""
    reports: Mapping[str, float] = {}
    """Those of `SELF_REPORTS` that are known."""


class GradedAnswers(NamedTuple):
    """Answers that were all made in the same way."""

    rows: list[GradedAnswer]
    temperature: float | None
    window: int | None
    probe_hash: str | None = None
    """Fingerprint of the confidence probe that made `probability`."""
    named: bool = True
    """Whether every answer's question is known."""

    @property
    def hash(self) -> str:
        """The sha256 of all rows."""
        return text_hash(json.dumps([tuple(row) for row in self.rows]))


def is_rows_file(task: str) -> bool:
    """Whether a task is a file of graded answers, not of questions.

    Raises:
        TrainingError: The file cannot be read.
    """
    path = Path(task)
    if path.suffix != ".jsonl" and not path.is_file():
        return False
    first = next(read_json_lines(path), None)
    return first is not None and "right" in first[1]


def load_rows(path: Path) -> GradedAnswers:
    """Read a file of graded answers; a line without `question` is a question of its own.

    Raises:
        TrainingError: A line has no `right` or no score, or lines were made in different ways.
    """
    rows, made, named = [], set[tuple[float | None, int | None, str | None]](), True
    for place, record in read_json_lines(path):
        right = record.get("right")
        if right not in (0, 1):
            raise TrainingError(f"{place}: `right` is true or false, not {right!r:.40}")
        scores = {name: _number(record, name, place) for name in SCORE_NAMES if name in record}
        if not scores:
            raise TrainingError(f"{place}: has no score; known: {', '.join(SCORE_NAMES)}")
        question = str(record.get("question", place))
        named = named and "question" in record
        known: dict[str, float] = {
            name: value for name, value in scores.items() if not math.isnan(value)
        }
        answer = record.get("answer")
        answer = None if answer is None else str(answer)
        kind = str(record.get("kind", ""))
        reports = {name: _number(record, name, place) for name in SELF_REPORTS if name in record}
        rows.append(GradedAnswer(question, kind, bool(right), known, answer, reports))
        made.add((record.get("temperature"), record.get("window"), record.get("probe_hash")))
    if not rows:
        raise TrainingError(f"{path}: has no rows")
    if len(made) > 1:
        raise TrainingError(f"{path}: its lines differ in `temperature`, `window` or `probe_hash`")
    return GradedAnswers(rows, *made.pop(), named)


def _number(record: dict[str, Any], name: str, place: str) -> float:
    value = record[name]
    if value is None:
        return math.nan
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise TrainingError(f"{place}: `{name}` is a number or null, not {value!r:.40}")
    return float(value)


def missing_answers(
    problems: Sequence[Problem], samples: int, instruction: str, seed: int, store: RolloutStore
) -> Iterator[SampleRequest]:
    """Requests that the store has no answer to; number = question * samples + sample."""
    for number in range(len(problems) * samples):
        if number in store.rollouts:
            continue
        content = with_instruction(problems[number // samples].prompt, instruction)
        messages = [{"role": "user", "content": content}]
        yield SampleRequest(number, messages, request_seed(seed, number))


def with_instruction(question: str, instruction: str) -> str:
    """The user message of a question."""
    return f"{question}\n\n{instruction}" if instruction else question


def grade(problems: Sequence[Problem], samples: int, store: RolloutStore) -> list[GradedAnswer]:
    """Grade every answer of a store."""
    rows = []
    for number in range(len(problems) * samples):
        record, problem = store.rollouts[number], problems[number // samples]
        scores = {name: one for name, one in (record.scores or {}).items() if one is not None}
        kind = f"{problem.task} {problem.level}" if problem.level else problem.task
        answer = answer_key(record.text, "auto")
        right = problem.is_right(record.text)
        rows.append(GradedAnswer(problem.prompt, kind, right, scores, answer))
    return rows


def save_rows(answers: GradedAnswers, path: Path) -> None:
    """Write a file that `load_rows` reads."""
    made = {
        "temperature": answers.temperature,
        "window": answers.window,
        "probe_hash": answers.probe_hash,
    }
    lines = [
        json.dumps(
            {
                "question": one.question,
                "kind": one.kind,
                "right": one.right,
                **({} if one.answer is None else {"answer": one.answer}),
                **one.scores,
                **one.reports,
                **made,
            }
        )
        for one in answers.rows
    ]
    write_text(path, "\n".join(lines) + "\n")
