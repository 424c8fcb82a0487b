"""All routes of the server: which require the API key, generate, and accept controls."""

import sys
from argparse import Namespace
from typing import Literal, NamedTuple

from fastapi import APIRouter, FastAPI
from fastapi.routing import APIRoute
from starlette.routing import Mount

from server.routes import admin, anthropic, decisions, entropy, feedback, models, openai, playground
from server.routes.access import guard, is_public
from server.routes.bodies import MAX_DIGITS
from server.routes.failures import shape_errors
from server.routes.uncontrolled import refuses_controls, routes_that_refuse_controls
from server.settings import settings

Controls = Literal["takes", "own", "refuses", "profile names", ""]
"""How a route handles the `entropy` field, the header and `NAME@PROFILE`."""

_CONTROLLED = (openai.router, anthropic.router)
_OURS = (*_CONTROLLED, decisions.router, models.router, entropy.router, feedback.router)

_SILENT = frozenset(
    {
        "/abort_requests",
        "/adapters",
        "/collective_rpc",
        "/detokenize",
        "/fault_tolerance/apply",
        "/finish_weight_update",
        "/inference/v1/abort_requests",
        "/init_weight_transfer_engine",
        "/is_scaling_elastic_ep",
        "/pause",
        "/ping",
        "/release_kv_cache_memory",
        "/reset_encoder_cache",
        "/reset_mm_cache",
        "/reset_prefix_cache",
        "/resume",
        "/scale_elastic_ep",
        "/shutdown_weight_transfer_engine",
        "/sleep",
        "/start_draft_weight_update",
        "/start_profile",
        "/start_weight_update",
        "/stop_profile",
        "/tokenize",
        "/update_weight_version",
        "/update_weights",
        "/v1/entropy/feedback",
        "/v1/load_lora_adapter",
        "/v1/messages/count_tokens",
        "/v1/responses/{response_id}/cancel",
        "/v1/unload_lora_adapter",
        "/wake_up",
        "/weight_checker",
    }
)
"""POST routes that run no forward pass. All others count as generating, so that a route added by a
later vLLM is never assumed to be harmless."""


class RouteFacts(NamedTuple):
    """Properties of one method of one path."""

    path: str
    method: str
    needs_key: bool
    generates: bool
    controls: Controls


def attach_routes(app: FastAPI, args: Namespace) -> None:
    """Attach our routes, refuse controls on the others, add the API key check and error handlers.

    Args:
        app: App with vLLM's routes attached.
        args: Parsed command line.
    """
    sys.set_int_max_str_digits(MAX_DIGITS)
    refusing = routes_that_refuse_controls(app, _OURS)
    for router in (*_OURS, refusing):
        app.include_router(router)
    if settings().admin_key is not None:
        app.include_router(admin.router)
    if settings().playground:
        app.include_router(playground.router)
    shape_errors(app)
    guard(app, args)


def route_facts(app: FastAPI) -> list[RouteFacts]:
    """Return every route of an app, sorted by path and method."""
    found = set[RouteFacts]()
    for route in app.routes:
        path = getattr(route, "path", "") + ("/" if isinstance(route, Mount) else "")
        for method in (getattr(route, "methods", None) or {"GET"}) - {"HEAD"}:
            found.add(
                RouteFacts(
                    path,
                    method,
                    needs_key=not is_public(method, path),
                    generates=_can_generate(path, method),
                    controls=_control_support(route, path, method),
                )
            )
    return sorted(found)


def _can_generate(path: str, method: str) -> bool:
    return method == "POST" and path not in _SILENT and not path.endswith(("/render", "/derender"))


def _control_support(route: object, path: str, method: str) -> Controls:
    if refuses_controls(route):
        return "refuses"
    if any(_has_route(router, path, method) for router in _CONTROLLED):
        return "takes"
    if _has_route(decisions.router, path, method):
        return "own"
    return "profile names" if method == "POST" and _has_route(models.router, path, method) else ""


def _has_route(router: APIRouter, path: str, method: str) -> bool:
    return any(
        isinstance(route, APIRoute) and route.path == path and method in route.methods
        for route in router.routes
    )
