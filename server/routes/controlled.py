"""What every controlled route does: plan, run vLLM's own route under the plan, merge the report."""

from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import Request
from fastapi.responses import Response

from server import metrics
from server.control import reserved_keys
from server.errors import BadControl, bad_request
from server.generation import Generation, current
from server.plan import Wanted, make_plan, split_model
from server.state import ServerState, state_of

VllmRoute = Callable[..., Awaitable[Any]]


async def run_controlled(request: Any, raw_request: Request, vllm_route: VllmRoute) -> Any:
    """Answer a request with vLLM's own route, under whatever it asks for in `entropy`.

    Args:
        request: A vLLM request model with a field `entropy: Control | None`.
        raw_request: The HTTP request.
        vllm_route: vLLM's handler of this path.
    """
    state = state_of(raw_request)
    try:
        generation = _plan(request, raw_request, state)
    except BadControl as error:
        metrics.refused()
        return bad_request(str(error), error.param)
    if generation is None:
        return await vllm_route(request, raw_request=raw_request)
    metrics.planned(generation.plan)
    current.set(generation)
    try:
        response = await vllm_route(request, raw_request=raw_request)
    except BaseException:
        generation.close()
        raise
    if not isinstance(response, Response):  # the client left
        generation.close()
        return response
    return await generation.finish(response)


def _plan(request: Any, raw_request: Request, state: ServerState) -> Generation | None:
    for key in reserved_keys(getattr(request, "vllm_xargs", None)):
        raise BadControl(
            f"`vllm_xargs.{key}` is reserved: send the `entropy` field instead",
            f"vllm_xargs.{key}",
        )
    request.model, suffix = split_model(request.model, state.served_names(raw_request))
    control, request.entropy = request.entropy, None
    wanted = Wanted(control, suffix, raw_request.headers.get("x-entropy-profile"))
    plan = make_plan(wanted, state.profiles, state.artifacts, request.temperature)
    if plan is None:
        return None
    if getattr(request, "use_beam_search", False):
        raise BadControl(
            "`use_beam_search` does not sample: leave out `entropy`", "use_beam_search"
        )
    return Generation(plan, state.telemetry, state.settings.trace_timeout)
