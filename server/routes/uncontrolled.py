"""Makes vLLM's other routes refuse controls, which they would otherwise silently ignore."""

from collections.abc import Iterable, Mapping
from typing import Any

from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.routing import APIRoute

from server.errors import BadControl
from server.planning.plan import split_model
from server.routes.access import is_public
from server.routes.bodies import BoundedRoute, RefusedBody
from server.routes.state import state_of

_BODY_METHODS = frozenset({"POST", "PUT", "PATCH"})


async def refuse_controls(raw_request: Request) -> None:
    """FastAPI dependency of a route that accepts no controls.

    Raises:
        BadControl: The header, the body or the model name of the request names controls.
    """
    body = await _body(raw_request)
    if body.get("entropy") is not None:
        path = raw_request.url.path
        raise BadControl(f"`entropy`: {path} takes no controls", "entropy")
    refuse_profiles(body.get("model"), raw_request)


def refuse_profiles(name: Any, raw_request: Request) -> None:
    """Refuse a profile in the header or in the name of the model.

    Raises:
        BadControl: There is one.
    """
    path = raw_request.url.path
    if "x-entropy-profile" in raw_request.headers:
        raise BadControl(f"`X-Entropy-Profile`: {path} takes no profile", "X-Entropy-Profile")
    if isinstance(name, str):
        state = state_of(raw_request)
        _, profile = split_model(name, state.served_names(raw_request), state.profiles)
        if profile is not None:
            raise BadControl(f"`model`: {path} takes no profile: leave out `@{profile}`", "model")


async def _body(raw_request: Request) -> Mapping[str, Any]:
    """The fields of the body, which Starlette caches; empty if there is none."""
    media_type = raw_request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type in ("multipart/form-data", "application/x-www-form-urlencoded"):
        return await raw_request.form()
    if not await raw_request.body():
        return {}
    try:
        body = await raw_request.json()
    except ValueError:  # the route itself refuses malformed JSON
        return {}
    if not isinstance(body, Mapping):  # some of vLLM's routes would answer 500
        raise RefusedBody(400, "the body must be a JSON object", "body")
    return body


def refuses_controls(route: object) -> bool:
    """Whether a route has `refuse_controls` among its dependencies."""
    return isinstance(route, APIRoute) and any(
        dependency.dependency is refuse_controls for dependency in route.dependencies
    )


def routes_that_refuse_controls(app: FastAPI, ours: Iterable[APIRouter]) -> APIRouter:
    """A router with vLLM's remaining body routes, each with `refuse_controls` as a dependency.

    Args:
        app: App with vLLM's routes attached.
        ours: Routers that accept controls or `NAME@PROFILE`.
    """
    replaced = {
        (route.path, method)
        for router in ours
        for route in router.routes
        if isinstance(route, APIRoute)
        for method in route.methods
    }
    router = APIRouter(route_class=BoundedRoute)
    for route in app.routes:
        if not isinstance(route, APIRoute):
            continue
        methods = {
            method
            for method in route.methods & _BODY_METHODS
            if (route.path, method) not in replaced and not is_public(method, route.path)
        }
        if methods:
            _add(router, route, methods)
    return router


def _add(router: APIRouter, route: APIRoute, methods: set[str]) -> None:
    router.add_api_route(
        route.path,
        route.endpoint,
        methods=sorted(methods),
        dependencies=[*route.dependencies, Depends(refuse_controls)],
        response_model=route.response_model,
        response_class=route.response_class,
        status_code=route.status_code,
        responses=route.responses,
        tags=route.tags,
        summary=route.summary,
        description=route.description,
        response_description=route.response_description,
        deprecated=route.deprecated,
        operation_id=route.operation_id,
        include_in_schema=route.include_in_schema,
        openapi_extra=route.openapi_extra,
        name=route.name,
    )
