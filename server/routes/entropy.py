"""Our own routes: what can be asked for, and whether the server makes progress."""

import asyncio

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from server.state import state_of
from server.wire.cards import ArtifactList, ProfileCard, ProfileList, Readiness

router = APIRouter()


@router.get("/v1/entropy/profiles")
async def list_profiles(raw_request: Request) -> ProfileList:
    """Named controls."""
    profiles = state_of(raw_request).profiles
    return ProfileList(data=[ProfileCard(id=k, control=v) for k, v in profiles.items()])


@router.get("/v1/entropy/artifacts")
async def list_artifacts(raw_request: Request) -> ArtifactList:
    """Artifacts, and why one cannot be used."""
    return ArtifactList(data=state_of(raw_request).artifacts.cards)


@router.get("/ready", responses={503: {"model": Readiness}}, response_model=Readiness)
async def ready(raw_request: Request) -> JSONResponse:
    """Whether the engine makes progress.

    The question goes through the engine's own loop, between two steps: an idle engine answers at
    once, a busy one after the step at hand, a stuck or dead one not at all. Slow is not dead, so
    the limit is generous.
    """
    state = state_of(raw_request)
    steps, reason = None, None
    try:
        async with asyncio.timeout(state.settings.ready_timeout):
            await state.engine.check_health()
            answers = await state.engine.collective_rpc("entrostat_status")
        steps = max(answer["steps"] for answer in answers)
    except TimeoutError:
        reason = f"the engine gave no sign of progress in {state.settings.ready_timeout:g} s"
    except Exception as error:  # whatever it is, a server that cannot say is not ready
        reason = f"the engine does not answer: {type(error).__name__}"
    if reason is None and not state.telemetry.receives:
        reason = "the telemetry receiver ended: answers carry no measurements"
    body = Readiness(
        ready=reason is None, steps=steps, artifacts=len(state.artifacts), reason=reason
    )
    return JSONResponse(body.model_dump(), status_code=200 if body.ready else 503)
