"""Whatever a client sends is answered or refused by name, and changes nobody else's answer."""

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from openai import OpenAI
from pydantic import TypeAdapter

from server.wire.request import Control
from tests.conftest import PUSH, Server
from tests.integration.support import MODEL, PROMPTS, ask, together
from tests.long import is_long

CHAT = "/v1/chat/completions"
HELLO = [{"role": "user", "content": "Hello."}]
WRONG: list[Any] = [
    *(True, -1, 0, 1, 2, 0.5, 10**30, -(10**30), 1e308, float("inf"), float("nan"), 5e-324),
    *("", "x", "\ud800", "\x00", "y" * 5000, "1e5"),
    *([], [[]], [None], [1] * 5000, ["x"] * 5000, {}, {"": None}, {"x": 1}),
]
LONG = {f"k{number}": number for number in range(5000)}
RAW = [
    *(
        b"",
        b" ",
        b"null",
        b"[]",
        b"1",
        b'"x"',
        b"{",
        b"{}",
        b'{"model"',
        b"NaN",
        b"\xff\xfe",
        b"\x00",
    ),
    *(b"\xef\xbb\xbf{}", b"[" * 900 + b"]" * 900, b"[" * 100_000, b'{"a":' * 100_000),
    b'{"model": 1, "messages": 1, "prompt": {}, "input": 7, "entropy": 3}',
    b'{"model": null, "messages": null, "prompt": null, "input": null, "entropy": []}',
    b'{"model": ["x"], "messages": {"a": 1}, "prompt": [[[]]], "input": [[]]}',
    b'{"messages": [[[[[]]]]], "max_tokens": 1e400, "prompt": "a", "input": "a"}',
    b'{"messages": [], "n": 1' + b"0" * 5000 + b"}",
]


def paths(
    schema: dict[str, Any], root: dict[str, Any], steps: tuple[str, ...] = ()
) -> Iterator[Any]:
    """Every path of keys into objects that a schema describes, lists as their first item."""
    if "$ref" in schema:
        schema = root["$defs"][schema["$ref"].rsplit("/", 1)[1]]
    for part in (*schema.get("anyOf", ()), *schema.get("oneOf", ())):
        yield from paths(part, root, steps)
    if isinstance(schema.get("items"), dict):
        yield from paths(schema["items"], root, (*steps, "[]"))
    for key, part in schema.get("properties", {}).items():
        if isinstance(part, dict) and ("type" in part or "$ref" in part or "anyOf" in part):
            yield (*steps, key)
            yield from paths(part, root, (*steps, key))


def placed(steps: tuple[str, ...], value: Any) -> Any:
    for step in reversed(steps):
        value = [value] if step == "[]" else {step: value}
    return value


def every_path() -> list[tuple[str, ...]]:
    schema = TypeAdapter(Control).json_schema()
    return sorted(set(paths(schema, schema)))


def post(server: Server, content: Any, path: str = CHAT, **headers: str) -> httpx.Response:
    if not isinstance(content, bytes):
        content = json.dumps(content).encode()
    headers = {"content-type": "application/json", **headers}
    return httpx.post(server.url + path, content=content, headers=headers, timeout=120)


def assert_refused_by_name(answer: httpx.Response) -> None:
    error = answer.json()["error"]
    assert answer.status_code == 400, answer.text[:500]
    assert isinstance(error["param"], str), answer.text[:500]
    assert len(answer.content) < 10_000


@pytest.mark.skipif(not is_long(), reason="1,200 requests take minutes: LONG_TESTS=1")
def test_wrong_values_in_every_field_are_answered_or_refused_by_name(
    server: Server, client: OpenAI
) -> None:
    before = ask(client, PROMPTS[0], temperature=0, max_tokens=8).choices[0].message.content
    cases = [placed(steps, value) for steps in every_path() for value in (*WRONG, LONG)]
    cases += [*WRONG, LONG, {"k" * 100_000: 1}, {"steering": [{}] * 9}, {"temperature": {"k": {}}}]
    base = {"model": MODEL, "max_tokens": 1, "messages": HELLO}
    jobs = [lambda one=one: post(server, {**base, "entropy": one}) for one in cases]
    answers = together(jobs)
    assert len(cases) > 800
    for case, answer in zip(cases, answers, strict=True):
        if answer.status_code != 200:
            assert_refused_by_name(answer)
        else:
            assert answer.json()["choices"], case
    after = ask(client, PROMPTS[0], temperature=0, max_tokens=8).choices[0].message.content
    assert after == before


def post_routes(server: Server) -> list[str]:
    document = httpx.get(f"{server.url}/openapi.json", timeout=60).json()
    return [path for path, methods in document["paths"].items() if "post" in methods]


@pytest.mark.parametrize("kind", ["application/json", "text/plain", "", "application/x+json"])
def test_a_malformed_body_is_refused_in_one_shape_on_every_route(server: Server, kind: str) -> None:
    routes = [path for path in post_routes(server) if path != "/ping"]
    cases = [(path.replace("{response_id}", "x"), raw) for path in routes for raw in RAW]
    headers = {"content-type": kind}
    jobs = [lambda one=one: post(server, one[1], one[0], **headers) for one in cases]
    for (path, raw), answer in zip(cases, together(jobs), strict=True):
        assert answer.status_code in (200, 400, 404, 405, 413, 415, 422, 501), (
            f"{path} {raw[:60]!r}: {answer.status_code} {answer.text[:300]}"
        )
        if answer.status_code >= 400:
            assert answer.json()["error"]["message"], f"{path} {raw[:60]!r}"


@pytest.mark.parametrize(
    ("entropy", "status"),
    [
        (b'{"trace": "none", "trace": "tokens"}', 200),  # the last of two equal keys counts
        (b'{"temperature": {"type": "fixed", "temperature": NaN}}', 400),
        (b'{"temperature": {"type": "fixed", "temperature": 1e999}}', 400),
        (b'{"temperature": {"type": "fixed", "temperature": -Infinity}}', 400),
        (b'{"steering": [{"vector": "\\ud800", "strength": 1}]}', 400),
        (b'{"profile": "\\ud83d\\ude00"}', 400),
        (b'{"temperature": {"type": "fixed", "temperature": 1' + b"0" * 600 + b"}}", 400),
    ],
)
def test_json_that_is_only_almost_json(server: Server, entropy: bytes, status: int) -> None:
    body = b'{"model": "%s", "max_tokens": 1, "messages": [{"role": "user", "content": "a"}],'
    answer = post(server, body % MODEL.encode() + b'"entropy": ' + entropy + b"}")
    assert answer.status_code == status, answer.text
    if status != 200:
        assert_refused_by_name(answer)


@pytest.mark.parametrize("name", ["\u00e9", "x" * 5000, "steady, cool", "", "../cool"])
def test_a_strange_profile_header_is_refused_by_name(server: Server, name: str) -> None:
    raw = [(b"X-Entropy-Profile", name.encode())]
    body = {"model": MODEL, "max_tokens": 1, "messages": HELLO}
    answer = httpx.post(server.url + CHAT, json=body, headers=raw, timeout=60)
    assert_refused_by_name(answer)


def test_streams_that_are_closed_early_change_no_answer(server: Server, client: OpenAI) -> None:
    def leave(number: int) -> None:
        entropy: dict[str, Any] = {"trace": "tokens"}
        if number % 3 == 0:
            entropy["steering"] = [{"vector": PUSH, "strength": number / 10}]
        if number % 3 == 1:
            entropy["temperature"] = {"type": "entropy_target", "entropy_target": 1.0}
        body = {"model": MODEL, "messages": HELLO, "max_tokens": 400, "stream": True}
        with httpx.stream(
            "POST", server.url + CHAT, json={**body, "entropy": entropy}, timeout=60
        ) as answer:
            next(answer.iter_bytes())

    def greedy() -> str:
        return str(ask(client, PROMPTS[1], temperature=0, max_tokens=16).choices[0].message.content)

    before = greedy()
    jobs = [lambda number=number: leave(number) for number in range(24)]
    *_, beside = together([*jobs, greedy], workers=8)
    assert before == beside == greedy()
    assert httpx.get(f"{server.url}/ready", timeout=60).json()["ready"]
