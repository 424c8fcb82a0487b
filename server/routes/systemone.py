"""vLLM's schema of `/v1/systemone`: named questions about a state."""

from typing import Any

from pydantic import Field
from vllm.entrypoints.generate.structured_decisions.protocol import (
    DecisionUsage as VllmUsage,
)
from vllm.entrypoints.generate.structured_decisions.protocol import (
    QuestionDiagnostics,
    QuestionSpec,
    StructuredDecisionRequest,
    StructuredDecisionResponse,
)

from probes.decisions.question import DecisionQuestion, choice, predicate, score
from server.decisions.answers import Answer
from server.decisions.decide import DecisionOutcome
from server.decisions.task import DecisionTask
from server.errors import BadControl
from server.surface import QUESTION_MODULES, STATE_MODULES, first_module
from server.wire.decisions import (
    MAX_CHOICES,
    MAX_QUESTIONS,
    ChoiceAnswer,
    DecisionControl,
    PredicateAnswer,
    ScoreAnswer,
)

_MEDIA = ("images", "audio", "videos")
_StructuredDecisionError = first_module(QUESTION_MODULES, "StructuredDecisionError")
_get_question_type = first_module(QUESTION_MODULES, "get_question_type")
_state_text = first_module(STATE_MODULES, "state_text")


class SystemOneRequest(StructuredDecisionRequest):
    """vLLM's request with the field `entropy`."""

    entropy: DecisionControl | None = Field(
        None, description="Calibration, prediction sets, abstention."
    )


class SystemOneResponse(StructuredDecisionResponse):
    """vLLM's response; an answer has the field `entropy` if the request has it."""


def systemone_task(request: SystemOneRequest) -> DecisionTask:
    """The task of a request in vLLM's schema.

    Raises:
        BadControl: A question is malformed, or the request has media.
    """
    for field in _MEDIA:
        if getattr(request, field):
            raise BadControl(f"`{field}`: decisions read text only", field)
    if (request.chat_template_kwargs or {}).get("enable_thinking"):
        param = "chat_template_kwargs.enable_thinking"
        raise BadControl(f"`{param}`: the reply's first token is read, so it cannot think", param)
    if not 1 <= len(request.questions) <= MAX_QUESTIONS:
        raise BadControl(f"`questions`: ask 1 to {MAX_QUESTIONS} questions", "questions")
    for key in request.model_extra or ():
        raise BadControl(f"`{key}`: unknown key", key)
    state = _state_text(request.state)
    return DecisionTask(
        text=f"{request.instructions}\n\n{state}" if request.instructions else state,
        questions=[_question(name, one) for name, one in request.questions.items()],
        names=list(request.questions),
        control=request.entropy,
        salt=request.cache_salt,
    )


def _question(name: str, spec: QuestionSpec) -> DecisionQuestion:
    place = f"questions.{name}"
    for key in spec.model_extra or ():
        raise BadControl(f"`{place}.{key}`: unknown key", f"{place}.{key}")
    try:
        kind = _get_question_type(spec.type)
    except _StructuredDecisionError as error:
        raise BadControl(f"`{place}.type`: {error}", f"{place}.type") from error
    try:
        options = kind.parse_options(name, spec.criteria)
    except _StructuredDecisionError as error:
        raise BadControl(f"`{place}.criteria`: {error}", f"{place}.criteria") from error
    texts = [one.name for one in options]
    limit = 10 if spec.type == "score" else MAX_CHOICES
    if len(set(texts)) < len(texts) or len(texts) > limit:
        param = f"{place}.criteria"
        raise BadControl(f"`{param}`: give at most {limit} different options", param)
    asked = (
        spec.instructions if isinstance(spec.instructions, str) else _state_text(spec.instructions)
    )
    notes = [one.description for one in options]
    if spec.type == "score":
        return score(asked, texts, notes)
    if spec.type == "choice":
        return choice(asked, texts, notes)
    meanings = [f"{text}: {note}" for text, note in zip(("Yes", "No"), notes, strict=True) if note]
    return predicate("\n".join([asked, *meanings]))


def systemone_json(
    request_id: str, model: str, task: DecisionTask, outcome: DecisionOutcome
) -> str:
    """The outcome in vLLM's schema."""
    names = [str(name) for name in task.names]
    diagnostics = {}
    for name, verdict in zip(names, outcome.verdicts, strict=True):
        mass = verdict.label_mass if verdict is not None else None
        if mass is None:
            mass = 0.0 if verdict is None else 1.0
        # Conservative: the best label is certainly the most probable token if it outweighs
        # everything that is not a label.
        best = 0.0 if verdict is None else float(verdict.raw.max()) * mass
        diagnostics[name] = QuestionDiagnostics(label_mass=mass, argmax_is_label=best > 1 - mass)
    response = SystemOneResponse(
        id=request_id,
        model=model,
        answers={name: _shown(one) for name, one in zip(names, outcome.answers, strict=True)},
        usage=VllmUsage(input_tokens=outcome.usage.input_tokens, output_tokens=0),
        diagnostics=diagnostics,
    )
    content: str = response.model_dump_json()
    return content


def _shown(answer: Answer) -> dict[str, Any]:
    report = {} if answer.entropy is None else {"entropy": answer.entropy.model_dump()}
    match answer:
        case PredicateAnswer():
            yes = answer.probability
            shown: dict[str, Any] = {
                "type": "noul",
                "noul": yes,
                "probabilities": {"yes": yes, "no": 1 - yes},
                "confidence": max(yes, 1 - yes),
            }
        case ChoiceAnswer():
            shown = {
                "type": "choice",
                "choice": answer.choice,
                "probabilities": {str(one.value): one.probability for one in answer.probabilities},
                "confidence": answer.confidence,
            }
        case ScoreAnswer():
            shown = {
                "type": "score",
                "score": answer.score,
                "legend": {str(one.value): one.label for one in answer.probabilities},
                "probabilities": {str(one.value): one.probability for one in answer.probabilities},
                "confidence": answer.confidence,
            }
        case _:
            shown = {"type": "refusal"}
    return shown | report
