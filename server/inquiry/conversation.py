"""Parses a conversation into the questions and replies of an inquiry. Pure.

The limits on messages, parts and characters are checked before the work that they bound.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple

from pydantic import ValidationError

from probes.inquiry.artifact import Inquiry
from server.errors import BadControl

MAX_MESSAGES = 4096
"""Messages per request, enough for several games of `MAX_EXCHANGES` questions."""
MAX_PARTS = 64
"""Content parts per message."""
MAX_EXCHANGES = 1000
"""Questions per game, repeats included: each free-text reply costs one prompt."""
MAX_OPEN = 100
"""Open questions per game: each costs one prompt per label."""
MAX_REPLY_CHARS = 2000
"""Characters used of a reply; the rest is ignored."""
_MAX_OPEN_CHARS = 1000
"""Longest message that is parsed as an open question; one has at most 300 characters."""


class Exchange(NamedTuple):
    """A question and the user's reply."""

    question: str
    """The wording of the task."""
    reply: str


def read_conversation(
    messages: Sequence[Any], inquiry: Inquiry, *, open_questions: bool = False
) -> list[Exchange]:
    """Return the questions and replies since the last final answer, which ends a game.

    User messages before the first question are ignored as a greeting.

    Args:
        messages: Messages of the chat request.
        inquiry: The inquiry whose questions are recognized.
        open_questions: Whether to accept questions that the model proposed.

    Raises:
        BadControl: There are too many messages, or one is not part of a game; names the message.
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
                raise _bad_message(place, f"a game has at most {MAX_EXCHANGES} questions")
        asked, replies = None, []
        text = _text(message, place)
        if len(text) <= inquiry.lookup.max_chars and inquiry.lookup.guess(text) is not None:
            exchanges, num_open = [], 0
            continue
        question, is_open = _question(inquiry, text, open_questions)
        if question is None:
            raise _bad_message(
                place,
                f"`{_shorten(text)}` is neither a question of `{inquiry.task.name}` nor its final "
                "answer: send back the server's messages unchanged",
            )
        asked, num_open = (place, question), num_open + is_open
        if num_open > MAX_OPEN:
            raise _bad_message(place, f"a game has at most {MAX_OPEN} open questions")
    if asked is not None:
        exchanges.append(_exchange(asked, replies))
    return exchanges


def _question(inquiry: Inquiry, text: str, open_questions: bool) -> tuple[str | None, bool]:
    """The question that a message contains, and whether it is an open question."""
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
        raise _bad_message(place, "this question is not followed by the user's answer")
    return Exchange(question, "\n".join(replies)[:MAX_REPLY_CHARS])


def _role(message: Any, place: int) -> str:
    if not isinstance(message, Mapping):
        raise _bad_message(place, "an inquiry does not read this kind of message")
    role = message.get("role")
    if role not in ("system", "developer", "user", "assistant"):
        raise _bad_message(place, f"an inquiry does not read the role `{_shorten(str(role))}`")
    return str(role)


def _text(message: Mapping[str, Any], place: int) -> str:
    """The text of a message, truncated to `MAX_REPLY_CHARS`."""
    content = message.get("content")
    if message.get("tool_calls"):
        raise _bad_message(place, "an inquiry does not read tool calls")
    if isinstance(content, str):
        return content[:MAX_REPLY_CHARS]
    parts = _parts(content or (), place)
    texts = [part if isinstance(part, str) else part.get("text") for part in parts]
    if not texts or not all(isinstance(text, str) for text in texts):
        raise _bad_message(place, "an inquiry reads text only")
    return "\n".join(text[:MAX_REPLY_CHARS] for text in texts)[:MAX_REPLY_CHARS]


def _parts(content: Iterable[Any], place: int) -> list[Any]:
    try:
        parts = list(islice(content, MAX_PARTS + 1))  # an iterator: vLLM validates parts lazily
    except ValidationError as error:
        raise _bad_message(place, "its parts are not valid chat message content") from error
    if len(parts) > MAX_PARTS:
        raise _bad_message(place, f"an inquiry reads at most {MAX_PARTS} parts of a message")
    return parts


def _shorten(text: str) -> str:
    line = " ".join(text[:200].split())
    return line if len(line) <= 60 else line[:57] + "..."


def _bad_message(place: int, reason: str) -> BadControl:
    return BadControl(f"`messages.{place}`: {reason}", f"messages.{place}")
