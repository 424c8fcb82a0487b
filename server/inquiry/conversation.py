"""A conversation read as an inquiry: which question got which reply. Pure."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from pydantic import ValidationError

from probes.inquiry.likelihood import NO, YES
from probes.inquiry.pursuit import wording
from probes.inquiry.task import Task
from server.errors import BadControl

MAX_EXCHANGES = 1000
"""Questions in a game: for each that was answered freely the model reads a prompt."""
MAX_OPEN = 100
"""Open questions in a game: for each the model reads as many statements as there are labels."""


class Exchange(NamedTuple):
    """A question and what the user said to it."""

    question: str
    """As it was asked."""
    reply: str


def read_conversation(
    messages: Sequence[Any], task: Task, *, open_questions: bool = False
) -> list[Exchange]:
    """Questions and replies since the last final answer, which ends a game.

    What the user says before the first question is a greeting. Of a conversation that is no game
    nothing could be told, so it is refused.

    Args:
        messages: As the chat request has them.
        task: Whose questions may have been asked.
        open_questions: Whether the model may have made up some.

    Raises:
        BadControl: A message is no part of a game; names it.
    """
    last = messages[-1] if messages else None
    if not isinstance(last, Mapping) or last.get("role") != "user":
        raise BadControl("`messages`: the last message must be the user's", "messages")
    known = {wording(question): question for question in task.questions}
    exchanges: list[Exchange] = []
    num_open = 0
    asked: tuple[int, str] | None = None
    replies: list[str] = []
    for place, message in enumerate(messages):
        if not isinstance(message, Mapping):
            raise _refused(place, "this kind of message has no part in an inquiry")
        role = message.get("role")
        if role in ("system", "developer"):
            continue
        if role not in ("user", "assistant"):
            raise _refused(place, f"the role `{role}` has no part in an inquiry")
        text = _text(message, place)
        if role == "user":
            replies.append(text)
            continue
        if asked is not None:
            exchanges.append(_exchange(asked, replies))
            if len(exchanges) > MAX_EXCHANGES:
                raise _refused(place, f"a game has at most {MAX_EXCHANGES} questions")
        asked, replies = None, []
        if task.guessed(text) is not None:
            exchanges, num_open = [], 0
        elif wording(text) in known:
            asked = place, known[wording(text)]
        elif open_questions and (query := task.open_query(text)) is not None:
            asked, num_open = (place, query.question), num_open + 1
            if num_open > MAX_OPEN:
                raise _refused(place, f"a game has at most {MAX_OPEN} open questions")
        else:
            raise _refused(
                place,
                f"`{_short(text)}` is neither a question of `{task.name}` nor its final answer: "
                "send back what the server said",
            )
    if asked is not None:
        exchanges.append(_exchange(asked, replies))
    return exchanges


def literal(task: Task, reply: str) -> int | None:
    """`YES` or `NO` where a reply is the task's own word for it; None leaves it to the model."""
    words = {wording(word): answer for word, answer in zip(task.answers, (YES, NO), strict=True)}
    return words.get(wording(reply))


def _exchange(asked: tuple[int, str], replies: Sequence[str]) -> Exchange:
    place, question = asked
    if not replies:
        raise _refused(place, "this question is not followed by the user's answer")
    return Exchange(question, "\n".join(replies))


def _text(message: Mapping[str, Any], place: int) -> str:
    content = message.get("content")
    if message.get("tool_calls"):
        raise _refused(place, "tool calls have no part in an inquiry")
    if isinstance(content, str):
        return content
    try:
        parts = list(content or ())  # vLLM checks the parts only when they are read, and once
    except ValidationError as error:
        raise _refused(place, "its parts are none that a chat may have") from error
    texts = [part if isinstance(part, str) else part.get("text") for part in parts]
    if not texts or not all(isinstance(text, str) for text in texts):
        raise _refused(place, "an inquiry reads text alone")
    return "\n".join(texts)


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 60 else line[:57] + "..."


def _refused(place: int, reason: str) -> BadControl:
    return BadControl(f"`messages.{place}`: {reason}", f"messages.{place}")
