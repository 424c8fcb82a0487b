"""Routes for the operator; they exist only with `ENTROSTAT_ADMIN_KEY`."""

import asyncio
import hashlib
import hmac
import logging
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from typing import Any

from fastapi import APIRouter, Depends, Request
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from vllm.entrypoints.serve.engine.protocol import ErrorResponse

from server.admin.overrides import SWITCHES, Overrides
from server.admin.uploads import MAX_BYTES
from server.audit.lines import AdminLine
from server.errors import BadControl, describe
from server.profiles import warning
from server.routes.bodies import BoundedRoute, Bounds, RefusedBody
from server.routes.parsing import body_of, parsed
from server.routes.state import ServerState, state_of
from server.wire.admin import AdminProfileCard, AdminState, SwitchRequest
from server.wire.request import Control

logger = logging.getLogger("vllm.entrostat")

HEADER = "X-Entropy-Admin-Key"
MAX_PROFILE_BYTES = 1 << 14
"""Size of the body of an uploaded profile."""
_BOUNDS = Bounds(containers=1000, keys=1000, values=1000)
_ERRORS: dict[int | str, dict[str, Any]] = {
    code: {"model": ErrorResponse} for code in (400, 401, 404)
}


def require_admin_key(raw_request: Request) -> None:
    """FastAPI dependency: refuse a request without the admin key, in constant time.

    Raises:
        HTTPException: 401.
    """
    wanted = state_of(raw_request).settings.admin_key
    given = raw_request.headers.get(HEADER, "")
    assert wanted is not None  # the routes exist only with a key
    digests = [hashlib.sha256(one.encode()).digest() for one in (wanted.get_secret_value(), given)]
    if not hmac.compare_digest(*digests):
        raise HTTPException(401, f"this route needs the admin key in the header {HEADER}")


router = APIRouter(
    route_class=BoundedRoute, dependencies=[Depends(require_admin_key)], responses=_ERRORS
)


@router.get("/v1/entropy/admin/state")
async def admin_state(raw_request: Request) -> AdminState:
    """List profiles, artifacts and switched-off controls."""
    state = state_of(raw_request)
    await state.sync_artifacts()
    return _state(state)


@router.put(
    "/v1/entropy/admin/profiles/{name}",
    openapi_extra=body_of(Control),
)
async def upload_profile(name: str, raw_request: Request) -> AdminState:
    """Add a profile, or replace one of the same name, until the server stops."""
    control = await _control(raw_request)
    return await _change(
        raw_request, "profile_uploaded", name, lambda old: old.with_profile(name, control), control
    )


@router.delete("/v1/entropy/admin/profiles/{name}")
async def remove_profile(name: str, raw_request: Request) -> AdminState:
    """Remove an uploaded profile; one of the same name from a file is valid again."""
    return await _change(
        raw_request, "profile_removed", name, lambda old: old.without_profile(name)
    )


_TAR: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {"application/x-tar": {"schema": {"type": "string", "format": "binary"}}},
    }
}


@router.put("/v1/entropy/admin/artifacts/{model}/{name}", openapi_extra=_TAR)
async def upload_artifact(model: str, name: str, raw_request: Request) -> AdminState:
    """Add an artifact until the server stops: a tar of its two files."""
    state, subject = state_of(raw_request), f"{model}/{name}"
    assert state.uploads is not None
    body = await raw_request.body()
    if len(body) > MAX_BYTES:
        raise RefusedBody(413, f"an artifact has at most {MAX_BYTES} bytes")
    try:
        digest = await state.uploads.add(subject, body)
    except ValueError as error:
        raise BadControl(f"`artifact`: {error}", "artifact") from error
    _log(raw_request, "artifact_uploaded", subject, hash=digest)
    return _state(state)


@router.delete("/v1/entropy/admin/artifacts/{model}/{name}")
async def remove_artifact(model: str, name: str, raw_request: Request) -> AdminState:
    """Remove an uploaded artifact; requests in flight end with it."""
    state, subject = state_of(raw_request), f"{model}/{name}"
    assert state.uploads is not None
    try:
        await state.uploads.remove(subject)
    except KeyError:
        raise HTTPException(404, f"no artifact `{subject[:200]}` was uploaded") from None
    _log(raw_request, "artifact_removed", subject)
    return _state(state)


@router.put("/v1/entropy/admin/switches/{control}", openapi_extra=body_of(SwitchRequest))
async def switch_control(control: str, raw_request: Request) -> AdminState:
    """Switch a control off for all requests, or on again."""
    if control not in SWITCHES:
        known = ", ".join(SWITCHES)
        raise HTTPException(404, f"unknown control `{control[:100]}`; known: {known}")
    wanted: SwitchRequest = await parsed(raw_request, lambda _: SwitchRequest, _BOUNDS)
    action = "switched_on" if wanted.on else "switched_off"
    return await _change(
        raw_request, action, control, lambda old: old.switched(control, on=wanted.on)
    )


async def _control(raw_request: Request) -> Control:
    """The body as the controls of a profile.

    Raises:
        BadControl: It is not.
        RefusedBody: It is too large.
    """
    body = await raw_request.body()
    if len(body) > MAX_PROFILE_BYTES:
        raise RefusedBody(413, f"a profile has at most {MAX_PROFILE_BYTES} bytes")
    try:
        control = await asyncio.to_thread(Control.model_validate_json, body)
    except ValidationError as error:
        raise describe(error, "profile") from error
    if control.profile is not None:
        raise BadControl("`profile`: a profile cannot start from another", "profile")
    return control


async def _change(
    raw_request: Request,
    action: str,
    subject: str,
    edit: Callable[[Overrides], Overrides],
    control: Control | None = None,
) -> AdminState:
    """Apply a change for all API servers and write it to both logs.

    Raises:
        BadControl: It is not possible.
        HTTPException: There is no such profile.
    """
    state = state_of(raw_request)
    assert state.overrides is not None
    try:
        await asyncio.to_thread(state.overrides.change, edit)
    except KeyError:
        raise HTTPException(404, f"no profile `{subject[:100]}` was uploaded") from None
    except ValueError as error:
        raise BadControl(str(error), "name") from error
    set_fields = None if control is None else control.model_dump(mode="json", exclude_unset=True)
    _log(raw_request, action, subject, control=set_fields)
    return _state(state)


def _log(raw_request: Request, action: str, subject: str, **facts: Any) -> None:
    """Write a change to both logs."""
    state = state_of(raw_request)
    client = None if raw_request.client is None else raw_request.client.host
    logger.warning("entrostat: admin %s %r, from %s", action, subject, client)
    if state.decision_log is not None:
        line = partial(
            AdminLine,
            time=datetime.now(UTC),
            server=state.facts(raw_request),
            action=action,
            subject=subject,
            client=client,
            request_id=raw_request.headers.get("x-request-id"),
            **facts,
        )
        state.decision_log.write(line)


def _state(state: ServerState) -> AdminState:
    assert state.overrides is not None
    assert state.uploads is not None
    now = state.overrides.current()
    return AdminState(
        profiles=[
            AdminProfileCard(
                id=name,
                control=control,
                warning=warning(control),
                source="uploaded" if name in now.profiles else "file",
            )
            for name, control in state.profiles.items()
        ],
        artifacts=state.artifacts.cards,
        uploaded_artifacts=state.uploads.names,
        switched_off=list(now.off),
    )
