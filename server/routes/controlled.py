"""Shared logic of the controlled routes: make a plan, run vLLM's route, merge the report."""

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from difflib import get_close_matches
from functools import partial
from itertools import islice
from random import random
from typing import Any

from fastapi import Request
from fastapi.responses import Response, StreamingResponse
from starlette.datastructures import Headers
from vllm.entrypoints.anthropic.protocol import AnthropicMessagesRequest
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.entrypoints.openai.responses.protocol import ResponsesRequest
from vllm.entrypoints.serve.engine.protocol import ErrorResponse
from vllm.entrypoints.serve.utils.api_utils import with_cancellation

from probes.difficulty.strategies import append_text
from server.errors import BadControl
from server.feedback.facts import completion_facts
from server.feedback.store import KeptAnswer, owner_of
from server.metrics import observe
from server.planning.plan import ControlSources, Plan, make_plan, split_model
from server.planning.refusals import RequestParams
from server.requests.difficulty import Extend
from server.requests.generation import Generation
from server.requests.merge import ClosingStream
from server.routes.access import key_of
from server.routes.audit import record_completion
from server.routes.inquiry import answer_inquiry, unsupported_by_inquiry
from server.routes.state import ServerState, state_of
from server.served_model import find_adapter
from server.tracing import Span, clock, request_span
from server.wire.report import Report
from server.worker.message import reserved_keys

_LONGEST_MISSPELLING = 10
"""Characters of a key that may be meant as `entropy`."""
_MAX_UNKNOWN = 1_000
"""Unknown keys that are compared with it: a body may have 100,000, and each takes microseconds."""
VllmRoute = Callable[..., Awaitable[Any]]
_OFF = {"top_k": (None, 0, -1), "top_p": (None, 1), "min_p": (None, 0)}
"""Values with which vLLM's own truncations keep every token."""


async def run_controlled(request: Any, raw_request: Request, vllm_route: VllmRoute) -> Any:
    """Answer a request with vLLM's route and apply its controls.

    Args:
        request: A vLLM request model with a field `entropy: Control | None`.
        raw_request: The HTTP request.
        vllm_route: vLLM's handler of this path.

    Raises:
        BadControl: A control is invalid or cannot be applied.
        QueueFull: Too many steered requests are waiting.
    """
    state, begin = state_of(raw_request), clock()
    await state.sync_artifacts()
    plan = _plan_request(request, raw_request, state)
    if plan is None:
        return await vllm_route(request, raw_request=raw_request)
    with request_span(raw_request.headers, begin) as span:
        if span.is_recording:
            _describe(span, begin, request, raw_request, plan)
        if plan.inquiry is not None:
            observe.count_request(plan.law_type, plan.profile)
            try:
                return await _run_inquiry(request, raw_request, state, plan, span)
            except BadControl:
                if not plan.inquiry.optional:
                    raise
                plan = plan.without_inquiry()
        return await _generate(request, raw_request, vllm_route, plan, span)


def _describe(span: Span, begin: int, request: Any, raw_request: Request, plan: Plan) -> None:
    """Set the attributes of the span of a request, and add that of its plan."""
    span.set(
        http__route=raw_request.url.path,
        gen_ai__request__model=request.model,
        profile=plan.profile,
        law=plan.law_type,
    )
    controls = [] if plan.control is None else [name for name, one in plan.control if one]
    with span.open("plan", begin, controls=controls):
        pass


async def _generate(
    request: Any, raw_request: Request, vllm_route: VllmRoute, plan: Plan, span: Span
) -> Any:
    """Run vLLM's route under a plan; None if the client disconnected."""
    state = state_of(raw_request)
    extend = _prompt_extender(request, raw_request) if plan.extends_prompt else None
    timeout = state.settings.trace_timeout
    keep = partial(_keep, state, owner_of(key_of(raw_request)))
    generation = Generation(plan, state.telemetry, timeout, extend, state.admission, keep)
    generation.calls.span = span
    observe.count_request(plan.law_type, plan.profile)
    try:
        recorder = await record_completion(request, raw_request, state, plan)
        generation.calls.recorder = recorder
        with nullcontext() if plan.is_empty else generation.activate():
            response = await vllm_route(request, raw_request=raw_request)
    except BaseException:
        generation.close()
        raise
    if isinstance(response, Response):  # None if the client disconnected
        if recorder is not None:
            recorder.status = response.status_code
        response.headers.update(generation.headers())
    if isinstance(response, StreamingResponse):
        span.held = True  # until the generation is closed
        return ClosingStream(response, generation)
    if getattr(request, "background", False) and response is not None:
        generation.calls.release()  # the engine is called later, in the background
        if recorder is not None:
            generation.calls.recorder = None
            recorder.end_completion((), ())
    else:
        generation.close()
    return response


def _keep(state: ServerState, owner: bytes, response_id: str, index: int, report: Report) -> None:
    """Keep what feedback on a choice will need."""
    facts = completion_facts(report)
    state.feedback.keep([KeptAnswer(owner, response_id, index, facts)])


async def _run_inquiry(
    request: Any, raw_request: Request, state: ServerState, plan: Plan, span: Span
) -> Any:
    """Take one turn of an inquiry; None if the client disconnected."""

    async def turn(request: Any, raw_request: Request) -> Response:
        return await answer_inquiry(request, raw_request, state, plan, span)

    return await with_cancellation(turn)(request, raw_request)


def _plan_request(request: Any, raw_request: Request, state: ServerState) -> Plan | None:
    xargs = getattr(request, "vllm_xargs", None)
    if xargs is not None and not isinstance(xargs, Mapping):  # one vLLM route does not validate it
        raise BadControl("`vllm_xargs`: input should be an object", "vllm_xargs")
    for key in reserved_keys(xargs):
        raise BadControl(
            f"`vllm_xargs.{key}` is reserved: send the `entropy` field instead",
            f"vllm_xargs.{key}",
        )
    _refuse_misspelled(getattr(request, "model_extra", None) or ())
    request.model, suffix = split_model(
        request.model, state.served_names(raw_request), state.profiles
    )
    control, request.entropy = request.entropy, None
    sources = ControlSources(control, suffix, profile_header(raw_request.headers))
    if not any(source is not None for source in sources):
        return None
    params = _request_params(request, raw_request)
    return make_plan(sources, state.profiles, state.artifacts, params, state.switched_off)


def _refuse_misspelled(keys: Iterable[str]) -> None:
    """Refuse unknown keys that look like `entropy`; vLLM ignores unknown keys.

    Raises:
        BadControl: Names the key.
    """
    for key in islice(keys, _MAX_UNKNOWN):
        if key == "entropy" or len(key) > _LONGEST_MISSPELLING:
            continue
        if get_close_matches(key.casefold(), ("entropy",), cutoff=0.85):
            raise BadControl(f"`{key}`: unknown key, did you mean `entropy`?", key)


def _request_params(request: Any, raw_request: Request) -> RequestParams:
    """Collect the request parameters that controls depend on."""
    is_chat_completion = isinstance(request, ChatCompletionRequest)
    is_chat = is_chat_completion or isinstance(request, AnthropicMessagesRequest)
    last = _last_message(request, raw_request) if is_chat else None
    models = raw_request.app.state.openai_serving_models
    loaded = find_adapter(request.model, models.lora_requests)
    return RequestParams(
        temperature=request.temperature,
        reasoning_effort=_reasoning_effort(request),
        answers_one_chat=is_chat,
        supports_inquiry=is_chat_completion,
        has_choices=not isinstance(request, AnthropicMessagesRequest | ResponsesRequest),
        has_tools=bool(getattr(request, "tools", None)),
        max_tokens=_max_tokens(request),
        max_model_len=models.model_config.max_model_len,
        max_samples=state_of(raw_request).settings.max_samples,
        streams=bool(getattr(request, "stream", False)),
        last_message=last if isinstance(last, Mapping) else None,
        adapter=None if loaded is None else loaded.adapter,
        num_choices=getattr(request, "n", None) or 1,
        beam_search=bool(getattr(request, "use_beam_search", False)),
        background=bool(getattr(request, "background", False)),
        truncating=tuple(
            field for field, off in _OFF.items() if getattr(request, field, None) not in off
        ),
        speculative=state_of(raw_request).speculative,
        is_baseline=random() < state_of(raw_request).settings.baseline_share,
        thinking=state_of(raw_request).thinking,
        unsupported_by_inquiry=unsupported_by_inquiry(request) if is_chat_completion else (),
    )


def _max_tokens(request: Any) -> int | None:
    fields = ("max_completion_tokens", "max_output_tokens", "max_tokens")
    set_to = vars(request)  # reading the attribute of a deprecated field warns
    return next((found for one in fields if (found := set_to.get(one))), None)


def _last_message(request: Any, raw_request: Request) -> Any:
    if not request.messages:
        return None
    if isinstance(request, ChatCompletionRequest):
        return request.messages[-1]
    chat, _ = _to_chat_request(request, raw_request)
    return chat.messages[-1] if chat.messages else None


def _reasoning_effort(request: Any) -> str | None:
    """The reasoning effort, from the chat request or Anthropic's `output_config`."""
    if isinstance(request, AnthropicMessagesRequest):
        return None if request.output_config is None else request.output_config.effort
    effort: str | None = getattr(request, "reasoning_effort", None)
    return effort


def _to_chat_request(request: Any, raw_request: Request) -> tuple[ChatCompletionRequest, Any]:
    """Convert a request to vLLM's chat request; also return its handler."""
    state = raw_request.app.state
    if isinstance(request, ChatCompletionRequest):
        return request, state.openai_serving_chat
    handler = state.anthropic_serving_messages
    chat = handler.to_chat_completion_request(
        request, merge_inline_system=handler._merge_inline_system
    )
    return chat, handler


def _prompt_extender(request: Any, raw_request: Request) -> Extend:
    """Make a function that renders the chat with a text after the question.

    The text is appended, so the prefix stays in the prefix cache.
    """

    async def extend(text: str) -> Any | None:
        chat, handler = _to_chat_request(request, raw_request)
        longer = chat.model_copy(update={"messages": _append_text(chat.messages, text)})
        try:
            rendered = await handler.render_chat_request(longer)
        except ValueError:  # with the text, the prompt is too long for the model
            return None
        return None if isinstance(rendered, ErrorResponse) else rendered[1][0]

    return extend


def _append_text(messages: Sequence[Any], text: str) -> list[Any]:
    """Append a text to the last message of a conversation."""
    *before, last = messages
    content = last["content"]
    if isinstance(content, str):
        return [*before, {**last, "content": append_text(content, text)}]
    return [*before, {**last, "content": [*content, {"type": "text", "text": text}]}]


def profile_header(headers: Headers) -> str | None:
    """The profile in `X-Entropy-Profile`; several headers are one list, which names no profile."""
    names = [name.strip() for name in headers.getlist("x-entropy-profile")]
    return ", ".join(names) if names else None
