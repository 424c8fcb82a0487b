"""Every metric moves on the real server when what it counts happens."""

from typing import Any

import httpx
import pytest
from openai import BadRequestError, OpenAI
from prometheus_client.parser import text_string_to_metric_families

from clients.drift import stability_index
from clients.entropy import semantic, vote
from clients.scrape import Scrape, scrape
from clients.top import top
from server.metrics.definitions import METRICS
from tests.conftest import (
    PLAIN_PROBE,
    PUSH,
    QUESTIONS,
    ROUTED_PROBE,
    SPOKEN_PROBE,
    TEAMS,
    Server,
)
from tests.integration.support import MODEL, ask, decide, report, together
from tests.selective_artifacts import DECLINES, STATE

NEED_A_FAULT = {
    "entrostat_fallbacks_total": "tests/unit/server/requests/test_generation_faults.py",
    "entrostat_coverage_alarm": "tests/unit/server/feedback/test_route.py",
    "entrostat_decision_log_lost_lines_total": "tests/unit/server/audit/test_log.py",
    "entrostat_feedback_lost_answers_total": "tests/unit/server/feedback/test_route.py",
    "entrostat_steering_queue_full_total": "tests/unit/server/routes/test_table.py",
    "entrostat_telemetry_dropped_frames_total": "tests/unit/server/requests/test_telemetry.py",
    "entrostat_weight_updates": "tests/integration/own_server/test_weights_update.py",
    "entrostat_worker_failures": "tests/unit/server/requests/test_workers.py",
}
"""What only a fault moves, and the test that makes the fault."""


def scraped(server: Server) -> dict[str, float]:
    """The sum over all labels of each metric; of a histogram, the number of observations."""
    sums: dict[str, float] = {}
    page = httpx.get(f"{server.url}/metrics").text
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            if not sample.name.startswith("entrostat_"):
                continue
            if sample.name.endswith(("_bucket", "_sum", "_created")):
                continue
            name = sample.name.removesuffix("_count")
            sums[name] = sums.get(name, 0.0) + sample.value
    return sums


def tell(server: Server, name: str, **feedback: Any) -> dict[str, Any]:
    """Give feedback on an answer and return what it was counted as."""
    body = {"id": name, **feedback}
    answer = httpx.post(f"{server.url}/v1/entropy/feedback", json=body, timeout=30)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def use_every_control(server: Server, client: OpenAI) -> None:
    target = {"type": "entropy_target", "entropy_target": 10.7, "side": "floor"}  # out of reach
    answer = ask(client, "hi", {"temperature": target}, max_tokens=6)
    assert tell(server, answer.id, right=False)["kind"] == "completion"
    ask(client, "hi", {"temperature": {"type": "edt"}}, max_tokens=6, temperature=1.0)
    answer = ask(client, "hi", {"difficulty": {"probe": SPOKEN_PROBE}}, max_tokens=4)
    tell(server, answer.id, right=True)
    answer = ask(client, "hi", {"difficulty": {"probe": ROUTED_PROBE}}, max_tokens=4)
    tell(server, answer.id, right=True)  # of its expected accuracy
    ask(client, "hi", {"vote": vote(2)}, max_tokens=4, temperature=0.7)
    ask(client, "hi", {"semantic": semantic(2)}, max_tokens=4, temperature=0.7)
    ask(client, "hi", {"steering": [{"vector": PUSH, "strength": 0.1}]}, max_tokens=2)
    answer = ask(client, "hi", {"inquiry": {"task": f"{MODEL}/animals"}})
    label = report(answer)["inquiry"]["prediction_set"][0]
    assert tell(server, answer.id, value=label)["covered"] is True
    decline = {"abstain": {"calibration": DECLINES, "promise": "joint", "alpha": 0.1}}
    ask(client, "hi", decline, max_tokens=2)
    ask(client, "hi", {"confidence": {"probe": STATE}}, max_tokens=2)
    name, decision = decide(client, TEAMS)
    told = tell(server, name, value=decision.choice)
    assert told["covered"] == (decision.choice in decision.entropy["prediction_set"])
    fixed = {"type": "fixed", "temperature": 0.3}
    with pytest.raises(BadRequestError):
        ask(client, "hi", {"temperature": fixed}, temperature=0.9)
    again = httpx.post(
        f"{server.url}/v1/entropy/feedback", json={"id": name, "right": True}, timeout=30
    )
    assert again.status_code == 409


def test_feedback_finds_the_answer_of_every_route(server: Server, client: OpenAI) -> None:
    """Also while the client still reads the last chunk of a stream."""
    entropy = {"entropy": {"trace": "summary"}}
    tell(server, ask(client, "hi", entropy["entropy"], max_tokens=2, n=2).id, index=1, right=True)
    stream = ask(client, "hi", entropy["entropy"], max_tokens=2, stream=True)
    for chunk in stream:
        if chunk.choices and chunk.choices[0].finish_reason:
            tell(server, chunk.id, right=True)
    text = client.completions.create(model=MODEL, prompt="hi", max_tokens=2, extra_body=entropy)
    tell(server, text.id, right=True)
    made = client.responses.create(
        model=MODEL, input="hi", max_output_tokens=2, extra_body=entropy, store=False
    )
    tell(server, made.id, right=True)
    body = {
        "model": MODEL,
        "max_tokens": 2,
        "messages": [{"role": "user", "content": "hi"}],
        **entropy,
    }
    message = httpx.post(f"{server.url}/v1/messages", json=body, timeout=60).json()
    tell(server, message["id"], right=True)


def test_top_shows_the_metrics_of_the_server(
    server: Server, client: OpenAI, capsys: pytest.CaptureFixture[str]
) -> None:
    ask(client, "hi", {"temperature": {"type": "edt"}}, max_tokens=2, temperature=1.0)
    top(f"{server.url}/v1", interval=2.0, once=True)
    shown = capsys.readouterr().out
    requests = scraped(server)["entrostat_requests_total"]
    assert f"{requests:.0f}" in next(
        line for line in shown.splitlines() if "requests with controls" in line
    )
    assert "nats in" in next(line for line in shown.splitlines() if "entropy per token" in line)


def test_every_metric_moves(server: Server, client: OpenAI) -> None:
    before = scraped(server)
    names = {one.name for one in METRICS}
    steering = {"steering": [{"vector": PUSH, "strength": 0.2}]}
    endless = {"ignore_eos": True}  # a short answer would end before the metrics are read
    stream = ask(client, "hi", steering, stream=True, max_tokens=400, extra_body=endless)
    next(iter(stream))
    running = scraped(server)
    stream.close()
    use_every_control(server, client)
    after = scraped(server)
    assert set(after) == names
    moved = {name for name in names if max(after[name], running.get(name, 0)) > before.get(name, 0)}
    set_at_start = {
        *("entrostat_info", "entrostat_artifacts", "entrostat_steering_slots"),
        "entrostat_drift_reference_share",
    }
    assert all(before[name] > 0 for name in set_at_start)
    assert names - moved - set_at_start == set(NEED_A_FAULT)


def bins(now: Scrape, artifact: str) -> list[float]:
    name = "entrostat_drift_observations_total"
    rows = {own["bin"]: value for own, value in now.samples[name] if own["artifact"] == artifact}
    return [rows[str(number)] for number in range(len(rows))]


def test_prompts_unlike_those_of_a_probe_are_a_drift(server: Server, client: OpenAI) -> None:
    """Its training questions are not; the states are those that transformers has."""
    control = {"difficulty": {"probe": PLAIN_PROBE, "mode": "shadow"}}
    found = []
    for prompts in (QUESTIONS, [f"{letter} " * 30 for letter in "abcdefghijkl"]):
        with httpx.Client() as http:
            before = scrape(http, server.url)
            together([lambda p=p: ask(client, p, control, max_tokens=1) for p in prompts])
            now = scrape(http, server.url)
        seen = bins(now.since(before), PLAIN_PROBE)
        assert sum(seen) == len(prompts)
        name = "entrostat_drift_reference_share"
        shares = {
            own["bin"]: share for own, share in now.samples[name] if own["artifact"] == PLAIN_PROBE
        }
        expected = [shares[str(number)] for number in range(len(seen))]
        found.append(stability_index(seen, expected))
    assert found[0] < 0.1
    assert found[1] > 0.25


def test_tokens_under_hapo_are_compared_with_the_statistics(server: Server, client: OpenAI) -> None:
    statistics = f"{MODEL}/entropy"
    law = {"temperature": {"type": "hapo", "statistics": statistics}}
    with httpx.Client() as http:
        before = scrape(http, server.url)
        answer = ask(client, "Tell me of the sea.", law, max_tokens=12, temperature=1.0)
        seen = bins(scrape(http, server.url).since(before), statistics)
    assert sum(seen) == answer.usage.completion_tokens
