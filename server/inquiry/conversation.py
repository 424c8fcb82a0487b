"""Read a conversation as an inquiry: which question got which reply. Pure.

Every limit is checked before the work that it bounds: number of messages, parts of a message,
characters of a message.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple

from pydantic import ValidationError

from probes.inquiry.artifact import Inquiry
from server.errors import BadControl

MAX_MESSAGES = 4096
"""Messages of a request: several games of `MAX_EXCHANGES` questions."""
MAX_PARTS = 64
"""Content parts of one message."""
MAX_EXCHANGES = 1000
"""Questions of a game, a repeated one each time: the model reads a prompt for each free reply."""
MAX_OPEN = 100
"""Open questions of a game: the model reads as many statements for each as there are labels."""
MAX_REPLY_CHARS = 2000
"""Characters of a reply that are looked at; the meaning of a longer one is at its beginning."""
_MAX_OPEN_CHARS = 1000
"""Longest message that can be an open question, which has at most 300 characters."""


class Exchange(NamedTuple):
    """A question and what the user replied to it."""

    question: str
    """As the task words it."""
    reply: str


def read_conversation(
    messages: Sequence[Any], inquiry: Inquiry, *, open_questions: bool = False
) -> list[Exchange]:
    """Questions and replies since the last final answer, which ends a game.

    What the user says before the first question is a greeting. A conversation that is not a game
    is refused.

    Args:
        messages: As the chat request has them.
        inquiry: Whose questions may have been asked.
        open_questions: Whether the model may have proposed some.

    Raises:
        BadControl: There are too many messages, or one is not part of a game; names it.
    """
    if len(messages) > MAX_MESSAGES:
        raise BadControl(f"`messages`: an inquiry reads at most {MAX_MESSAGES}", "messages")
    last = messages[-1] if messages else None
    if not isinstance(last, Mapping) or last.get("role") != "user":
        raise BadControl("`messages`: the last message must be the user's", "messages")
    exchanges: list[Exchange] = []
    num_open = 0
    asked: tuple[int, str] | None = None
    replies: list[str] = []
    for place, message in enumerate(messages):
        role = _role(message, place)
        if role in ("system", "developer"):
            continue
        if role == "user":
            replies.append(_text(message, place))
            continue
        if asked is not None:
            exchanges.append(_exchange(asked, replies))
            if len(exchanges) > MAX_EXCHANGES:
                raise _refused(place, f"a game has at most {MAX_EXCHANGES} questions")
        asked, replies = None, []
        text = _text(message, place)
        if len(text) <= inquiry.lookup.max_chars and inquiry.lookup.guess(text) is not None:
            exchanges, num_open = [], 0
            continue
        question, is_open = _question(inquiry, text, open_questions)
        if question is None:
            raise _refused(
                place,
                f"`{_short(text)}` is neither a question of `{inquiry.task.name}` nor its final "
                "answer: send back what the server said",
            )
        asked, num_open = (place, question), num_open + is_open
        if num_open > MAX_OPEN:
            raise _refused(place, f"a game has at most {MAX_OPEN} open questions")
    if asked is not None:
        exchanges.append(_exchange(asked, replies))
    return exchanges


def _question(inquiry: Inquiry, text: str, open_questions: bool) -> tuple[str | None, bool]:
    """The question that a message asks, and whether it is an open one."""
    if len(text) <= inquiry.lookup.max_chars:
        place = inquiry.lookup.question(text)
        if place is not None:
            return inquiry.task.questions[place], False
    if open_questions and len(text) <= _MAX_OPEN_CHARS:
        query = inquiry.task.open_query(text)
        if query is not None:
            return query.question, True
    return None, False


def _exchange(asked: tuple[int, str], replies: Sequence[str]) -> Exchange:
    place, question = asked
    if not replies:
        raise _refused(place, "this question is not followed by the user's answer")
    return Exchange(question, "\n".join(replies)[:MAX_REPLY_CHARS])


def _role(message: Any, place: int) -> str:
    if not isinstance(message, Mapping):
        raise _refused(place, "an inquiry does not read this kind of message")
    role = message.get("role")
    if role not in ("system", "developer", "user", "assistant"):
        raise _refused(place, f"an inquiry does not read the role `{_short(str(role))}`")
    return str(role)


def _text(message: Mapping[str, Any], place: int) -> str:
    """The text of a message; of a long one only its beginning."""
    content = message.get("content")
    if message.get("tool_calls"):
        raise _refused(place, "an inquiry does not read tool calls")
    if isinstance(content, str):
        return content[:MAX_REPLY_CHARS]
    parts = _parts(content or (), place)
    texts = [part if isinstance(part, str) else part.get("text") for part in parts]
    if not texts or not all(isinstance(text, str) for text in texts):
        raise _refused(place, "an inquiry reads text only")
    return "\n".join(text[:MAX_REPLY_CHARS] for text in texts)[:MAX_REPLY_CHARS]


def _parts(content: Iterable[Any], place: int) -> list[Any]:
    try:
        parts = list(islice(content, MAX_PARTS + 1))  # vLLM validates parts as they are read, once
    except ValidationError as error:
        raise _refused(place, "its parts are not valid content of a chat message") from error
    if len(parts) > MAX_PARTS:
        raise _refused(place, f"an inquiry reads at most {MAX_PARTS} parts of a message")
    return parts


def _short(text: str) -> str:
    line = " ".join(text[:200].split())
    return line if len(line) <= 60 else line[:57] + "..."


def _refused(place: int, reason: str) -> BadControl:
    return BadControl(f"`messages.{place}`: {reason}", f"messages.{place}")
