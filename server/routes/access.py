"""API key: required on every route except health, metrics, version, documentation, playground.

vLLM's middleware protects only some path prefixes. It does not cover routes that generate
(`/invocations`, `/generative_scoring`) or change the server (`/scale_elastic_ep`).
"""

from argparse import Namespace

from fastapi import FastAPI, Request
from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send
from vllm import envs
from vllm.entrypoints.serve.middleware.authenticate import AuthenticationMiddleware

from server.errors import error_body

PUBLIC_PATHS = frozenset(
    {
        "/",
        "/docs",
        "/docs/oauth2-redirect",
        "/health",
        "/load",
        "/metrics",
        "/openapi.json",
        "/ping",
        "/ready",
        "/redoc",
        "/version",
    }
)
"""The playground, health, load, metrics, version and the API documentation."""
_PUBLIC_FOLDERS = ("/metrics/", "/playground/", "/static/")


def is_public(method: str, path: str) -> bool:
    """Whether a route is accessible without the API key.

    Args:
        method: HTTP method; empty for a WebSocket.
        path: Path without the server's root path.
    """
    if method == "POST":
        return path == "/ping"  # SageMaker's health check
    if method not in ("GET", "HEAD"):
        return False
    return path in PUBLIC_PATHS or path.startswith(_PUBLIC_FOLDERS)


class ApiKeyGuard(AuthenticationMiddleware):
    """vLLM's API key check, applied to every route that is not public."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Respond with 401 if the key is missing. CORS preflights (OPTIONS) are exempt."""
        if (
            scope["type"] not in ("http", "websocket")
            or scope.get("method") == "OPTIONS"
            or is_public(scope.get("method", ""), _route_path(scope))
            or self.verify_token(Headers(scope=scope))
        ):
            await self.app(scope, receive, send)
            return
        body = error_body("this route needs the API key", "AuthenticationError", None, 401)
        await JSONResponse(body, status_code=401)(scope, receive, send)


def _route_path(scope: Scope) -> str:
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", ""))


def _keys(args: Namespace) -> list[str]:
    return [key for key in (args.api_key or [envs.VLLM_API_KEY]) if key]


def key_of(request: Request) -> str | None:
    """The API key that a request was admitted with; None if the server has no keys."""
    if not _keys(request.app.state.args):
        return None
    return request.headers.get("authorization", "").partition(" ")[2]


def guard(app: FastAPI, args: Namespace) -> None:
    """Add the API key check if the server has a key."""
    if tokens := _keys(args):
        app.add_middleware(ApiKeyGuard, tokens=tokens)
