"""The schema describes our fields, and nothing that follows or breaks it causes a 500."""

from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings

from tests.conftest import Server

OURS = ("/v1/entropy/profiles", "/v1/entropy/artifacts", "/ready")


def test_our_fields_are_described(server: Server) -> None:
    schemas = httpx.get(f"{server.url}/openapi.json").json()["components"]["schemas"]
    for name in ("Chat", "Completion", "Batch", "Responses"):
        assert "entropy" in schemas[f"Controlled{name}Request"]["properties"], name
    laws = schemas["Control"]["properties"]["temperature"]["anyOf"][0]["oneOf"]
    assert len(laws) == 5
    for name in ("ReportedChatChoice", "ReportedCompletionChoice"):
        assert "entropy" in schemas[name]["properties"], name


@pytest.fixture(scope="module")
def schema(server: Server) -> Any:
    return schemathesis.openapi.from_url(f"{server.url}/openapi.json")


lazy = schemathesis.pytest.from_fixture("schema")
fuzz = settings(
    max_examples=40,
    derandomize=True,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)


@lazy.include(path=list(OURS)).parametrize()
@fuzz
def test_our_routes_never_fail(case: Any) -> None:
    response = case.call(timeout=60)
    assert response.status_code < 500, response.text
