"""The task of an inquiry: labels to tell apart and questions that may be asked.

    {"name": "pets", "subject": "pet", "labels": [{"name": "cat", "phrase": "A cat"}, ...],
     "queries": [{"question": "Does it bark?", "property": "barks.", "yes": ["dog"]}, ...]}

A label's phrase and a question's property form a statement, "A cat barks.", whose likelihood the
predictor `likelihood` uses. The answers are yes and no, in any language.
"""

import json
from collections import Counter
from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Self

import torch
from jaxtyping import Float
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from torch import Tensor

from probes.inquiry.text import normalize_question

MAX_LABELS = 128
"""The number of log-probabilities that vLLM returns for one token."""
MAX_QUERIES = 1000

_LINE = r"^[^\s\x00-\x1f\x7f-\x9f]([^\x00-\x1f\x7f-\x9f]*[^\s\x00-\x1f\x7f-\x9f])?$"

Line = Annotated[str, Field(min_length=1, max_length=300, pattern=_LINE)]
"""One line of text without control characters and without blanks around it."""


class TaskError(ValueError):
    """A task is invalid; the message gives the location."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Label(_Strict):
    """One thing that may be the answer."""

    name: Line
    """As reports and the final answer name it."""
    phrase: Line
    """Begins a statement: `A zebra`."""


class Replies(_Strict):
    """How people say the answers of one question, or of a whole task."""

    yes: tuple[Line, ...] = ()
    no: tuple[Line, ...] = ()


class Query(_Strict):
    """One yes/no question, and what is known of its answers."""

    question: Line
    """As it is asked."""
    property: Line
    """Ends a statement: `has stripes.`"""
    yes: tuple[str, ...] | None = None
    """Names of the labels whose answer is yes; None where the answers are not known."""
    varies: tuple[str, ...] = ()
    """Names of the labels for which either answer may come."""
    replies: Replies = Replies()
    """Examples in free text."""


class Task(_Strict):
    """Labels, questions and wording of one inquiry."""

    name: Annotated[str, Field(pattern=r"^\w[\w.-]{0,99}$")]
    subject: Line
    """What a label is: `animal`."""
    introduction: Line | None = None
    """Tells a person what to do."""
    guess: Line = "I think it is: {label}."
    """The final answer; holds `{label}` once."""
    open_question: Line = "Is it true that it {property}?"
    """Asks about a property that the model proposes; holds `{property}` once."""
    labels: Annotated[tuple[Label, ...], Field(min_length=2, max_length=MAX_LABELS)]
    answers: tuple[Line, Line] = ("yes", "no")
    """Words for yes and no."""
    replies: Replies = Replies()
    """Further words for yes and no, which a reply may begin with; English tasks need none."""
    queries: Annotated[tuple[Query, ...], Field(min_length=1, max_length=MAX_QUERIES)]

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.guess.count("{label}") != 1:
            raise ValueError("guess: must hold {label} exactly once")
        if self.open_question.count("{property}") != 1:
            raise ValueError("open_question: must hold {property} exactly once")
        if normalize_question(self.answers[0]) == normalize_question(self.answers[1]):
            raise ValueError("answers: the two must differ")
        _refuse_duplicates("labels", [label.name for label in self.labels])
        _refuse_duplicates("queries", [query.question for query in self.queries])
        for index, query in enumerate(self.queries):
            self._refuse_unknown_labels(f"queries.{index}", query)
        return self

    def _refuse_unknown_labels(self, where: str, query: Query) -> None:
        if not normalize_question(query.question):
            raise ValueError(f"{where}.question: holds no word")
        known = {label.name for label in self.labels}
        named = (*(query.yes or ()), *query.varies)
        for name in named:
            if name not in known:
                raise ValueError(f"{where}: `{name}` is none of the labels")
        if twins := _duplicates(named):
            raise ValueError(f"{where}: `{twins[0]}` is named twice")
        if query.varies and query.yes is None:
            raise ValueError(f"{where}.varies: stands beside `yes` only")

    @property
    def names(self) -> list[str]:
        """The labels' names, in order."""
        return [label.name for label in self.labels]

    @property
    def questions(self) -> list[str]:
        """The questions, in order."""
        return [query.question for query in self.queries]

    def answer_table(self) -> Float[Tensor, "labels questions"]:
        """Known answers, float64, shape (K, Q): 1 for yes, 0 for no, NaN where unknown."""
        table = torch.full((len(self.labels), len(self.queries)), torch.nan, dtype=torch.float64)
        for column, query in enumerate(self.queries):
            if query.yes is None:
                continue
            for row, name in enumerate(self.names):
                if name not in query.varies:
                    table[row, column] = float(name in query.yes)
        return table

    def proposed(self, prop: str) -> Query:
        """The open question about a property without its full stop, such as `has stripes`."""
        question = self.open_question.replace("{property}", prop)
        return Query(question=question, property=f"{prop}.")

    def open_query(self, text: str) -> Query | None:
        """Parse an open question from a message; None if it is not one."""
        before, after = self.open_question.split("{property}")
        line = " ".join(text.split())
        fits = line.startswith(before) and line.endswith(after)
        prop = line[len(before) : len(line) - len(after)] if fits else ""
        try:
            return self.proposed(prop) if normalize_question(prop) else None
        except ValidationError:  # longer than a question may be
            return None


def _duplicates(names: Iterable[str]) -> list[str]:
    return [name for name, count in Counter(names).items() if count > 1]


def _refuse_duplicates(where: str, texts: Iterable[str]) -> None:
    if twins := _duplicates(normalize_question(text) for text in texts):
        raise ValueError(f"{where}: `{twins[0]}` is there twice")


def builtin_tasks() -> list[str]:
    """Names of the included tasks."""
    found = (file.name for file in files("probes.inquiry.tasks").iterdir())
    return sorted(name.removesuffix(".json") for name in found if name.endswith(".json"))


def load_task(source: str) -> Task:
    """Read a task by the name of a built-in one or from a JSON file.

    Raises:
        TaskError: There is no such task, or the file is invalid; gives the location.
    """
    if source in builtin_tasks():
        text = (files("probes.inquiry.tasks") / f"{source}.json").read_text("utf-8")
    else:
        try:
            text = Path(source).read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            known = ", ".join(builtin_tasks())
            raise TaskError(
                f"{source}: is neither a file that can be read nor one of {known}"
            ) from error
    return parse_task(text, source)


def parse_task(text: str, source: str) -> Task:
    """Read a task from JSON.

    Raises:
        TaskError: The text is not JSON or not a task; names `source` and the location.
    """
    try:
        return Task.model_validate(json.loads(text))
    except json.JSONDecodeError as error:
        raise TaskError(
            f"{source}: line {error.lineno}, column {error.colno}: {error.msg}"
        ) from error
    except ValidationError as error:
        finding = error.errors()[0]
        where = ".".join(map(str, finding["loc"]))
        message = str(finding["msg"]).removeprefix("Value error, ")
        raise TaskError(": ".join(filter(None, (source, where, message)))) from error
