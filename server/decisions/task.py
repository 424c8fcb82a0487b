"""What a decision asks, whichever schema its request has."""

from typing import NamedTuple

from probes.decisions.question import DecisionQuestion
from server.decisions.texts import asked_question, input_text
from server.wire.decisions import DecisionControl, DecisionRequest


class DecisionTask(NamedTuple):
    """An input and the questions about it."""

    text: str
    questions: list[DecisionQuestion]
    names: list[str | None]
    """Name of each question."""
    control: DecisionControl | None
    """The field `entropy`."""
    salt: str | None
    """Requests with different salts share no cached prompts."""


def openai_task(request: DecisionRequest) -> DecisionTask:
    """The task of a request in OpenAI's schema.

    Raises:
        BadControl: A part is an image.
    """
    salts = (request.cache_salt, request.prompt_cache_key)
    return DecisionTask(
        text=input_text(request.input),
        questions=[
            asked_question(one, f"questions.{place}") for place, one in enumerate(request.questions)
        ],
        names=[one.name for one in request.questions],
        control=request.entropy,
        salt=None if salts == (None, None) else repr(salts),
    )
