"""A real Prometheus scrapes the real server, and each panel of the dashboard has data."""

import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import zmq
from openai import OpenAI

from tests.conftest import TEAMS, Server, free_port
from tests.integration.support import ask, decide
from tests.integration.test_metrics import tell, use_every_control
from tests.long import is_long
from tests.selective_artifacts import STATE
from tests.unit.server.metrics.test_deploy import RULES, expressions
from tests.waiting import wait_until

pytestmark = pytest.mark.skipif(
    not is_long() or shutil.which("prometheus") is None,
    reason="long, and needs Debian's package prometheus",
)


@pytest.fixture
def prometheus(server: Server, tmp_path: Path) -> Iterator[str]:
    """URL of a Prometheus that scrapes the server every second."""
    config = tmp_path / "prometheus.yml"
    config.write_text(
        "global: { scrape_interval: 1s, evaluation_interval: 1s }\n"
        f"rule_files: [{RULES}]\n"
        "scrape_configs:\n"
        "  - job_name: entrostat\n"
        f"    static_configs: [{{ targets: ['{server.url.removeprefix('http://')}'] }}]\n"
    )
    address = f"127.0.0.1:{free_port()}"
    flags = [f"--web.listen-address={address}", f"--storage.tsdb.path={tmp_path / 'data'}"]
    command = ["prometheus", f"--config.file={config}", *flags]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        yield f"http://{address}"
    finally:
        process.terminate()
        process.wait()


def query(url: str, expression: str) -> list[Any]:
    answer = httpx.get(f"{url}/api/v1/query", params={"query": expression}, timeout=10).json()
    assert answer["status"] == "success", answer
    found: list[Any] = answer["data"]["result"]
    return found


def test_each_panel_has_data_and_no_alert_fires(
    server: Server, client: OpenAI, prometheus: str
) -> None:
    use_every_control(server, client)  # series with labels such as `law` exist from here on
    deadline = time.monotonic() + 60
    while not _is_scraped(prometheus) and time.monotonic() < deadline:
        time.sleep(0.5)
    use_every_control(server, client)
    time.sleep(3)
    empty = []
    for expression in expressions():
        concrete = expression.replace("$__rate_interval", "1m").replace("$instance", ".*")
        values = [one["value"][1] for one in query(prometheus, concrete)]
        if not values or all(value == "NaN" for value in values):
            empty.append(concrete)
    assert empty == []
    assert firing(prometheus) == set()
    groups = httpx.get(f"{prometheus}/api/v1/rules", timeout=10).json()["data"]["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    assert len(rules) == len(re.findall(r"- (?:alert|record):", RULES.read_text()))
    assert {rule["health"] for rule in rules} == {"ok"}


def test_alerts_fire_under_an_injected_shift_and_an_injected_loss(
    server: Server, client: OpenAI, prometheus: str
) -> None:
    """Labels move out of the prediction sets, prompts out of the training data; frames break."""
    use_every_control(server, client)
    wait_until(lambda: _is_scraped(prometheus))
    assert firing(prometheus) == set()
    miss(server, client, answers=10)
    wait_until(lambda: "EntrostatCoverageLost" in firing(prometheus))
    for _ in range(60):
        ask(client, "hi", {"confidence": {"probe": STATE}}, max_tokens=1)
    wait_until(lambda: "EntrostatPromptsShifted" in firing(prometheus))
    send_broken_frames(server)
    expected = {"EntrostatCoverageLost", "EntrostatPromptsShifted", "EntrostatTracesLost"}
    wait_until(lambda: firing(prometheus) == expected)
    print(query(prometheus, "entrostat_coverage_evidence"), firing(prometheus))


def firing(url: str) -> set[str]:
    return {one["metric"]["alertname"] for one in query(url, 'ALERTS{alertstate="firing"}')}


def miss(server: Server, client: OpenAI, answers: int) -> None:
    """Say of so many decisions that the right value is one outside of the prediction set."""
    for _ in range(answers):
        name, decision = decide(client, TEAMS)
        outside = {"billing", "shipping", "returns"} - {*decision.entropy["prediction_set"]}
        assert tell(server, name, value=min(outside))["covered"] is False


def send_broken_frames(server: Server) -> None:
    """Send what is no telemetry to the receiver of each API server."""
    context = zmq.Context()
    sockets = [
        path
        for process in psutil.Process(server.process.pid).children(recursive=True)
        for path in Path(tempfile.gettempdir()).glob(f"entrostat-{process.pid}-*")
    ]
    assert sockets
    for path in sockets:
        with context.socket(zmq.PUSH) as sender:
            sender.connect(f"ipc://{path}")
            sender.send(b"broken")
    context.term()


def _is_scraped(url: str) -> bool:
    try:
        return bool(query(url, "entrostat_feedback_sets_total"))
    except httpx.HTTPError:
        return False
