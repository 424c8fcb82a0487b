"""Routes that vLLM does not have: profiles, artifacts, the schema and readiness."""

import asyncio
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from server.profiles import warning
from server.routes.state import state_of
from server.wire.cards import ArtifactList, ProfileCard, ProfileList, Readiness, ServerFacts
from server.wire.schema import wire_schema

router = APIRouter()


@router.get("/v1/entropy/profiles")
async def list_profiles(raw_request: Request) -> ProfileList:
    """List all profiles and their controls."""
    profiles = state_of(raw_request).profiles
    return ProfileList(
        data=[ProfileCard(id=k, control=v, warning=warning(v)) for k, v in profiles.items()]
    )


@router.get("/v1/entropy/artifacts")
async def list_artifacts(raw_request: Request) -> ArtifactList:
    """List all artifacts and whether they are compatible with the served model."""
    state = state_of(raw_request)
    await state.sync_artifacts()
    return ArtifactList(data=state.artifacts.cards)


@router.get("/v1/entropy/server")
async def server_facts(raw_request: Request) -> ServerFacts:
    """Versions and fingerprints that answers depend on beside their request."""
    return state_of(raw_request).facts(raw_request)


@router.get("/v1/entropy/schema")
async def schema() -> dict[str, Any]:
    """JSON schema of requests with `entropy`, of decisions, and of their reports, in `$defs`."""
    return wire_schema()


@router.get("/ready", responses={503: {"model": Readiness}}, response_model=Readiness)
async def ready(raw_request: Request) -> JSONResponse:
    """Report whether the engine is making progress.

    The check runs in the engine's loop between two steps: an idle engine responds immediately, a
    busy one after the current step, a stuck or dead one never. `ENTROSTAT_READY_TIMEOUT` bounds
    the wait.
    """
    state = state_of(raw_request)
    steps, reason = None, None
    try:
        async with asyncio.timeout(state.settings.ready_timeout):
            await state.engine.check_health()
            steps = (await state.ask_workers())["steps"]
    except TimeoutError:
        reason = f"the engine did not respond within {state.settings.ready_timeout:g} s"
    except Exception as error:  # any failure of the check means not ready
        reason = f"the engine does not answer: {type(error).__name__}"
    if reason is None and not state.telemetry.is_running:
        reason = "the telemetry receiver stopped: responses have no measurements"
    body = Readiness(
        ready=reason is None, steps=steps, artifacts=len(state.artifacts), reason=reason
    )
    return JSONResponse(body.model_dump(), status_code=200 if body.ready else 503)
