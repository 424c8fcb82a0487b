"""Rows with known answers: our shape, rows of OpenAI's evals, and CSV."""

import csv
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple

from probes.decisions.question import DecisionQuestion, choice, predicate, score
from training.common.errors import TrainingError
from training.common.files import parse_json_lines, read_text
from training.datasets.choices import comparisons, quiz_choices
from training.datasets.tickets import TEAM_QUESTION, dialogues, tickets
from training.datasets.triage import CONDITION_QUESTION, consultations

_VALUES = ("value", "ideal", "label", "answer", "expected", "ground_truth")
"""Names of the right value, in this order."""
_INPUTS = ("input", "text", "prompt")
MAX_OPTIONS = 255


def _routed(rows: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Tickets, each with the question for its team."""
    for one in rows:
        yield {"input": one["input"], "question": TEAM_QUESTION, "value": one["team"]}


def _triage(number: int, seed: int) -> Iterator[dict[str, Any]]:
    for one in consultations(number, seed):
        yield {"input": one["input"], "question": CONDITION_QUESTION, "value": one["condition"]}


BUILT_IN: dict[str, Callable[[int, int], Iterator[dict[str, Any]]]] = {
    "tickets": lambda number, seed: _routed(tickets(number, seed)),
    "dialogues": lambda number, seed: _routed(dialogues(number, seed)),
    "comparisons": comparisons,
    "quiz": quiz_choices,
    "triage": _triage,
}
"""Rows that come with the package, by number and seed."""


class LabeledRow(NamedTuple):
    """An input, the question as a request has it, and the index of its right option."""

    input: Any
    asked: dict[str, Any]
    question: DecisionQuestion
    label: int


def load_rows(source: str, instructions: str | None, limit: int, seed: int) -> list[LabeledRow]:
    """Read labeled rows.

    Args:
        source: A key of `BUILT_IN`, or the path of a JSONL or CSV file.
        instructions: The question of rows that have none.
        limit: Number of built-in rows; files are read whole.
        seed: Seed of built-in rows.

    Raises:
        TrainingError: The file cannot be read, or a row has no question or no right value; names
            the line.
    """
    if source in BUILT_IN:
        made = BUILT_IN[source](limit, seed)
        return [_row(one, f"{source}: row {number}", None) for number, one in enumerate(made, 1)]
    path = Path(source)
    records = list(_records(read_text(path), source, is_csv=path.suffix.lower() == ".csv"))
    if not records:
        raise TrainingError(f"{source}: contains no rows")
    plain = None
    if any("question" not in one and "questions" not in one for _, one in records):
        plain = _choice_of(records, source, instructions)
    rows = []
    for place, record in records:
        for one in _single(record, place):
            rows.append(_row(one, place, plain))
    return rows


def _records(text: str, name: str, *, is_csv: bool) -> Iterator[tuple[str, dict[str, Any]]]:
    if is_csv:
        for number, line in enumerate(csv.DictReader(StringIO(text)), start=2):
            yield f"{name}: line {number}", dict(line)
        return
    for place, record in parse_json_lines(text, name):
        item = record.get("item", record)  # rows of OpenAI's evals
        if not isinstance(item, dict):
            raise TrainingError(f"{place}: `item` is not a JSON object")
        yield place, item


def _single(record: Mapping[str, Any], place: str) -> Iterator[dict[str, Any]]:
    """A row for each question of a record."""
    if "questions" not in record:
        yield dict(record)
        return
    questions, answers = record["questions"], record.get("answers")
    if not isinstance(questions, list) or not isinstance(answers, dict):
        raise TrainingError(f"{place}: `questions` needs a list and `answers` an object by name")
    for question in questions:
        name = question.get("name") if isinstance(question, dict) else None
        if name in answers:
            yield {"input": record.get("input"), "question": question, "value": answers[name]}


def _value(record: Mapping[str, Any], place: str) -> Any:
    for key in _VALUES:
        if key in record and record[key] is not None:
            value = record[key]
            return value[0] if isinstance(value, list) and len(value) == 1 else value
    raise TrainingError(f"{place}: no right value: expected one of {', '.join(_VALUES)}")


def _choice_of(
    records: Iterable[tuple[str, Mapping[str, Any]]], source: str, instructions: str | None
) -> dict[str, Any]:
    """A choice among all right values of rows without a question."""
    if instructions is None:
        raise TrainingError(f"{source}: rows without `question` need --instructions")
    values = sorted({str(_value(one, place)) for place, one in records if "question" not in one})
    if not 2 <= len(values) <= MAX_OPTIONS:
        raise TrainingError(f"{source}: {len(values)} different values; a choice has 2 to 255")
    return {
        "type": "choice",
        "instructions": instructions,
        "choices": [{"value": value} for value in values],
    }


def _row(record: Mapping[str, Any], place: str, plain: dict[str, Any] | None) -> LabeledRow:
    given = next((record[key] for key in _INPUTS if record.get(key) is not None), None)
    if not isinstance(given, str | list):
        raise TrainingError(f"{place}: no `input`: expected a text or messages")
    asked = record.get("question", plain)
    question = question_of(asked, place)
    value = _value(record, place)
    return LabeledRow(given, dict(asked), question, _label(question, value, place))


def question_of(asked: Any, place: str) -> DecisionQuestion:
    """The question of a row, as the server reads it.

    Raises:
        TrainingError: It is not a question; names the line.
    """
    try:
        instructions = asked["instructions"]
        if not isinstance(instructions, str):
            raise TypeError("`instructions` must be a text")
        match asked["type"]:
            case "predicate":
                return predicate(instructions)
            case "choice":
                options = asked["choices"]
                names = [one["value"] for one in options]
                return choice(instructions, names, [one.get("description") for one in options])
            case "score":
                levels = asked["levels"]
                names = [one["label"] for one in levels]
                return score(instructions, names, [one.get("description") for one in levels])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise TrainingError(f"{place}: not a question of /v1/decisions: {error}") from error
    raise TrainingError(f"{place}: unknown question type `{asked['type']}`")


def _label(question: DecisionQuestion, value: Any, place: str) -> int:
    """Index of the right option; texts such as `true`, and labels of levels, are understood."""
    for index, option in enumerate(question.options):
        if type(option.value) is type(value) and option.value == value:
            return index
    text = str(value).strip().lower()
    for index, option in enumerate(question.options):
        if text in (str(option.value).lower(), option.text.lower()):
            return index
    known = ", ".join(json.dumps(one) for one in question.values[:10])
    raise TrainingError(f"{place}: `{value}` is not an option: {known}")
