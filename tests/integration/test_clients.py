"""Responses in the installed SDKs: usage, finish reason, report, errors."""

import os
import subprocess
from pathlib import Path
from typing import Any

import anthropic
import httpx
import pytest
from anthropic import Anthropic
from openai import OpenAI

from tests.conftest import ADMIN_KEY, PLAIN_PROBE, PUSH, Server
from tests.integration.support import MODEL, PROMPTS, ask
from tests.long import is_long
from tests.selective_artifacts import CONFIDENCE, DECLINES

HELLO: Any = [{"role": "user", "content": PROMPTS[0]}]
CONTROLS: list[dict[str, Any]] = [
    {"trace": "summary"},
    {"trace": "tokens"},
    {"temperature": {"type": "entropy_target", "entropy_target": 1.0}, "trace": "tokens"},
    {"steering": [{"vector": PUSH, "strength": 0.5}]},
    {"difficulty": {"probe": PLAIN_PROBE}},
]


@pytest.fixture
def claude(server: Server) -> Anthropic:
    """Anthropic's SDK with our server as the base URL."""
    return Anthropic(base_url=server.url, auth_token="none", max_retries=0, timeout=120)


@pytest.mark.parametrize("entropy", CONTROLS, ids=lambda one: next(iter(one)))
@pytest.mark.parametrize("choices", [1, 2])
def test_the_stream_helper_of_openai_keeps_usage_and_finish_reason(
    client: OpenAI, entropy: Any, choices: int
) -> None:
    with client.chat.completions.stream(
        model=MODEL,
        messages=HELLO,
        max_tokens=8,
        n=choices,
        stream_options={"include_usage": True},
        extra_body={"entropy": entropy},
    ) as stream:
        chunks = [event.chunk for event in stream if event.type == "chunk"]
        final = stream.current_completion_snapshot  # `get_final_completion` refuses "length"
    assert final.usage is not None
    assert final.usage.completion_tokens >= choices
    assert {choice.finish_reason for choice in final.choices} <= {"stop", "length"}
    assert chunks[-1].usage is not None
    ends = [choice for chunk in chunks for choice in chunk.choices if choice.finish_reason]
    assert len(ends) == choices
    assert all(end.entropy["num_tokens"] >= 1 for end in ends)  # type: ignore[attr-defined]


def test_a_stream_ends_as_vllm_ends_it(server: Server) -> None:
    body = {
        "model": MODEL,
        "messages": HELLO,
        "max_tokens": 4,
        "stream": True,
        "stream_options": {"include_usage": True},
        "entropy": {"trace": "summary"},
    }
    with httpx.stream("POST", f"{server.url}/v1/chat/completions", json=body, timeout=60) as answer:
        lines = [line for line in answer.iter_lines() if line]
    assert lines[-1] == "data: [DONE]"
    assert '"usage":' in lines[-2]
    assert '"entropy":' in lines[-3]


@pytest.mark.parametrize("entropy", CONTROLS, ids=lambda one: next(iter(one)))
def test_an_anthropic_message_is_answered_with_controls(claude: Anthropic, entropy: Any) -> None:
    answer: Any = claude.messages.create(
        model=MODEL, max_tokens=8, messages=HELLO, extra_body={"entropy": entropy}
    )
    assert answer.content[0].text
    assert answer.stop_reason in ("max_tokens", "end_turn")
    assert answer.entropy["num_tokens"] == answer.usage.output_tokens
    with claude.messages.stream(
        model=MODEL, max_tokens=8, messages=HELLO, extra_body={"entropy": entropy}
    ) as stream:
        events: list[Any] = list(stream)
        final = stream.get_final_message()
    assert final.stop_reason in ("max_tokens", "end_turn")
    assert final.usage.output_tokens >= 1
    (end,) = [event for event in events if event.type == "message_delta"]
    assert end.entropy["num_tokens"] == final.usage.output_tokens
    assert events[-1].type == "message_stop"
    tokens = [
        token
        for event in events
        if event.type in ("content_block_delta", "message_delta")
        for token in (getattr(event, "entropy", None) or {}).get("tokens") or []
    ]
    wanted = final.usage.output_tokens if entropy.get("trace") == "tokens" else 0
    assert len(tokens) == wanted


def test_messages_and_chat_return_the_same_text_under_the_same_control(
    claude: Anthropic, client: OpenAI
) -> None:
    entropy = {"steering": [{"vector": PUSH, "strength": 1.0}], "trace": "tokens"}
    chat = ask(client, PROMPTS[0], entropy, temperature=0, max_tokens=12)
    extra = {"entropy": entropy, "temperature": 0}
    message: Any = claude.messages.create(
        model=MODEL, max_tokens=12, messages=HELLO, extra_body=extra
    )
    assert message.content[0].text == chat.choices[0].message.content
    measured = [token["entropy"] for token in message.entropy["tokens"]]
    expected = [token["entropy"] for token in chat.choices[0].entropy["tokens"]]
    assert measured == pytest.approx(expected, abs=1e-3)


def test_a_profile_can_be_named_in_three_ways_in_messages(claude: Anthropic) -> None:
    named: list[dict[str, Any]] = [
        {"model": f"{MODEL}@cool"},
        {"model": MODEL, "extra_headers": {"X-Entropy-Profile": "cool"}},
        {"model": MODEL, "extra_body": {"entropy": {"profile": "cool"}}},
    ]
    for one in named:
        answer: Any = claude.messages.create(max_tokens=4, messages=HELLO, **one)
        assert (answer.entropy["profile"], answer.entropy["law"]) == ("cool", "fixed")
        assert answer.model == MODEL
    raw = claude.messages.with_raw_response.create(
        model=f"{MODEL}@cool", max_tokens=4, messages=HELLO
    )
    assert raw.headers["x-entropy-profile"] == "cool"


def test_an_invalid_control_in_messages_returns_400_and_names_the_field(claude: Anthropic) -> None:
    for entropy, param in (({"bogus": 1}, "entropy.bogus"), ({"profile": "no"}, "entropy.profile")):
        with pytest.raises(anthropic.BadRequestError) as refused:
            claude.messages.create(
                model=MODEL, max_tokens=4, messages=HELLO, extra_body={"entropy": entropy}
            )
        body: Any = refused.value.body
        assert body["error"]["param"] == param


def test_non_generating_routes_accept_a_model_name_with_a_profile(
    server: Server, claude: Anthropic
) -> None:
    counted = [
        claude.messages.count_tokens(model=name, messages=HELLO).input_tokens
        for name in (MODEL, f"{MODEL}@cool")
    ]
    assert counted[0] == counted[1]
    tokens = [
        httpx.post(f"{server.url}/tokenize", json={"model": name, "messages": HELLO}).json()
        for name in (MODEL, f"{MODEL}@cool")
    ]
    assert tokens[0] == tokens[1]
    assert tokens[0]["count"] == counted[0]
    text = {"model": f"{MODEL}@cool", "tokens": tokens[0]["tokens"]}
    assert "France" in httpx.post(f"{server.url}/detokenize", json=text).json()["prompt"]
    unknown = httpx.post(f"{server.url}/tokenize", json={"model": f"{MODEL}@no", "prompt": "a"})
    assert unknown.status_code == 400
    assert unknown.json()["error"]["param"] == "model"


def test_the_running_app_has_the_documented_routes(server: Server) -> None:
    """The page is generated without an engine."""
    from scripts.routes_page import build_app
    from server.routes.table import route_facts

    document = httpx.get(f"{server.url}/openapi.json", timeout=60).json()
    running = {
        (path, method.upper()) for path, methods in document["paths"].items() for method in methods
    }
    known = {
        (one.path, one.method)
        for one in route_facts(build_app(env={"ENTROSTAT_ADMIN_KEY": ADMIN_KEY}))
    }
    assert running <= known


def test_invocations_refuse_controls_and_inherit_none(server: Server, client: OpenAI) -> None:
    body = {"model": MODEL, "max_tokens": 2, "messages": HELLO}
    url = f"{server.url}/invocations"
    with httpx.Client() as connection:  # one connection for all requests
        chat = connection.post(
            f"{server.url}/v1/chat/completions", json={**body, "entropy": {}}, timeout=60
        )
        assert chat.json()["choices"][0]["entropy"]
        plain = connection.post(url, json=body, timeout=60)
        assert plain.status_code == 200
        assert "entropy" not in plain.json()["choices"][0]
        refused = connection.post(url, json={**body, "entropy": {}}, timeout=60)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "entropy")


@pytest.mark.skipif(
    not is_long(),
    reason="installs clients from package indexes: LONG_TESTS=1",
)
@pytest.mark.timeout(1200)
def test_every_client_of_the_how_to_works(server: Server) -> None:
    """CLIENT_ENVIRONMENTS names a folder whose installations are used again."""
    script = Path(__file__).with_name("clients") / "run.sh"
    environment = os.environ | {"OPENAI_BASE_URL": f"{server.url}/v1", "OPENAI_API_KEY": "none"}
    environment |= {"CONFIDENCE": CONFIDENCE, "ABSTENTION": DECLINES}
    environment.pop("PYTHONPATH", None)
    done = subprocess.run(
        ["bash", str(script)], env=environment, capture_output=True, text=True, check=False
    )
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    for client in ("node", "langchain"):
        assert f"{client}, declined at confidence" in done.stdout
