"""`POST /v1/entropy/feedback`: which answers were right."""

import sqlite3
from typing import Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse, Response
from vllm.entrypoints.serve.engine.protocol import ErrorResponse
from vllm.entrypoints.serve.utils.api_utils import validate_json_request

from server.errors import error_body
from server.feedback.monitors import observe_feedback
from server.feedback.store import (
    RepeatedFeedback,
    UnknownAnswer,
    UnknownValue,
    owner_of,
)
from server.metrics import observe
from server.routes.access import key_of
from server.routes.bodies import BoundedRoute, Bounds
from server.routes.parsing import body_of, parsed
from server.routes.state import state_of
from server.wire.feedback import FeedbackRequest, FeedbackResponse

router = APIRouter(route_class=BoundedRoute)
_BOUNDS = Bounds(containers=2, keys=10, values=10)
_ERRORS: dict[int | str, dict[str, Any]] = {
    code: {"model": ErrorResponse} for code in (400, 404, 409, 503)
}


@router.post(
    "/v1/entropy/feedback",
    dependencies=[Depends(validate_json_request)],
    response_model=None,
    responses={200: {"model": FeedbackResponse}, **_ERRORS},
    openapi_extra=body_of(FeedbackRequest),
)
async def give_feedback(raw_request: Request) -> Response:
    """Say whether an answer with a report was right, or what the right value is."""
    request: FeedbackRequest = await parsed(raw_request, lambda _: FeedbackRequest, _BOUNDS)
    feedback = state_of(raw_request).feedback
    answer = (owner_of(key_of(raw_request)), request.id, request.index)
    try:
        judgment = await feedback.judge(answer, request.right, request.value)
    except UnknownAnswer:
        return _refusal(404, "unknown", "id", _unknown(request))
    except RepeatedFeedback:
        return _refusal(409, "repeated", "id", "`id`: this answer has feedback already")
    except UnknownValue:
        message = "`value`: the answer could not have had this value; send `right` instead"
        return _refusal(400, "value", "value", message)
    except sqlite3.Error as error:
        body = error_body(
            f"no feedback can be taken: {error}", "ServiceUnavailableError", None, 503
        )
        return JSONResponse(body, status_code=503)
    observe_feedback(judgment)
    response = FeedbackResponse(
        id=request.id,
        index=request.index,
        kind=judgment.facts.kind,
        right=judgment.right,
        covered=judgment.covered,
    )
    return JSONResponse(response.model_dump())


def _unknown(request: FeedbackRequest) -> str:
    return (
        f"`id`: no answer `{request.id[:100]}` with the index {request.index} is kept: it had no "
        "report, is too old, or belongs to another API key"
    )


def _refusal(status: int, reason: str, param: str, message: str) -> JSONResponse:
    observe.count_refused_feedback(reason)
    kind = {400: "BadRequestError", 404: "NotFoundError", 409: "ConflictError"}[status]
    return JSONResponse(error_body(message, kind, param, status), status_code=status)
