"""Several API servers and engines: trace routing and shared steering slots."""

import json
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from openai import OpenAI

from probes.artifact import Artifact
from tests.conftest import (
    ADMIN_KEY,
    FLAGS,
    PUSH,
    UNCOMPILED,
    Server,
    entrostat,
    run_server,
    save_vectors,
)
from tests.integration.support import MODEL, PROMPTS, ask, law, report, together
from tests.span_collector import SpanCollector
from tests.tars import packed
from tests.waiting import wait_until


@pytest.fixture(scope="module")
def spans() -> Iterator[SpanCollector]:
    with SpanCollector() as collector:
        yield collector


@pytest.fixture(scope="module")
def fleet(
    tmp_path_factory: pytest.TempPathFactory, checkpoint: Path, spans: SpanCollector
) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("fleet")
    save_vectors(folder / "artifacts", checkpoint)
    profiles = folder / "profiles.toml"
    profiles.write_text("")
    command = entrostat(
        *("serve", *FLAGS, "--profiles", str(profiles)),
        *("--artifacts", str(folder / "artifacts"), "--max-steering-vectors", "2"),
        *("--api-server-count", "2", "--data-parallel-size", "2"),
        *("--decision-log", str(folder / "decisions.jsonl")),
        *("--otlp-traces-endpoint", spans.url),
    )
    environment = {**UNCOMPILED, **spans.environment, "ENTROSTAT_ADMIN_KEY": ADMIN_KEY}
    with run_server(command, folder / "server.log", env=environment) as running:
        yield running


def test_every_trace_reaches_the_api_server_of_its_request(fleet: Server) -> None:
    def job(index: int) -> tuple[int, int]:
        # A new connection for each request, so that both API servers are used.
        client = OpenAI(base_url=f"{fleet.url}/v1", api_key="none", max_retries=0)
        control = law("dynatemp", range=0.4) if index % 2 else {"trace": "tokens"}
        answer = ask(client, PROMPTS[index % 10], control, n=1 + index % 2, max_tokens=10)
        reports = [report(answer, choice) for choice in range(len(answer.choices))]
        assert all(body["fallback"] is None for body in reports)
        return sum(len(body["tokens"]) for body in reports), answer.usage.completion_tokens

    results = together([lambda i=i: job(i) for i in range(64)], workers=32)
    assert all(traced == produced for traced, produced in results)
    assert httpx.get(f"{fleet.url}/ready", timeout=60).json()["ready"]


def test_every_api_server_admits_its_share_of_the_steering_configs(fleet: Server) -> None:
    """More concurrent steering configs than slots, on two API servers and two engines."""

    def job(strength: float) -> float:
        client = OpenAI(base_url=f"{fleet.url}/v1", api_key="none", max_retries=0)
        steer = {"steering": [{"vector": PUSH, "strength": strength}], "trace": "tokens"}
        answer = ask(client, PROMPTS[3], steer, max_tokens=4, temperature=0)
        return float(report(answer)["tokens"][0]["entropy"])

    strengths = [0.2 * number for number in range(1, 9)]
    alone = [job(strength) for strength in strengths]
    found = together([lambda s=s: job(s) for s in strengths * 3], workers=24)
    assert found == pytest.approx(alone * 3, abs=1e-3)
    assert len({round(entropy, 3) for entropy in alone}) > 5


def test_profiles_reload_in_every_api_server(fleet: Server) -> None:
    path = Path(fleet.log).with_name("profiles.toml")
    path.write_text('[late]\ntemperature = { type = "edt" }\n')
    fleet.process.send_signal(signal.SIGHUP)
    time.sleep(1)
    for _ in range(12):  # new connections reach either server
        models = httpx.get(f"{fleet.url}/v1/models").json()["data"]
        assert f"{MODEL}@late" in {model["id"] for model in models}


def counted(fleet: Server, name: str) -> float:
    """Sum of a counter over its labels."""
    lines = httpx.get(f"{fleet.url}/metrics").text.splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(f"{name}{{"))


def test_metrics_feedback_and_decision_logs_cover_all_api_servers(fleet: Server) -> None:
    """Feedback goes over new connections, so that half of it reaches another API server."""
    before = [counted(fleet, f"entrostat_{name}_total") for name in ("requests", "feedback")]

    def job(index: int) -> str:
        client = OpenAI(base_url=f"{fleet.url}/v1", api_key="none", max_retries=0)
        return str(ask(client, PROMPTS[index % 10], {"trace": "summary"}, max_tokens=2).id)

    ids = together([lambda i=i: job(i) for i in range(24)], workers=12)
    for name in ids:
        body = {"id": name, "right": True}
        answer = httpx.post(f"{fleet.url}/v1/entropy/feedback", json=body, timeout=30)
        assert answer.status_code == 200, answer.text
    after = [counted(fleet, f"entrostat_{name}_total") for name in ("requests", "feedback")]
    assert [now - then for now, then in zip(after, before, strict=True)] == [24, 24]
    logs = [fleet.log.with_name(f"decisions.{rank}.jsonl") for rank in range(2)]

    def logged() -> list[set[str]]:
        texts = [log.read_text().splitlines() for log in logs]
        return [{*ids} & {json.loads(line)["id"] for line in text} for text in texts]

    wait_until(lambda: set().union(*logged()) == {*ids})
    assert all(logged())


def test_a_switch_acts_on_every_api_server(fleet: Server) -> None:
    def switch(on: bool) -> None:
        url = f"{fleet.url}/v1/entropy/admin/switches/temperature"
        headers = {"X-Entropy-Admin-Key": ADMIN_KEY}
        assert httpx.put(url, json={"on": on}, headers=headers).status_code == 200

    def job() -> str | None:
        client = OpenAI(base_url=f"{fleet.url}/v1", api_key="none", max_retries=0)
        found: str | None = report(ask(client, "hi", law("edt"), max_tokens=1))["fallback"]
        return found

    switch(False)
    assert {job() for _ in range(12)} == {"temperature_skipped"}
    switch(True)
    assert {job() for _ in range(12)} == {None}


VOTE = {"max_tokens": 2, "entropy": {"vote": {"n": 2}}}
PREPASS = {"max_tokens": 2, "ignore_eos": True, "entropy": {"difficulty": {}}}
DIRECT = {"predictor": "direct", "max_candidates": 1}  # the table of answers needs no engine
TURN = {"entropy": {"inquiry": {"task": f"{MODEL}/animals", **DIRECT}}}
URGENT = {"type": "predicate", "name": "urgent", "instructions": "Is it urgent?"}
DECISION = {"input": "The parcel is late.", "questions": [URGENT]}
SAMPLES = ["sample of request", "sample of request", "llm_request of sample"]
TRACED: dict[str, tuple[dict[str, Any], list[str], str]] = {
    "vote": (VOTE, SAMPLES, "entrostat.number"),
    "vote, streamed": ({**VOTE, "stream": True}, SAMPLES, "entrostat.number"),
    "prepass": (
        PREPASS,  # the last one is the answer itself
        ["prepass of request", "llm_request of prepass", "llm_request of request"],
        "entrostat.difficulty",
    ),
    "turn": (TURN, ["turn of request", "llm_request of turn"], "entrostat.set_size"),
    "decision": (
        DECISION,
        ["decision of request", "llm_request of decision"],
        "entrostat.abstained",
    ),
}
"""By kind: the request; spans with their parents; an attribute of the first of them."""


@pytest.mark.parametrize("kind", TRACED)
def test_spans_of_a_request_are_children_of_the_clients_span(
    fleet: Server, spans: SpanCollector, kind: str
) -> None:
    """vLLM's own span of an engine request is a child of what asked for it."""
    own, below, attribute = TRACED[kind]
    trace = f"{time.time_ns():032x}"
    chat = {} if "input" in own else {"messages": [{"role": "user", "content": "hi"}]}
    answer = httpx.post(
        f"{fleet.url}/v1/{'chat/completions' if chat else 'decisions'}",
        json={"model": MODEL, **chat, **own},
        headers={"traceparent": f"00-{trace}-{'b' * 16}-01"},
        timeout=120,
    )
    assert answer.status_code == 200, answer.text
    names = {b"\xbb" * 8: "client"}

    def found() -> list[str]:
        received = spans.of(trace)
        names.update({one.span_id: one.name.removeprefix("entrostat.") for one in received})
        texts = [f"{names[one.span_id]} of {names.get(one.parent_span_id)}" for one in received]
        engines = {text for text in texts if text.startswith("llm_request")}
        return sorted([*(text for text in texts if text not in engines), *engines])

    expected = sorted(["request of client", "plan of request", *below])
    with suppress(AssertionError):
        wait_until(lambda: found() == expected)
    assert found() == expected
    first = next(one for one in spans.of(trace) if below[0].startswith(names[one.span_id]))
    assert attribute in {one.key for one in first.attributes}
    assert all(one.end_time_unix_nano >= one.start_time_unix_nano > 0 for one in spans.of(trace))


def test_an_uploaded_vector_steers_at_every_api_server_and_engine(
    fleet: Server, tmp_path: Path
) -> None:
    name = f"{MODEL}/late"
    url = f"{fleet.url}/v1/entropy/admin/artifacts/{name}"
    headers = {"X-Entropy-Admin-Key": ADMIN_KEY}
    shared = Artifact.load(fleet.log.parent / "artifacts" / PUSH)
    folder = Artifact(id=name, manifest=shared.manifest, tensors=shared.tensors).save(tmp_path)
    body = {
        "model": MODEL,
        "messages": [{"role": "user", "content": "hi"}],
        "max_tokens": 1,
        "entropy": {"steering": [{"vector": name, "strength": 0.2}]},
    }

    def job() -> tuple[int, str | None]:
        answer = httpx.post(f"{fleet.url}/v1/chat/completions", json=body, timeout=120)
        return answer.status_code, answer.json()["choices"][0]["entropy"]["fallback"]

    answer = httpx.put(url, content=packed(folder), headers=headers, timeout=120)
    assert answer.status_code == 200, answer.text
    assert {job() for _ in range(12)} == {(200, None)}
    assert httpx.delete(url, headers=headers, timeout=60).status_code == 200
    chat = f"{fleet.url}/v1/chat/completions"
    assert {httpx.post(chat, json=body).status_code for _ in range(12)} == {400}
