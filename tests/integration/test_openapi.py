"""The schema describes our fields, and neither valid nor invalid requests cause a 500."""

from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode

from probes.laws import LAWS
from tests.conftest import Server
from tests.integration.support import MODEL

OURS = ["/v1/entropy/profiles", "/v1/entropy/artifacts", "/v1/models", "/ready"]
MESSAGE = [{"role": "user", "content": "hi"}]
CONTROLLED: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": MESSAGE},
    "/v1/chat/completions/batch": {"messages": [MESSAGE]},
    "/v1/completions": {"prompt": "hi"},
}

fuzz = settings(
    max_examples=25, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck)
)


@pytest.fixture(scope="module")
def document(server: Server) -> dict[str, Any]:
    found: dict[str, Any] = httpx.get(f"{server.url}/openapi.json", timeout=60).json()
    return found


def test_our_fields_are_described(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    for name in ("Chat", "Completion", "Batch", "Responses"):
        assert "entropy" in schemas[f"Controlled{name}Request"]["properties"], name
    law, phases = schemas["Control"]["properties"]["temperature"]["anyOf"][0]["oneOf"]
    assert len(law["oneOf"]) == len(LAWS)
    assert phases == {"$ref": "#/components/schemas/PhaseLaws"}
    for name in ("ReportedChatChoice", "ReportedCompletionChoice"):
        assert "entropy" in schemas[name]["properties"], name


def fuzz_operation(
    server: Server, document: dict[str, Any], path: str, mode: GenerationMode
) -> None:
    (method,) = document["paths"][path]
    operation = schemathesis.openapi.from_dict(document)[path][method.upper()]

    @fuzz
    @given(operation.as_strategy(generation_mode=mode))
    def check(case: Any) -> None:
        response = case.call(base_url=server.url, timeout=60)
        assert response.status_code < 500, response.text

    check()


@pytest.mark.parametrize("path", OURS)
def test_our_own_routes_never_fail(server: Server, document: dict[str, Any], path: str) -> None:
    only = {**document, "paths": {path: {"get": document["paths"][path]["get"]}}}
    fuzz_operation(server, only, path, GenerationMode.POSITIVE)


@pytest.mark.parametrize("path", list(CONTROLLED))
@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
def test_no_control_causes_a_500(
    server: Server, document: dict[str, Any], path: str, mode: GenerationMode
) -> None:
    """vLLM's fields are fixed, so that only our fields vary."""
    fixed = {"model": MODEL, "max_tokens": 1, **CONTROLLED[path]}
    body = {
        "type": "object",
        "properties": {
            **{name: {"const": value} for name, value in fixed.items()},
            "entropy": {"$ref": "#/components/schemas/Control"},
        },
        "required": [*fixed, "entropy"],
        "additionalProperties": False,
    }
    operation = {
        "requestBody": {"required": True, "content": {"application/json": {"schema": body}}},
        "responses": {"200": {"description": "answered"}, "400": {"description": "refused"}},
    }
    only = {**document, "paths": {path: {"post": operation}}}
    fuzz_operation(server, only, path, mode)
