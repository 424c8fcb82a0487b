"""Every route of the app: API key, controls, and the format of errors."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from scripts.routes_page import build_app, routes_page
from server.requests.admission import QueueFull
from server.routes.table import RouteFacts, route_facts
from server.wire.request import Control
from tests.unit.server.metrics.support import value
from tests.unit.server.support import nothing_uploaded

KEY = {"Authorization": "Bearer secret"}
JSON = {"Content-Type": "application/json"}
DEVELOPER = {"VLLM_SERVER_DEV_MODE": "1", "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1"}
APP = build_app("--api-key", "secret", "--enable-scale-out", env=DEVELOPER)
FACTS = route_facts(APP)
OURS = [one.path for one in FACTS if one.controls in ("takes", "own", "profile names")]
REFUSING = [one for one in FACTS if one.controls == "refuses"]


@pytest.fixture
def client() -> TestClient:
    """A client of the app without engine and handlers."""
    APP.state.entrostat = SimpleNamespace(
        profiles={"watch": Control(trace="summary")},
        served_names=lambda _: {"m"},
        switched_off=(),
        sync_artifacts=nothing_uploaded,
        decision_log=None,
    )
    APP.state.args.log_error_stack = False
    return TestClient(APP, raise_server_exceptions=False)


def called(client: TestClient, one: RouteFacts, **options: Any) -> Any:
    path = one.path.replace("{response_id}", "resp_1").replace("{adapter_name}", "a")
    return client.request(one.method, path, follow_redirects=False, **options)


@pytest.mark.parametrize("one", FACTS, ids=lambda one: f"{one.method} {one.path}")
def test_a_route_requires_the_key_exactly_as_documented(
    client: TestClient, one: RouteFacts
) -> None:
    options = {"json": {"model": "m"}} if one.method == "POST" else {}
    assert (called(client, one, **options).status_code == 401) == one.needs_key
    wrong = called(client, one, headers={"Authorization": "Bearer wrong"}, **options)
    assert (wrong.status_code == 401) == one.needs_key


def test_every_route_that_generates_or_changes_the_server_requires_the_key() -> None:
    open_routes = {(one.method, one.path) for one in FACTS if not one.needs_key}
    assert {one for one in open_routes if one[0] != "GET"} == {("POST", "/ping")}
    assert not any(one.generates and not one.needs_key for one in FACTS)


@pytest.mark.parametrize(
    "path", ["/invocations/", "//invocations", "/metricsx", "/health/../invocations", "/new_route"]
)
def test_an_unknown_path_requires_the_key(client: TestClient, path: str) -> None:
    url = f"http://testserver{path}"  # a path that begins with // is not a host
    assert client.post(url, json={}).status_code == 401
    assert client.get(url).status_code == 401


def test_preflights_and_servers_without_a_key_need_no_key(client: TestClient) -> None:
    preflight = {"Origin": "http://x", "Access-Control-Request-Method": "POST"}
    assert client.options("/v1/chat/completions", headers=preflight).status_code != 401
    without: FastAPI = build_app()
    without.state.args.log_error_stack = False
    answer = TestClient(without, raise_server_exceptions=False).post("/ping", json={})
    assert answer.status_code != 401


@pytest.mark.parametrize("one", REFUSING, ids=lambda one: one.path)
@pytest.mark.parametrize(
    ("body", "headers", "param"),
    [
        ({"entropy": {"trace": "summary"}}, {}, "entropy"),
        ({"entropy": {}}, {}, "entropy"),
        ({"model": "m"}, {"X-Entropy-Profile": "watch"}, "X-Entropy-Profile"),
        ({"model": "m@watch"}, {}, "model"),
    ],
)
def test_a_route_without_controls_refuses_them(
    client: TestClient, one: RouteFacts, body: Any, headers: Any, param: str
) -> None:
    answer = called(client, one, json=body, headers=KEY | headers)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["param"] == param


def test_every_generating_route_accepts_or_refuses_controls() -> None:
    generating = [one for one in FACTS if one.generates]
    assert all(one.controls in ("takes", "own", "refuses") for one in generating)
    assert {one.path for one in generating if one.controls == "own"} == {
        "/v1/decisions",
        "/v1/systemone",
    }
    assert {one.path for one in generating if one.controls == "takes"} == {
        "/v1/chat/completions",
        "/v1/chat/completions/batch",
        "/v1/completions",
        "/v1/messages",
        "/v1/responses",
    }


@pytest.mark.parametrize("path", OURS)
@pytest.mark.parametrize(
    ("content", "headers"),
    [
        (b"\xff\xfe{", JSON),
        (b'{"model": "\xe9"}', JSON),
        (b"{", JSON),
        (b"", JSON),
        (b"[]", JSON),
        (b"null", JSON),
        (b"{}", {"Content-Type": "text/plain"}),
        (b"{}", {}),
    ],
)
def test_an_unreadable_body_returns_an_openai_error(
    client: TestClient, path: str, content: bytes, headers: dict[str, str]
) -> None:
    answer = client.post(path, content=content, headers=KEY | headers)
    assert answer.status_code == 400
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
    assert answer.json()["error"]["code"] == 400


@pytest.mark.parametrize(("path", "status"), [("/v1/chat/completions", 405), ("/v1/nothing", 404)])
def test_a_wrong_method_or_path_returns_an_openai_error(
    client: TestClient, path: str, status: int
) -> None:
    answer = client.get(path, headers=KEY)
    assert answer.status_code == answer.json()["error"]["code"] == status


def test_the_documented_routes_match_the_app() -> None:
    """Except the last column: features that an earlier app enabled stay enabled in vLLM."""

    def rows(page: str) -> list[str]:
        return [line.rpartition(" | ")[0] for line in page.splitlines()]

    page = Path(__file__).parents[4] / "docs" / "reference" / "routes.md"
    assert rows(page.read_text()) == rows(routes_page())


def test_a_full_queue_returns_503_with_retry_after(client: TestClient) -> None:
    class Full:
        def reserve(self, config: str) -> None:
            raise QueueFull(7)

    APP.state.entrostat = SimpleNamespace(
        profiles={"watch": Control(trace="summary")},
        switched_off=(),
        sync_artifacts=nothing_uploaded,
        served_names=lambda _: {"m"},
        artifacts=None,
        telemetry=None,
        settings=SimpleNamespace(trace_timeout=1.0, max_samples=32, baseline_share=0.0),
        speculative=False,
        thinking=None,
        admission=Full(),
    )
    plan = SimpleNamespace(
        steering=SimpleNamespace(control={"key": "a"}),
        inquiry=None,
        difficulty=None,
        truncation=None,
        trace="none",
        extends_prompt=False,
        is_empty=False,
    )
    config = SimpleNamespace(max_model_len=2048)
    APP.state.openai_serving_models = SimpleNamespace(lora_requests={}, model_config=config)
    body: dict[str, Any] = {"model": "m", "stream": True, "entropy": {}}
    body["messages"] = [{"role": "user", "content": "hi"}]
    refused = value("entrostat_steering_queue_full_total")
    with patch("server.routes.controlled.make_plan", lambda *_: plan):
        answer = client.post("/v1/chat/completions", json=body, headers=KEY)
    assert answer.status_code == answer.json()["error"]["code"] == 503
    assert int(answer.headers["retry-after"]) >= 1
    assert value("entrostat_steering_queue_full_total") == refused + 1
