"""Begins the line of a request in the decision log."""

import logging
from collections.abc import Callable
from functools import partial
from typing import Any

from fastapi import Request

from server.audit.lines import AdapterLine, ChoiceLine, UsageLine
from server.audit.plans import dumped, fingerprints, plan_facts, used_artifacts
from server.audit.recorder import Recorder, sampling_parameters
from server.decisions.answers import Answer, JudgedQuestion
from server.decisions.decide import DecisionOutcome
from server.inquiry.engine_reads import Reads
from server.metrics import observe
from server.planning.decisions import DecisionPlan
from server.planning.plan import Plan
from server.routes.state import ServerState
from server.served_model import find_adapter
from server.wire.report import Report

logger = logging.getLogger("vllm.entrostat")


async def record_completion(
    request: Any, raw_request: Request, state: ServerState, plan: Plan
) -> Recorder | None:
    """Begin the line of a completion or of a turn of an inquiry; None without a decision log."""
    if state.decision_log is None:
        return None
    facts = partial(_completion_facts, request, raw_request, state, plan)
    return await _begin(request, raw_request, state, facts)


def _completion_facts(
    request: Any, raw_request: Request, state: ServerState, plan: Plan
) -> dict[str, Any]:
    models = raw_request.app.state.openai_serving_models
    loaded = find_adapter(request.model, models.lora_requests)
    adapter = None if loaded is None else loaded.adapter
    return {
        "kind": "completion" if plan.inquiry is None else "inquiry",
        "adapter": adapter and AdapterLine(name=adapter.name, hash=adapter.hash),
        "profile": plan.profile,
        "control": dumped(plan.control),
        "plan": plan_facts(plan),
        "artifacts": used_artifacts(plan, state.artifacts.cards, adapter),
        "skipped": plan.skipped,
    }


async def record_decision(
    request: Any, raw_request: Request, state: ServerState, plan: DecisionPlan
) -> Recorder | None:
    """Begin the line of a request for decisions; None without a decision log."""
    if state.decision_log is None:
        return None
    facts = partial(_decision_facts, plan, state, texts=state.decision_log.prompts)
    return await _begin(request, raw_request, state, facts)


def _decision_facts(plan: DecisionPlan, state: ServerState, *, texts: bool) -> dict[str, Any]:
    calibration = plan.control.calibration
    control = plan.control if texts else plan.control.model_copy(update={"ask": None})
    return {
        "kind": "decision",
        "control": dumped(control) if plan.reported else None,
        "plan": {"calibrated": sum(one.calibration is not None for one in plan.questions)},
        "artifacts": fingerprints([calibration] if calibration else [], state.artifacts.cards),
    }


async def _begin(
    request: Any,
    raw_request: Request,
    state: ServerState,
    facts: Callable[[], dict[str, Any]],
) -> Recorder | None:
    """Begin a line; one that cannot be begun is counted, and its request is answered."""
    assert state.decision_log is not None
    try:
        common = {
            "server": state.facts(raw_request),
            "request_id": raw_request.headers.get("x-request-id"),
            "route": raw_request.url.path,
            "model": request.model,
            "parameters": sampling_parameters(request),
        }
        body = await raw_request.body()  # it was read already
        return Recorder(state.decision_log, body, {**common, **facts()})
    except Exception:
        observe.count_lost_line("error")
        logger.exception("entrostat: a line of the decision log could not be begun")
        return None


def end_decision(recorder: Recorder, name: str, outcome: DecisionOutcome, reads: Reads) -> None:
    """Write the line of a request for decisions.

    Args:
        recorder: From `record_decision`.
        name: Id of the response.
        outcome: The answers.
        reads: Its reads from the engine.
    """
    recorder.response_id, recorder.status = name, 200

    def choices() -> list[ChoiceLine]:
        pairs = enumerate(zip(outcome.answers, outcome.verdicts, strict=True))
        return [
            ChoiceLine(index=index, report=_answer_facts(answer, verdict, recorder.has_texts))
            for index, (answer, verdict) in pairs
        ]

    recorder.end(usage_of(reads), choices)


def end_inquiry(recorder: Recorder, name: str, report: Report, reads: Reads) -> None:
    """Write the line of a turn of an inquiry.

    Args:
        recorder: From `record_completion`.
        name: Id of the response.
        report: Its report.
        reads: Its reads from the engine.
    """
    recorder.response_id, recorder.status = name, 200
    recorder.end(usage_of(reads), lambda: [ChoiceLine(index=0, report=recorder.report(report))])


def usage_of(reads: Reads) -> UsageLine:
    """What the reads of an inquiry or a decision took."""
    return UsageLine(
        prompt_tokens=reads.prompt_tokens, cached_tokens=reads.cached_tokens, calls=reads.forwards
    )


def _answer_facts(
    answer: Answer, verdict: JudgedQuestion | None, texts: bool
) -> dict[str, Any] | None:
    """What a line says of the answer to a question: numbers by place of the option, or all."""
    found = {"answer": dumped(answer)} if texts else {}
    if verdict is None:
        return found or None
    members = verdict.members
    return {
        **found,
        "kind": verdict.plan.question.kind,
        "best": int(verdict.probabilities.argmax()),
        "probabilities": verdict.probabilities.tolist(),
        "prediction_set": None if members is None else members.nonzero().flatten().tolist(),
        "abstained": verdict.abstained,
        "label_mass": verdict.label_mass,
    }
