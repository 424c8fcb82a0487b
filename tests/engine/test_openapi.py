"""The schema describes our fields, and nothing that follows it or breaks it causes a 500."""

from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode

from tests.conftest import Server
from tests.engine.support import MODEL

OURS = ["/v1/entropy/profiles", "/v1/entropy/artifacts", "/v1/models", "/ready"]
CONTROLLED = ["/v1/chat/completions", "/v1/completions", "/v1/chat/completions/batch"]

fuzz = settings(
    max_examples=60, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck)
)


@pytest.fixture(scope="module")
def schema(server: Server) -> Any:
    return schemathesis.openapi.from_url(f"{server.url}/openapi.json")


def operation(schema: Any, path: str, method: str) -> Any:
    return schema[path][method]


def test_our_fields_are_described(server: Server) -> None:
    schemas = httpx.get(f"{server.url}/openapi.json").json()["components"]["schemas"]
    for name in ("Chat", "Completion", "Batch", "Responses"):
        assert "entropy" in schemas[f"Controlled{name}Request"]["properties"], name
    laws = schemas["Control"]["properties"]["temperature"]["anyOf"][0]["oneOf"]
    assert len(laws) == 5
    for name in ("ReportedChatChoice", "ReportedCompletionChoice"):
        assert "entropy" in schemas[name]["properties"], name


@pytest.mark.parametrize("path", OURS)
def test_our_own_routes_never_fail(schema: Any, path: str) -> None:
    @fuzz
    @given(operation(schema, path, "GET").as_strategy())
    def check(case: Any) -> None:
        assert case.call(timeout=60).status_code < 500

    check()


@pytest.mark.parametrize("path", CONTROLLED)
@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
def test_no_control_whatever_it_holds_causes_a_500(
    server: Server, schema: Any, path: str, mode: GenerationMode
) -> None:
    """Generated from the schema of `entropy`, right or wrong, inside an otherwise good request."""
    message = [{"role": "user", "content": "hi"}]
    rest: dict[str, Any] = {
        "/v1/chat/completions": {"messages": message},
        "/v1/completions": {"prompt": "hi"},
        "/v1/chat/completions/batch": {"messages": [message]},
    }[path]
    bodies = operation(schema, path, "POST").as_strategy(generation_mode=mode)
    statuses = set()

    @fuzz
    @given(bodies, st.booleans())
    def check(case: Any, named: bool) -> None:
        control = case.body.get("entropy") if isinstance(case.body, dict) else case.body
        body = {"model": MODEL, "max_tokens": 1, **rest, "entropy": control}
        headers = {"X-Entropy-Profile": "steady"} if named else {}
        answer = httpx.post(server.url + path, json=body, headers=headers, timeout=60)
        assert answer.status_code in (200, 400), answer.text
        statuses.add(answer.status_code)

    check()
    assert statuses
