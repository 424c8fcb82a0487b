"""A typed question about an input, and what the model is asked to read its answer."""

import string
from collections.abc import Sequence
from typing import Literal

from pydantic import StrictBool, StrictInt, StrictStr

from probes.strict import StrictModel

Kind = Literal["predicate", "choice", "score"]
"""Yes or no, one of several values, or one level of a scale."""
Read = Literal["letters", "statements"]
"""The probability of an option's label, or of the option's own text."""
Value = StrictStr | StrictBool | StrictInt
"""Value of an option: a level's index, true or false, or what a choice names."""

_LETTERS = string.ascii_uppercase
_ENDING = {
    "choice": "Reply with the code of one option only.",
    "score": "Reply with the number of one level only.",
}


class DecisionOption(StrictModel):
    """One possible answer."""

    value: Value
    """What the answer is called."""
    text: str
    """How the model sees it."""
    description: str | None = None
    """What it means."""


class DecisionQuestion(StrictModel):
    """A question and its options; its name is not part of it."""

    kind: Kind
    """Type of the question."""
    instructions: str
    """The question, or the statement to judge."""
    options: tuple[DecisionOption, ...]
    """Possible answers: true and false, the choices, or the levels from the lowest."""

    @property
    def values(self) -> list[str | bool | int]:
        """Values of the options."""
        return [option.value for option in self.options]


def predicate(instructions: str) -> DecisionQuestion:
    """A question to be answered with true or false."""
    options = (DecisionOption(value=True, text="Yes"), DecisionOption(value=False, text="No"))
    return DecisionQuestion(kind="predicate", instructions=instructions, options=options)


def choice(
    instructions: str, values: Sequence[str | bool], descriptions: Sequence[str | None] = ()
) -> DecisionQuestion:
    """A question to be answered with one of the values."""
    notes = [*descriptions, *[None] * (len(values) - len(descriptions))]
    options = tuple(
        DecisionOption(value=value, text=_shown(value), description=note)
        for value, note in zip(values, notes, strict=True)
    )
    return DecisionQuestion(kind="choice", instructions=instructions, options=options)


def score(
    instructions: str, labels: Sequence[str], descriptions: Sequence[str | None] = ()
) -> DecisionQuestion:
    """A question to be answered with one level of a scale, the lowest first."""
    notes = [*descriptions, *[None] * (len(labels) - len(descriptions))]
    options = tuple(
        DecisionOption(value=level, text=label, description=note)
        for level, (label, note) in enumerate(zip(labels, notes, strict=True))
    )
    return DecisionQuestion(kind="score", instructions=instructions, options=options)


def _shown(value: str | bool) -> str:
    return str(value).lower() if isinstance(value, bool) else value


def orders(question: DecisionQuestion, count: int) -> list[list[int]]:
    """Orders in which the options are listed, at most `count`, all different.

    The given order and its reverse, then both rotated by equal steps, so that every option is
    listed early and late equally often.
    """
    size = len(question.options)
    found: list[list[int]] = []
    for number in range(count):
        shift = number // 2 * size // ((count + 1) // 2)
        order = [*range(shift, size), *range(shift)]
        if number % 2:
            order.reverse()
        if order not in found:
            found.append(order)
    return found


def labels(question: DecisionQuestion, order: Sequence[int]) -> list[str]:
    """The label of each option under an order, in the order of the options.

    Up to 26 choices have a letter, more have a letter and a digit. The words of a predicate and the
    numbers of a scale stay with their options.
    """
    size = len(question.options)
    if question.kind == "predicate":
        return [option.text for option in question.options]
    if question.kind == "score":
        return [str(level) for level in range(size)]
    codes = _LETTERS[:size] if size <= len(_LETTERS) else _codes(size)
    found = [""] * size
    for code, option in zip(codes, order, strict=True):
        found[option] = code
    return found


def _codes(size: int) -> list[str]:
    return [f"{_LETTERS[place // 10]}{place % 10}" for place in range(size)]


def context(text: str) -> str:
    """The input as the model sees it, before every question about it."""
    return f"Text:\n{text}"


def letters_prompt(question: DecisionQuestion, order: Sequence[int]) -> str:
    """What follows the input when the reply is the label of an option."""
    shown = labels(question, order)
    if question.kind == "predicate":
        listed = [shown[option] for option in order]
        return _asked(question, [], f"Reply with {' or '.join(listed)} only.")
    lines = [f"{shown[option]}. {_described(question.options[option])}" for option in order]
    return _asked(question, lines, _ENDING[question.kind])


def statements_prompt(question: DecisionQuestion) -> str:
    """What follows the input when the reply is the text of an option."""
    if question.kind == "predicate":
        return _asked(question, [], "Reply with true or false only.")
    lines = [f"- {_described(option)}" for option in question.options]
    return _asked(question, lines, "Reply with the name of one of them only.")


def statements(question: DecisionQuestion) -> list[str]:
    """The reply that states each option."""
    if question.kind == "predicate":
        return ["true", "false"]
    return [option.text for option in question.options]


def _asked(question: DecisionQuestion, lines: Sequence[str], ending: str) -> str:
    return "\n".join(["\n", f"Question: {question.instructions}", *lines, ending])


def _described(option: DecisionOption) -> str:
    return f"{option.text}: {option.description}" if option.description else option.text
