"""Requests, errors, profiles and the routes of Entrostat over HTTP."""

import signal
from pathlib import Path
from typing import Any

import httpx
import pytest
from openai import BadRequestError, NotFoundError, OpenAI

from tests.conftest import Server
from tests.integration.support import MODEL, PROMPTS, ask, report
from tests.waiting import wait_until

MISTAKES = [
    ({"entropy": {"temprature": {"type": "edt"}}}, "entropy.temprature"),
    ({"entropy": {"temperature": {"type": "warm"}}}, "entropy.temperature"),
    ({"entropy": {"temperature": {"type": "edt", "tau": 1}}}, "entropy.temperature.tau"),
    (
        {"entropy": {"temperature": {"type": "entropy_target", "entropy_target": -1}}},
        "entropy.temperature.entropy_target",
    ),
    ({"entropy": {"trace": "everything"}}, "entropy.trace"),
    ({"entropy": {"profile": "nobody"}}, "entropy.profile"),
    (
        {"entropy": {"temperature": {"type": "hapo", "statistics": "no/such"}}},
        "entropy.temperature",
    ),
    ({"model": f"{MODEL}@nobody"}, "model"),
    ({"vllm_xargs": {"entropy": "law"}}, "vllm_xargs.entropy"),
    ({"vllm_xargs": {"entropy_trace": 1}}, "vllm_xargs.entropy_trace"),
    (
        {"temperature": 0.5, "entropy": {"temperature": {"type": "fixed", "temperature": 0.7}}},
        "temperature",
    ),
    ({"use_beam_search": True, "entropy": {}}, "use_beam_search"),
]


def bodies(mistake: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """The same invalid control on every route that accepts controls."""
    messages = [{"role": "user", "content": "hi"}]
    base = {"model": MODEL, "max_tokens": 2}
    routes = [
        ("/v1/chat/completions", base | {"messages": messages}),
        ("/v1/chat/completions", base | {"messages": messages, "stream": True}),
        ("/v1/completions", base | {"prompt": ["a", "b"]}),
    ]
    if "use_beam_search" not in mistake and "vllm_xargs" not in mistake:
        routes.append(("/v1/chat/completions/batch", base | {"messages": [messages, messages]}))
        routes.append(("/v1/responses", {"model": MODEL, "input": "hi", "max_output_tokens": 2}))
    return [(route, body | mistake) for route, body in routes]


@pytest.mark.parametrize(("mistake", "param"), MISTAKES, ids=lambda value: str(value)[:60])
def test_invalid_requests_return_400_and_name_the_field(
    server: Server, mistake: dict[str, Any], param: str
) -> None:
    for route, body in bodies(mistake):
        answer = httpx.post(server.url + route, json=body, timeout=60)
        assert answer.status_code == 400, f"{route}: {answer.text}"
        error = answer.json()["error"]
        assert error["param"] == param, route
        assert error["message"]
        assert error["type"] == "BadRequestError"


def test_reserved_keys_are_refused_on_routes_of_vllm(server: Server) -> None:
    body = {
        "model": MODEL,
        "max_tokens": 2,
        "messages": [{"role": "user", "content": "hi"}],
        "vllm_xargs": {"entropy": "forged"},
    }
    answer = httpx.post(f"{server.url}/v1/messages", json=body, timeout=60)
    assert answer.status_code == 400, answer.text


def test_an_unknown_model_returns_404(client: OpenAI) -> None:
    with pytest.raises(NotFoundError):
        ask(client, "hi", model="nobody")
    with pytest.raises(NotFoundError):
        ask(client, "hi", model="nobody@adaptive")


def test_the_sdk_raises_a_bad_request_error(client: OpenAI) -> None:
    with pytest.raises(BadRequestError) as caught:
        ask(client, "hi", {"bogus": 1})
    assert caught.value.param == "entropy.bogus"


def test_models_are_listed_with_every_profile(client: OpenAI) -> None:
    listed = {model.id for model in client.models.list()}
    assert {
        MODEL,
        *(f"{MODEL}@{name}" for name in ("adaptive", "dynamic", "steady", "cool")),
    } <= listed


def test_the_body_overrides_the_suffix_which_overrides_the_header(client: OpenAI) -> None:
    header = {"extra_headers": {"X-Entropy-Profile": "cool"}}
    assert report(ask(client, "hi", **header))["profile"] == "cool"
    by_suffix = ask(client, "hi", model=f"{MODEL}@dynamic", **header)
    assert report(by_suffix)["profile"] == "dynamic"
    by_body = ask(client, "hi", {"profile": "steady"}, model=f"{MODEL}@dynamic", **header)
    assert report(by_body)["profile"] == "steady"


def test_fields_beside_a_profile_override_it(client: OpenAI) -> None:
    answer = ask(client, PROMPTS[0], {"profile": "dynamic", "trace": "tokens"})
    assert report(answer)["law"] == "dynatemp"
    assert report(answer)["tokens"]


def test_response_headers_name_the_profile(server: Server) -> None:
    body = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 2}
    answer = httpx.post(
        f"{server.url}/v1/chat/completions", json=body | {"model": f"{MODEL}@steady"}, timeout=60
    )
    assert answer.headers["x-entropy-profile"] == "steady"
    assert "x-entropy-fallback" not in answer.headers


def test_trace_none_omits_the_report_and_applies_the_control(client: OpenAI) -> None:
    quiet = ask(client, PROMPTS[4], {"profile": "cool", "trace": "none"}, seed=5)
    assert "entropy" not in (quiet.choices[0].model_extra or {})
    loud = ask(client, PROMPTS[4], {"profile": "cool"}, seed=5)
    assert quiet.choices[0].message.content == loud.choices[0].message.content


def test_a_request_without_controls_has_no_report(client: OpenAI) -> None:
    assert "entropy" not in (ask(client, "hi").choices[0].model_extra or {})


def test_the_responses_api_returns_a_report(client: OpenAI) -> None:
    answer = client.responses.create(model=f"{MODEL}@steady", input="Hi", max_output_tokens=6)
    assert answer.entropy["law"] == "entropy_target"  # type: ignore[attr-defined]
    *_, last = client.responses.create(
        model=f"{MODEL}@steady", input="Hi", max_output_tokens=6, stream=True
    )
    assert last.response.entropy["num_tokens"] == 6  # type: ignore[union-attr]


def test_artifacts_and_profiles_are_listed(server: Server) -> None:
    artifacts = httpx.get(f"{server.url}/v1/entropy/artifacts").json()["data"]
    assert [a["usable"] for a in artifacts if a["id"] == f"{MODEL}/entropy"] == [True]
    profiles = {p["id"] for p in httpx.get(f"{server.url}/v1/entropy/profiles").json()["data"]}
    assert profiles == {"adaptive", "dynamic", "steady", "cool", "thrifty", "explore"}


@pytest.mark.both_runners
def test_ready_reports_an_increasing_number_of_steps(server: Server, client: OpenAI) -> None:
    before = httpx.get(f"{server.url}/ready").json()
    ask(client, "hi", max_tokens=5)
    after = httpx.get(f"{server.url}/ready").json()
    assert before["ready"]
    assert after["ready"]
    assert after["steps"] >= before["steps"] + 5


def test_metrics_count_controlled_answers(server: Server, client: OpenAI) -> None:
    ask(client, "hi", model=f"{MODEL}@steady", max_tokens=2)
    metrics = httpx.get(f"{server.url}/metrics").text
    assert 'entrostat_requests_total{law="entropy_target",profile="steady"}' in metrics
    assert "entrostat_entropy_nats_bucket" in metrics


def test_profiles_reload_on_sighup_and_an_invalid_file_keeps_the_old_ones(
    server: Server, client: OpenAI
) -> None:
    path = Path(server.log).with_name("profiles.toml")
    original = path.read_text()
    try:
        path.write_text(original + '\n[new]\ntemperature = { type = "edt" }\n')
        server.process.send_signal(signal.SIGHUP)
        wait_until(lambda: _knows(client, "new"))
        path.write_text("[new\n")
        server.process.send_signal(signal.SIGHUP)
        refusal = "profiles not reloaded: profiles.toml: not TOML"
        wait_until(lambda: refusal in server.log.read_text())
        assert _knows(client, "new")
    finally:
        path.write_text(original)
        server.process.send_signal(signal.SIGHUP)
        wait_until(lambda: not _knows(client, "new"))


def _knows(client: OpenAI, profile: str) -> bool:
    return any(model.id == f"{MODEL}@{profile}" for model in client.models.list())
