"""Exception handlers that return errors in the format of the OpenAI API."""

from http import HTTPStatus

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from server.errors import BadControl, bad_request, error_body
from server.metrics import observe
from server.requests.admission import RETRY_AFTER, QueueFull
from server.routes.bodies import RefusedBody


def shape_errors(app: FastAPI) -> None:
    """Return every error as `{"error": {...}}`.

    vLLM does this only for exceptions of its own code. For an unknown path, a wrong method or a
    body that is not UTF-8, FastAPI returns `{"detail": ...}`.
    """
    app.exception_handler(HTTPException)(_http_error)
    app.exception_handler(RefusedBody)(_http_error)  # before vLLM's handler for FastAPI's class
    app.exception_handler(BadControl)(_refusal)
    app.exception_handler(QueueFull)(_queue_full)


async def _http_error(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    kind = HTTPStatus(error.status_code).phrase
    param = getattr(error, "param", None)
    body = error_body(error.detail, kind, param, error.status_code)
    return JSONResponse(body, status_code=error.status_code, headers=error.headers)


async def _refusal(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, BadControl)
    observe.count_refusal(error.param)
    return bad_request(str(error), error.param)


async def _queue_full(_: Request, error: Exception) -> JSONResponse:
    observe.count_queue_full()
    body = error_body(str(error), "ServiceUnavailableError", None, 503)
    return JSONResponse(body, status_code=503, headers={"Retry-After": str(RETRY_AFTER)})
