"""JSON schema of the field `entropy` of requests and responses, and of a decision request."""

from functools import lru_cache
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode, models_json_schema

from server.wire.decisions import DecisionReport, DecisionRequest
from server.wire.report import Report
from server.wire.request import Control


@lru_cache(maxsize=1)
def wire_schema() -> dict[str, Any]:
    """Definitions of the requests' fields, the reports in responses, and everything inside them."""
    modes: list[tuple[type[BaseModel], JsonSchemaMode]]
    modes = [
        (Control, "validation"),
        (Report, "serialization"),
        (DecisionRequest, "validation"),
        (DecisionReport, "serialization"),
    ]
    _, schema = models_json_schema(modes, title="The `entropy` field of requests and answers")
    return schema
