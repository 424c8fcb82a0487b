"""Every metric moves on the real server when what it counts happens."""

from typing import Any

import httpx
from openai import BadRequestError, OpenAI
from prometheus_client.parser import text_string_to_metric_families

from server.metrics.definitions import METRICS
from tests.conftest import PUSH, SPOKEN_PROBE, TEAMS, Server
from tests.integration.support import MODEL, ask

NEED_A_FAULT = {
    "entrostat_fallbacks_total": "tests/unit/server/requests/test_generation_faults.py",
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


def use_every_control(client: OpenAI) -> None:
    target = {"type": "entropy_target", "entropy_target": 1.0}
    ask(client, "hi", {"temperature": target}, max_tokens=6)
    ask(client, "hi", {"temperature": {"type": "edt"}}, max_tokens=6, temperature=1.0)
    low: Any = {"type": "fixed", "temperature": 0.3}
    ask(client, "hi", {"difficulty": {"probe": SPOKEN_PROBE}}, max_tokens=4)
    ask(client, "hi", {"steering": [{"vector": PUSH, "strength": 0.1}]}, max_tokens=2)
    ask(client, "hi", {"inquiry": {"task": f"{MODEL}/animals"}})
    client.decisions.create(
        model=MODEL,
        input="I was charged twice.",
        questions=[
            {
                "type": "choice",
                "instructions": "Which team?",
                "choices": [{"value": one} for one in ("billing", "shipping", "returns")],
            }
        ],
        extra_body={"entropy": {"calibration": TEAMS}},
    )
    try:
        ask(client, "hi", {"temperature": low}, temperature=0.9)
    except BadRequestError:
        return
    raise AssertionError("a contradiction was not refused")


def test_every_metric_moves(server: Server, client: OpenAI) -> None:
    before = scraped(server)
    names = {one.name for one in METRICS}
    assert names == set(before)
    stream = ask(
        client, "hi", {"steering": [{"vector": PUSH, "strength": 0.2}]}, stream=True, max_tokens=400
    )
    next(iter(stream))
    running = scraped(server)
    stream.close()
    use_every_control(client)
    after = scraped(server)
    counted = {name for name in names if after[name] > before[name] or running[name] > before[name]}
    present = {
        name for name in ("entrostat_info", "entrostat_artifacts", "entrostat_steering_slots")
    }
    assert all(before[name] > 0 for name in present)
    assert names - counted - present - set(NEED_A_FAULT) == set()
