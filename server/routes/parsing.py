"""Parses bodies off the event loop, for routes that FastAPI does not parse."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from fastapi import Request
from pydantic import BaseModel, JsonValue, TypeAdapter, ValidationError

from server.decisions.refusals import refusal_of
from server.errors import BadControl
from server.routes.bodies import BoundedRequest, Bounds

_OBJECT = TypeAdapter(dict[str, JsonValue])


async def parsed(
    raw_request: Request,
    model_of: Callable[[Mapping[str, Any]], type[Any]],
    bounds: Bounds,
) -> Any:
    """Validate the body in a thread: it can have megabytes.

    Args:
        raw_request: A request of a `BoundedRoute`.
        model_of: Chooses the model from the body.
        bounds: Of the body.

    Raises:
        BadControl: It is not JSON, or not such a request.
        RefusedBody: It is too large.
    """
    assert isinstance(raw_request, BoundedRequest)
    content = await raw_request.bounded_body(bounds)
    return await asyncio.to_thread(_validated, content, model_of)


def _validated(content: bytes, model_of: Callable[[Mapping[str, Any]], type[Any]]) -> Any:
    try:
        body = _OBJECT.validate_json(content)
    except ValidationError as error:
        reason = error.errors()[0]["msg"]
        raise BadControl(f"the body is not a JSON object: {reason}", "body") from error
    try:
        return model_of(body).model_validate(body)
    except ValidationError as error:
        raise refusal_of(error, body) from error


def body_of(*models: type[BaseModel]) -> dict[str, Any]:
    """OpenAPI of a body that the route parses itself, without references."""
    schemas = [_inlined(model.model_json_schema()) for model in models]
    schema = schemas[0] if len(schemas) == 1 else {"anyOf": schemas}
    body = {"required": True, "content": {"application/json": {"schema": schema}}}
    return {"requestBody": body}


def _inlined(schema: dict[str, Any]) -> dict[str, Any]:
    parts = schema.pop("$defs", {})

    def resolve(node: Any) -> Any:
        if isinstance(node, list):
            return [resolve(one) for one in node]
        if not isinstance(node, dict):
            return node
        if isinstance(target := node.get("$ref"), str):
            return resolve(parts[target.rpartition("/")[2]] | {**node, "$ref": None})
        return {
            key: resolve(value)
            for key, value in node.items()
            if value is not None and key != "discriminator"
        }

    found: dict[str, Any] = resolve(schema)
    return found
