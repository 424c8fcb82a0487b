"""OpenAI's `/v1/decisions` for any chat model, and `/v1/systemone` by the same handler."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel
from vllm.entrypoints.serve.engine.protocol import ErrorResponse
from vllm.entrypoints.serve.utils.api_utils import (
    load_aware_call,
    validate_json_request,
    with_cancellation,
)

from server.decisions.answers import JudgedQuestion
from server.decisions.decide import DecisionOutcome, decide
from server.decisions.frame import ChatFrame, chat_frame
from server.decisions.kept import decision_facts
from server.decisions.task import openai_task
from server.errors import BadControl, error_body
from server.feedback.store import KeptAnswer, owner_of
from server.inquiry.engine_reads import BATCH, ReadError, Reads
from server.metrics import observe
from server.planning.decisions import DecisionPlan, plan_decision
from server.routes.access import key_of
from server.routes.audit import end_decision, record_decision
from server.routes.bodies import BoundedRoute, Bounds
from server.routes.parsing import body_of, parsed
from server.routes.state import ServerState, state_of
from server.routes.systemone import (
    SystemOneRequest,
    SystemOneResponse,
    systemone_json,
    systemone_task,
)
from server.routes.uncontrolled import refuse_profiles
from server.tracing import Span, clock, request_span
from server.wire.decisions import DecisionRequest, DecisionResponse

router = APIRouter(route_class=BoundedRoute)
_BOUNDS = Bounds(containers=110_000, keys=320_000)
"""The largest request: 400 questions of 255 options, each with a value and a description."""
_UNREPORTED: Any = {"answers": {"__all__": {"entropy"}}}
"""OpenAI's answers have no field `entropy`."""


def _documented(*models: type[BaseModel]) -> dict[int | str, dict[str, Any]]:
    errors: dict[int | str, dict[str, Any]]
    errors = {code: {"model": ErrorResponse} for code in (400, 404, 500, 501)}
    return {200: {"model": models[0]}, **errors}


@router.post(
    "/v1/decisions",
    dependencies=[Depends(validate_json_request)],
    response_model=None,
    responses=_documented(DecisionResponse),
    openapi_extra=body_of(DecisionRequest),
)
async def create_decision(raw_request: Request) -> Any:
    """Answer typed questions about an input, with the controls of `entropy` if set."""
    request = await parsed(raw_request, lambda _: DecisionRequest, _BOUNDS)
    return await _answer(request, raw_request)


@router.post(
    "/v1/systemone",
    dependencies=[Depends(validate_json_request)],
    response_model=None,
    responses=_documented(SystemOneResponse),
    openapi_extra=body_of(SystemOneRequest, DecisionRequest),
)
async def create_systemone_decision(raw_request: Request) -> Any:
    """As `/v1/decisions`; a body with `state` is a request of vLLM's schema and answered in it."""
    request = await parsed(
        raw_request, lambda body: SystemOneRequest if "state" in body else DecisionRequest, _BOUNDS
    )
    return await _answer(request, raw_request)


async def _answer(request: Any, raw_request: Request) -> Any:
    """Run a request; None if the client disconnected.

    Raises:
        BadControl: The request cannot be answered; names the field.
    """

    async def run(request: Any, raw_request: Request) -> Any:
        return await _run(request, raw_request)

    return await with_cancellation(load_aware_call(run))(request, raw_request)


async def _run(request: Any, raw_request: Request) -> Response:
    state, begin = state_of(raw_request), clock()
    refuse_profiles(request.model, raw_request)
    handler = raw_request.app.state.openai_serving_chat
    if (error := await handler._check_model(request)) is not None:
        return JSONResponse(error.model_dump(), status_code=error.error.code)
    is_vllms = isinstance(request, SystemOneRequest)
    await state.sync_artifacts()
    task = await asyncio.to_thread(systemone_task if is_vllms else openai_task, request)
    adapter = handler._maybe_get_adapters(request)
    named = None if adapter is None else request.model
    plan = await asyncio.to_thread(
        plan_decision, task.control, task.questions, task.text, state.artifacts, named
    )
    state.engine.check_admission(min(len(task.questions), BATCH))
    recorder = await record_decision(request, raw_request, state, plan)
    name = f"decision-{raw_request.headers.get('x-request-id') or uuid4().hex}"
    reads = Reads(state.engine, f"{name}-{uuid4().hex}", state.readings, task.salt, adapter)
    try:
        with _decision_span(request, raw_request, begin, plan) as reads.span:
            frame = await _frame(request, handler, state, reads)
            outcome = await decide(plan, task.text, task.names, frame, reads)
            reads.span.set(gen_ai__response__id=name, **_decision_facts(outcome))
    except ReadError as failed:
        body = error_body(str(failed), "InternalServerError", None, 500)
        return JSONResponse(body, status_code=500)
    else:
        if recorder is not None:
            end_decision(recorder, name, outcome, reads)
    finally:
        if recorder is not None:
            recorder.discard()
    for verdict in outcome.verdicts:
        _observe(verdict)
    owner = owner_of(key_of(raw_request))
    state.feedback.keep(await asyncio.to_thread(_kept, owner, name, plan, outcome))
    model = request.model or handler.models.base_model_paths[0].name
    if is_vllms:
        content = await asyncio.to_thread(systemone_json, name, model, task, outcome)
    else:
        content = await asyncio.to_thread(_openai_json, model, plan, outcome)
    return Response(content, media_type="application/json", headers={"x-entropy-id": name})


@contextmanager
def _decision_span(
    request: Any, raw_request: Request, begin: int, plan: DecisionPlan
) -> Iterator[Span]:
    """The span of the reads of a request, below that of the request and beside that of its plan."""
    with request_span(raw_request.headers, begin) as span:
        if span.is_recording:
            span.set(http__route=raw_request.url.path, gen_ai__request__model=request.model)
        with span.open("plan", begin, questions=len(plan.questions)):
            pass
        with span.open("decision", calibration=plan.control.calibration) as child:
            yield child


def _decision_facts(outcome: DecisionOutcome) -> dict[str, int]:
    return {
        "abstained": sum(one is not None and one.abstained for one in outcome.verdicts),
        "gen_ai__usage__input_tokens": outcome.usage.input_tokens,
    }


def _openai_json(model: str, plan: DecisionPlan, outcome: DecisionOutcome) -> str:
    response = DecisionResponse(model=model, answers=outcome.answers, usage=outcome.usage)
    return response.model_dump_json(exclude=None if plan.reported else _UNREPORTED)


def _kept(
    owner: bytes, name: str, plan: DecisionPlan, outcome: DecisionOutcome
) -> list[KeptAnswer]:
    """What feedback on the answers will need."""
    return [
        KeptAnswer(owner, name, index, decision_facts(plan, verdict))
        for index, verdict in enumerate(outcome.verdicts)
        if verdict is not None
    ]


def _observe(verdict: JudgedQuestion | None) -> None:
    if verdict is None:
        observe.observe_decision("unreadable", None, None)
        return
    size = None if verdict.members is None else int(verdict.members.sum())
    outcome = "abstained" if verdict.abstained else "answered"
    observe.observe_decision(outcome, size, verdict.label_mass)


async def _frame(request: Any, handler: Any, state: ServerState, reads: Reads) -> ChatFrame:
    """The served chat template around a question; rendered once, except for a request's options."""
    options = getattr(request, "chat_template_kwargs", None) or {}
    if not options and state.chat_frame is not None:
        return state.chat_frame
    served = handler.default_chat_template_kwargs
    try:
        frame = await chat_frame(state.engine, handler.chat_template, {**served, **options}, reads)
    except NotImplementedError as error:
        if not options:
            raise
        param = "chat_template_kwargs"
        raise BadControl(f"`{param}`: {error}", param) from error
    if not options:
        state.chat_frame = frame
    return frame
