"""The playground: one page at `/` and its files. They need no API key; what the page asks does."""

from hashlib import sha256
from importlib.resources import files

from fastapi import APIRouter, HTTPException, Request
from starlette.responses import Response

router = APIRouter(include_in_schema=False)

_TYPES = {
    "index.html": "text/html",
    "app.js": "text/javascript",
    "app.css": "text/css",
    "icon.svg": "image/svg+xml",
    "NOTICE.txt": "text/plain",
}
_FILES = {name: files("server").joinpath("playground", name).read_bytes() for name in _TYPES}
_TAGS = {name: f'"{sha256(content).hexdigest()[:32]}"' for name, content in _FILES.items()}

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'",
    "Cache-Control": "no-cache",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
"""The page runs only its own script, which cannot turn a text into markup, and connects only to
this server."""


@router.api_route("/", methods=["GET", "HEAD"])
async def page(request: Request) -> Response:
    """The page."""
    return _answer("index.html", request)


@router.api_route("/playground/{name}", methods=["GET", "HEAD"])
async def file(name: str, request: Request) -> Response:
    """One file of the page.

    Raises:
        HTTPException: There is no such file.
    """
    if name not in _FILES:
        raise HTTPException(404)
    return _answer(name, request)


def _answer(name: str, request: Request) -> Response:
    headers = {**HEADERS, "ETag": _TAGS[name]}
    if request.headers.get("if-none-match") == _TAGS[name]:
        return Response(status_code=304, headers=headers)
    return Response(_FILES[name], media_type=_TYPES[name], headers=headers)
