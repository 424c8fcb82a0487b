"""Mistakes of a client, in OpenAI's error shape: `{"error": {message, type, param, code}}`."""

from collections.abc import Mapping, Sequence
from typing import Any

from fastapi.responses import JSONResponse
from pydantic import ValidationError

from probes.laws import LAWS


class BadControl(ValueError):
    """The request asks for something that cannot be done; `param` names the field."""

    def __init__(self, message: str, param: str) -> None:
        super().__init__(message)
        self.param = param


def error_body(message: str, kind: str, param: str | None, code: int) -> dict[str, Any]:
    """The body of an error in OpenAI's shape."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def bad_request(message: str, param: str | None) -> JSONResponse:
    """A 400 in OpenAI's shape."""
    return JSONResponse(error_body(message, "BadRequestError", param, 400), status_code=400)


def describe(error: ValidationError, root: str) -> BadControl:
    """Turn the first finding of a validation into a sentence and a parameter name."""
    finding = error.errors()[0]
    param = ".".join([root, *map(str, _without_tags(finding["loc"]))])
    return BadControl(f"`{param}`: {_sentence(finding)}", param)


def _sentence(finding: Mapping[str, Any]) -> str:
    if finding["type"] == "extra_forbidden":
        return "unknown key"
    message = str(finding["msg"]).removeprefix("Value error, ")
    return message[0].lower() + message[1:]


def _without_tags(location: Sequence[int | str]) -> list[int | str]:
    """Pydantic puts the tag of a union into the path; the client never wrote it there."""
    steps = list(location)
    if len(steps) >= 2 and steps[0] == "temperature" and steps[1] in LAWS:
        del steps[1]
    return steps
