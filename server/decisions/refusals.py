"""Converts the validation errors of a decision to one sentence and a parameter name."""

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from server.errors import BadControl


def refusal_of(error: ValidationError, body: Any) -> BadControl:
    """The refusal of a body that does not fit its model.

    Unknown keys are reported first, because a missing key is often a misspelled one; then the error
    deepest in the body, because a union reports one for each of its members.

    Args:
        error: What pydantic found.
        body: What it validated.
    """
    findings = [(_path(one["loc"], body, one["type"] == "missing"), one) for one in error.errors()]
    path, finding = max(
        findings, key=lambda item: (item[1]["type"] == "extra_forbidden", len(item[0]))
    )
    param = ".".join(map(str, path)) or "body"
    message = str(finding["msg"]).removeprefix("Value error, ")
    if finding["type"] == "extra_forbidden":
        message = "unknown key"
    elif finding["type"].startswith("union_tag"):
        param, message = f"{param}.type", "unknown type"
    elif message.startswith("input: "):
        param, message = "input", message.removeprefix("input: ")
    return BadControl(f"`{param}`: {message[0].lower()}{message[1:]}", param)


def _path(location: Sequence[int | str], body: Any, is_missing: bool) -> list[int | str]:
    """The steps of a location that lead through the body, without pydantic's names of unions.

    Args:
        location: From pydantic.
        body: What was validated.
        is_missing: Whether the last step is a key that the body lacks.
    """
    path: list[int | str] = []
    node = body
    for place, step in enumerate(location):
        inside = (isinstance(node, Mapping) and step in node) or (
            isinstance(node, list) and isinstance(step, int) and step < len(node)
        )
        if inside:
            node = node[step]
        elif not (is_missing and place == len(location) - 1):
            continue
        path.append(step)
    return path
