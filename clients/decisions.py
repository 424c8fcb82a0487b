"""Typed decisions over the OpenAI SDK, and a loop that asks until an answer is certain enough.

found = decide(client, ticket, [choice("Which team?", ["billing", "shipping"], name="team")],
               calibration="smollm2-135m/tickets")
if found["team"].abstained: ...
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import openai

from clients.connection import explained, first_model

Value = str | bool | float
Asks = Mapping[str, Sequence[str]] | Sequence[str]
"""Questions that could be asked, each with its answers or with yes and no; or the id of an inquiry
task, `MODEL/NAME`, as one text."""


class DecidedAnswer(NamedTuple):
    """The answer to one question."""

    value: Value | None
    """True or false, the choice, or the expected level; None for a refusal."""
    probability: float
    """Of the most probable value."""
    prediction_set: tuple[Value, ...] | None
    """Values that cannot be ruled out; None without a calibration."""
    abstained: bool
    """Whether the answer is too uncertain to act on."""
    calibrated: bool
    """Whether the calibration has this question."""
    next_question: str | None
    """The question to ask before deciding; None if none helps."""


def predicate(instructions: str, *, name: str) -> dict[str, Any]:
    """A question to be answered with true or false."""
    return {"type": "predicate", "name": name, "instructions": instructions}


def choice(
    instructions: str, choices: Sequence[str | bool] | Mapping[str, str], *, name: str
) -> dict[str, Any]:
    """A question to be answered with one of the choices; a mapping describes each."""
    if isinstance(choices, Mapping):
        options: list[dict[str, Any]] = [
            {"value": value, "description": text} for value, text in choices.items()
        ]
    else:
        options = [{"value": value} for value in choices]
    return {"type": "choice", "name": name, "instructions": instructions, "choices": options}


def score(instructions: str, levels: Sequence[str], *, name: str) -> dict[str, Any]:
    """A question to be answered with a level, the lowest first."""
    labels = [{"label": level} for level in levels]
    return {"type": "score", "name": name, "instructions": instructions, "levels": labels}


def decide(
    client: openai.OpenAI,
    text: str,
    questions: Sequence[Mapping[str, Any]],
    *,
    model: str | None = None,
    calibration: str | None = None,
    confidence_level: float | None = None,
    coverage: Literal["marginal", "by_class"] | None = None,
    ask: Asks = (),
    **control: object,
) -> dict[str, DecidedAnswer]:
    """Answer questions about a text.

    Args:
        client: Connected to the server.
        text: The input.
        questions: From `predicate`, `choice` and `score`.
        model: Name of the model; None selects the first one served.
        calibration: Id of the artifact, `MODEL/NAME`.
        confidence_level: Of the prediction sets; None selects the server's default.
        coverage: What the level holds for; None selects the server's default.
        ask: Questions that could be asked, or the id of a task.
        **control: Further keys of the field `entropy`.

    Returns:
        The answers by the names of the questions.

    Raises:
        ClientError: The server does not answer, or refuses.
    """
    given = {
        "calibration": calibration,
        "confidence_level": confidence_level,
        "coverage": coverage,
        "ask": _asks(ask) or None,
        **control,
    }
    model = model or first_model(client)
    with explained(client):
        found = client.decisions.create(
            model=model,
            input=text,
            questions=[dict(one) for one in questions],  # type: ignore[misc]
            extra_body={"entropy": {key: one for key, one in given.items() if one is not None}},
        )
    names = [str(one["name"]) for one in questions]
    return {name: _answer(one) for name, one in zip(names, found.answers, strict=True)}


def _asks(ask: Asks) -> Any:
    if isinstance(ask, str):
        return {"task": ask} if ask else None
    return [{"question": one, "answers": list(said)} for one, said in _with_answers(ask).items()]


def _with_answers(ask: Mapping[str, Sequence[str]] | Sequence[str]) -> dict[str, Sequence[str]]:
    return dict(ask if isinstance(ask, Mapping) else dict.fromkeys(ask, ("yes", "no")))


def _answer(answer: Any) -> DecidedAnswer:
    report = (answer.model_extra or {}).get("entropy") or {}
    values = report.get("prediction_set")
    value, probability = _best(answer)
    return DecidedAnswer(
        value=value,
        probability=probability,
        prediction_set=None if values is None else tuple(values),
        abstained=bool(report.get("abstained")),
        calibrated=bool(report.get("calibrated")),
        next_question=report.get("next_question"),
    )


def _best(answer: Any) -> tuple[Value | None, float]:
    if answer.type == "predicate":
        yes = float(answer.probability)
        return yes >= 0.5, max(yes, 1 - yes)
    if answer.type == "choice":
        return answer.choice, max(one.probability for one in answer.probabilities)
    if answer.type == "score":
        return answer.score, max(one.probability for one in answer.probabilities)
    return None, 0.0


class DecisionTurn(NamedTuple):
    """What was asked before a decision, and the decision."""

    answer: DecidedAnswer
    asked: tuple[tuple[str, str], ...]
    """Questions and replies."""


def decide_or_ask(
    client: openai.OpenAI,
    text: str,
    question: Mapping[str, Any],
    ask: Asks,
    reply: Callable[[str], str],
    *,
    max_questions: int = 3,
    **options: Any,
) -> DecisionTurn:
    """Decide; while the answer abstains and a question helps, ask it and decide again.

    Args:
        client: Connected to the server.
        text: The input.
        question: From `predicate`, `choice` or `score`.
        ask: Questions that could be asked, or the id of a task.
        reply: Takes a question and returns the reply.
        max_questions: Largest number of questions.
        **options: As for `decide`.

    Raises:
        ClientError: The server does not answer, or refuses.
    """
    left = ask if isinstance(ask, str) else _with_answers(ask)
    asked: list[tuple[str, str]] = []
    while True:
        may_ask = left if len(asked) < max_questions else ()
        (answer,) = decide(client, text, [question], ask=may_ask, **options).values()
        if not answer.abstained or answer.next_question is None:
            return DecisionTurn(answer, tuple(asked))
        said = reply(answer.next_question)
        asked.append((answer.next_question, said))
        if isinstance(left, dict):  # of a task, the server leaves out what the input has
            left.pop(answer.next_question, None)
        text = f"{text}\n\n{answer.next_question}\n{said}"
