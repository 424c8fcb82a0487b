"""Answers a chat request with an inquiry turn, without vLLM's chat handler."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

from fastapi import Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest

from server.feedback.facts import completion_facts
from server.feedback.store import KeptAnswer, owner_of
from server.inquiry.conversation import read_conversation
from server.inquiry.engine_reads import Reads
from server.inquiry.turn import inquire
from server.metrics import observe
from server.planning.plan import Plan
from server.requests.sse import sse
from server.routes.access import key_of
from server.routes.audit import end_inquiry, record_completion
from server.routes.state import ServerState
from server.tracing import Span
from server.wire.report import InquiryReport, Report, join_fallbacks

_ALONE = ("tools", "response_format", "structured_outputs", "logprobs", "prompt_logprobs", "echo")
"""Fields that an inquiry does not support."""


def unsupported_by_inquiry(request: ChatCompletionRequest) -> tuple[str, ...]:
    """Fields set in a request that an inquiry does not support."""
    values = {field: getattr(request, field) for field in _ALONE}
    return tuple(
        field for field, value in values.items() if value and getattr(value, "type", None) != "text"
    )


async def answer_inquiry(
    request: ChatCompletionRequest, raw_request: Request, state: ServerState, plan: Plan, span: Span
) -> Response:
    """Answer with the next question or the final answer.

    Raises:
        BadControl: The conversation is not a valid inquiry.
    """
    assert plan.inquiry is not None
    handler = raw_request.app.state.openai_serving_chat
    if (error := await handler._check_model(request)) is not None:
        return JSONResponse(error.model_dump(), status_code=error.error.code)
    exchanges = await asyncio.to_thread(
        read_conversation,
        request.messages,
        plan.inquiry.inquiry,
        open_questions=plan.inquiry.control.queries == "open",
    )
    models = raw_request.app.state.openai_serving_models
    lora = models.lora_requests.get(request.model)
    name = f"chatcmpl-{raw_request.headers.get('x-request-id') or uuid4().hex}"
    reads = Reads(state.engine, f"{name}-{uuid4().hex}", state.readings, request.cache_salt, lora)
    recorder = await record_completion(request, raw_request, state, plan)
    try:
        with span.open("turn", task=plan.inquiry.control.task) as reads.span:
            text, inquiry, reason = await inquire(plan.inquiry, exchanges, reads)
            _describe(reads, inquiry)
    finally:
        if recorder is not None:
            recorder.discard()
    fallback = join_fallbacks(*plan.skipped, reason)
    report = Report(profile=plan.profile, inquiry=inquiry, fallback=fallback)
    observe.observe_completion(report)
    observe.observe_inquiry(inquiry)
    kept = KeptAnswer(owner_of(key_of(raw_request)), name, 0, completion_facts(report))
    state.feedback.keep([kept])
    if recorder is not None:
        end_inquiry(recorder, name, report, reads)
    (completion,) = await reads.tokens([text], start=False)
    usage: dict[str, Any] = {
        "prompt_tokens": reads.prompt_tokens,
        "completion_tokens": len(completion),
        "total_tokens": reads.prompt_tokens + len(completion),
    }
    if handler.enable_prompt_tokens_details:  # opt-in: it reveals what other clients have cached
        usage["prompt_tokens_details"] = {"cached_tokens": reads.cached_tokens}
    envelope = {
        "id": name,
        "created": int(time.time()),
        "model": request.model or handler.models.base_model_paths[0].name,
    }
    shown = None if plan.trace == "none" else report.model_dump()
    headers = {} if plan.profile is None else {"x-entropy-profile": plan.profile}
    if fallback is not None:
        headers["x-entropy-fallback"] = fallback
    if request.stream:
        options = request.stream_options
        wants_usage = bool(options and options.include_usage)
        events = _events(envelope, text, usage if wants_usage else None, shown)
        return StreamingResponse(events, media_type="text/event-stream", headers=headers)
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": text},
        "logprobs": None,
        "finish_reason": "stop",
    }
    if shown is not None:
        choice["entropy"] = shown
    body = {**envelope, "object": "chat.completion", "choices": [choice], "usage": usage}
    return JSONResponse(body, headers=headers)


def _describe(reads: Reads, inquiry: InquiryReport) -> None:
    """Attributes of the span of a turn."""
    reads.span.set(
        turn=inquiry.turn,
        action=inquiry.action,
        set_size=len(inquiry.prediction_set),
        forwards=reads.forwards,
        gen_ai__usage__input_tokens=reads.prompt_tokens,
    )


async def _events(
    envelope: dict[str, Any],
    text: str,
    usage: dict[str, Any] | None,
    report: dict[str, Any] | None,
) -> AsyncIterator[str]:
    """Stream the answer: role, text, final chunk with the report, optional usage, `[DONE]`."""
    envelope = {**envelope, "object": "chat.completion.chunk"}
    parts: list[tuple[dict[str, Any], str | None]] = [
        ({"role": "assistant", "content": ""}, None),
        ({"content": text}, None),
        ({}, "stop"),
    ]
    for delta, finish in parts:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        if finish is not None and report is not None:
            choice["entropy"] = report
        yield sse({**envelope, "choices": [choice]})
    if usage is not None:
        yield sse({**envelope, "choices": [], "usage": usage})
    yield "data: [DONE]\n\n"
