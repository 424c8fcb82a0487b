"""What every controlled route does: plan, run vLLM's own route under the plan, merge the report."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from fastapi import Request
from fastapi.responses import Response, StreamingResponse
from vllm.entrypoints.anthropic.protocol import AnthropicMessagesRequest
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.entrypoints.serve.engine.protocol import ErrorResponse
from vllm.entrypoints.serve.utils.api_utils import with_cancellation

from probes.difficulty.strategies import with_text
from server import metrics
from server.errors import BadControl
from server.planning.plan import Plan, Said, Wanted, make_plan, split_model
from server.requests.difficulty import Extend
from server.requests.generation import Generation
from server.requests.merge import ClosingStream
from server.routes.inquiry import play, refuse_unplayable
from server.state import ServerState, state_of
from server.worker.message import reserved_keys

VllmRoute = Callable[..., Awaitable[Any]]


async def run_controlled(request: Any, raw_request: Request, vllm_route: VllmRoute) -> Any:
    """Answer a request with vLLM's own route, under whatever it asks for in `entropy`.

    Args:
        request: A vLLM request model with a field `entropy: Control | None`.
        raw_request: The HTTP request.
        vllm_route: vLLM's handler of this path.

    Raises:
        BadControl: The request asks for something that cannot be done.
        QueueFull: Too many steered requests wait already.
    """
    state = state_of(raw_request)
    generation = _plan(request, raw_request, state)
    if generation is None:
        return await vllm_route(request, raw_request=raw_request)
    metrics.planned(generation.plan)
    if generation.plan.inquiry is not None:
        return await _play(request, raw_request, state, generation.plan)
    try:
        with generation.applied():
            response = await vllm_route(request, raw_request=raw_request)
    except BaseException:
        generation.close()
        raise
    if isinstance(response, Response):  # None if the client left
        response.headers.update(generation.headers())
    if isinstance(response, StreamingResponse):
        return ClosingStream(response, generation)
    if getattr(request, "background", False) and response is not None:
        generation.release()  # the engine is yet to be called
    else:
        generation.close()
    return response


async def _play(request: Any, raw_request: Request, state: ServerState, plan: Plan) -> Any:
    """One turn of a game; None if the client left meanwhile."""

    async def turn(request: Any, raw_request: Request) -> Response:
        return await play(request, raw_request, state, plan)

    return await with_cancellation(turn)(request, raw_request)


def _plan(request: Any, raw_request: Request, state: ServerState) -> Generation | None:
    xargs = getattr(request, "vllm_xargs", None)
    if xargs is not None and not isinstance(xargs, Mapping):  # one route of vLLM takes anything
        raise BadControl("`vllm_xargs`: input should be an object", "vllm_xargs")
    for key in reserved_keys(xargs):
        raise BadControl(
            f"`vllm_xargs.{key}` is reserved: send the `entropy` field instead",
            f"vllm_xargs.{key}",
        )
    request.model, suffix = split_model(
        request.model, state.served_names(raw_request), state.profiles
    )
    control, request.entropy = request.entropy, None
    wanted = Wanted(control, suffix, raw_request.headers.get("x-entropy-profile"))
    said = Said(request.temperature, _effort(request))
    plan = make_plan(wanted, state.profiles, state.artifacts, said)
    if plan is None:
        return None
    if getattr(request, "use_beam_search", False):
        raise BadControl(
            "`use_beam_search` does not sample: leave out `entropy`", "use_beam_search"
        )
    if getattr(request, "background", False) and plan.trace != "none":
        raise BadControl(
            "`background` answers before there is anything to report: leave it out, or set "
            '`entropy.trace` to "none"',
            "background",
        )
    if plan.inquiry is not None:
        refuse_unplayable(request, raw_request)
    extend = None
    if plan.difficulty is not None:
        if (reason := _why_unreadable(request, raw_request)) is not None:
            raise BadControl(f"`entropy.difficulty`: {reason}", "entropy.difficulty")
        extend = _extender(request, raw_request)
    timeout = state.settings.trace_timeout
    return Generation(plan, state.telemetry, timeout, extend, state.admission)


def _effort(request: Any) -> str | None:
    """The effort that a request names, in chat or in Anthropic's `output_config`."""
    if isinstance(request, AnthropicMessagesRequest):
        return None if request.output_config is None else request.output_config.effort
    effort: str | None = getattr(request, "reasoning_effort", None)
    return effort


def _why_unreadable(request: Any, raw_request: Request) -> str | None:
    """Why this request has no question that a difficulty probe could read; None if it has."""
    if not isinstance(request, ChatCompletionRequest | AnthropicMessagesRequest):
        return "the difficulty of a question is read in /v1/chat/completions and /v1/messages alone"
    if request.model in raw_request.app.state.openai_serving_models.lora_requests:
        return f"the probe reads the base model, not its adapter `{request.model}`"
    chat, _ = _as_chat(request, raw_request)
    last = chat.messages[-1] if chat.messages else None
    if not isinstance(last, Mapping) or last.get("role") != "user" or not last.get("content"):
        return "the last message must be the user's: it is the question"
    return None


def _as_chat(request: Any, raw_request: Request) -> tuple[ChatCompletionRequest, Any]:
    """The chat request that vLLM answers, and its handler."""
    state = raw_request.app.state
    if isinstance(request, ChatCompletionRequest):
        return request, state.openai_serving_chat
    handler = state.anthropic_serving_messages
    chat = handler.to_chat_completion_request(
        request, merge_inline_system=handler._merge_inline_system
    )
    return chat, handler


def _extender(request: Any, raw_request: Request) -> Extend:
    """Render the chat again with a text after the question, which keeps its prefix cached."""

    async def extend(text: str) -> Any | None:
        chat, handler = _as_chat(request, raw_request)
        longer = chat.model_copy(update={"messages": _extended(chat.messages, text)})
        try:
            rendered = await handler.render_chat_request(longer)
        except ValueError:  # too long for the model, which the question alone is not
            return None
        return None if isinstance(rendered, ErrorResponse) else rendered[1][0]

    return extend


def _extended(messages: Sequence[Any], text: str) -> list[Any]:
    """The conversation with a text after its last message's own."""
    *before, last = messages
    content = last["content"]
    if isinstance(content, str):
        return [*before, {**last, "content": with_text(content, text)}]
    return [*before, {**last, "content": [*content, {"type": "text", "text": text}]}]
