"""A request's input and questions as the text that the model reads."""

from collections.abc import Iterable, Sequence
from typing import Any

from probes.decisions.question import DecisionQuestion, choice, predicate, score
from server.errors import BadControl
from server.wire.decision_input import (
    AssistantMessage,
    CustomCall,
    CustomOutput,
    DeveloperMessage,
    FunctionCall,
    FunctionOutput,
    InputImage,
    InputJson,
    OutputRefusal,
    UserMessage,
    compact_json,
)
from server.wire.decisions import ChoiceQuestion, PredicateQuestion, ScoreQuestion


def input_text(given: str | Sequence[Any]) -> str:
    """The input as one text.

    A single user message is its content; several items are a transcript, in which each begins with
    its role: the model judges a conversation, it does not continue it.

    Raises:
        BadControl: A part is an image.
    """
    if isinstance(given, str):
        return given
    parts = [(item, _content(item, f"input.{place}")) for place, item in enumerate(given)]
    if len(parts) == 1 and isinstance(parts[0][0], UserMessage):
        return parts[0][1]
    return "\n\n".join(f"{_heading(item)}: {text}" for item, text in parts)


def _heading(item: Any) -> str:
    match item:
        case UserMessage() | DeveloperMessage() | AssistantMessage():
            return str(item.role)
        case FunctionCall() | CustomCall():
            return f"call of {item.name}"
        case _:
            return "result"


def _content(item: Any, place: str) -> str:
    match item:
        case FunctionCall():
            return item.arguments
        case CustomCall():
            return item.input
        case FunctionOutput() | CustomOutput():
            return _joined(item.output, f"{place}.output")
        case _:
            return _joined(item.content, f"{place}.content")


def _joined(content: str | Iterable[Any], place: str) -> str:
    """A text, or the text of its parts on separate lines."""
    if isinstance(content, str):
        return content
    return "\n".join(_part(part, f"{place}.{at}") for at, part in enumerate(content))


def _part(part: Any, place: str) -> str:
    match part:
        case InputImage():
            raise BadControl(f"`{place}`: decisions read text, not images", place)
        case InputJson():
            return compact_json(part.data)
        case OutputRefusal():
            return part.refusal
        case _:
            return str(part.text)


def asked_question(asked: Any, place: str) -> DecisionQuestion:
    """The question of a request, without its name.

    Args:
        asked: A question of `DecisionRequest`.
        place: Its parameter name, such as `questions.0`.

    Raises:
        BadControl: A part is an image.
    """
    instructions = _joined(asked.instructions, f"{place}.instructions")
    match asked:
        case ChoiceQuestion():
            return choice(
                instructions,
                [one.value for one in asked.choices],
                [one.description for one in asked.choices],
            )
        case ScoreQuestion():
            return score(
                instructions,
                [one.label for one in asked.levels],
                [one.description for one in asked.levels],
            )
        case PredicateQuestion():
            return predicate(instructions)
    raise AssertionError(asked)
