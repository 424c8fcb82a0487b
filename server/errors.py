"""Client errors in OpenAI's shape: `{"error": {message, type, param, code}}`."""

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any, get_args

from fastapi.responses import JSONResponse
from pydantic import BaseModel, ValidationError

from probes.laws import LAWS
from probes.truncations import TRUNCATIONS
from server.wire.request import Control, PhaseLaws

_MAX_KEY = 100
"""Characters that an error repeats of a key."""
_MAX_MESSAGE = 600
"""Characters of a message that pydantic wrote, which may repeat the value."""


class BadControl(ValueError):
    """A control is invalid or cannot be applied; `param` names the field."""

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
    """Convert a validation error of a control to one sentence and a parameter name.

    Unknown keys are reported first: a missing key is often a misspelled one.

    Args:
        error: Validation error of `Control`.
        root: Name of the control in the sentence.
    """
    findings = error.errors()
    unknown = [finding for finding in findings if finding["type"] == "extra_forbidden"]
    finding = (unknown or findings)[0]
    steps = _without_tags(finding["loc"])
    param = ".".join([root, *(str(step)[:_MAX_KEY] for step in steps)])
    return BadControl(f"`{param}`: {_sentence(finding)}", param)


def _sentence(finding: Mapping[str, Any]) -> str:
    if finding["type"] == "extra_forbidden":
        known = _fields(finding["loc"][:-1])
        key = str(finding["loc"][-1])
        return f"unknown key{_hint(key, known)}; known: {', '.join(known)}"
    message = _shorten(str(finding["msg"]).removeprefix("Value error, "))
    message = message.replace("valid tuple", "valid list").replace(
        "valid dictionary", "valid object"
    )
    return message[0].lower() + message[1:]


def _shorten(message: str) -> str:
    """Leave out the middle of a message that repeats a long value of the client."""
    if len(message) <= _MAX_MESSAGE:
        return message
    return f"{message[: _MAX_MESSAGE // 2]} ... {message[-_MAX_MESSAGE // 2 :]}"


def _hint(key: str, known: Sequence[str]) -> str:
    parts = [name for name in known if 2 < len(key) <= _MAX_KEY and (key in name or name in key)]
    close = get_close_matches(key[:_MAX_KEY], known, n=1) or parts
    return f", did you mean `{close[0]}`?" if close else ""


_TAGS: dict[str, type[BaseModel]] = {**LAWS, **TRUNCATIONS, "phases": PhaseLaws}
"""Models of the unions in a control, by their tag."""


def _fields(location: Sequence[int | str]) -> list[str]:
    """Names of the valid keys at a location in a control."""
    model: Any = Control
    for step in location:
        if step in _TAGS:
            model = _TAGS[str(step)]
        elif isinstance(step, str) and step in model.model_fields:
            model = _model_in(model.model_fields[step].annotation) or model
    return list(model.model_fields)


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """The first model in a type annotation."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(filter(None, map(_model_in, get_args(annotation))), None)


def _without_tags(location: Sequence[int | str]) -> list[int | str]:
    """The path in the client's JSON, without the union tags that pydantic inserts."""
    steps, place = list(location), 1
    if steps[:1] == ["temperature"] and len(steps) > 1:
        place = 1 if steps.pop(1) == "law" else 2  # behind the name of the phase
    is_union = steps[:1] in (["temperature"], ["truncation"])
    if is_union and len(steps) > place and steps[place] in _TAGS:
        del steps[place]
    return steps
