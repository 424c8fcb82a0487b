"""A real Prometheus scrapes the real server, and each panel of the dashboard has data."""

import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from openai import OpenAI

from tests.conftest import Server, free_port
from tests.integration.test_metrics import use_every_control
from tests.long import is_long
from tests.unit.server.metrics.test_deploy import RULES, expressions

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
    firing = query(prometheus, 'ALERTS{alertstate="firing"}')
    assert [one["metric"]["alertname"] for one in firing] == []
    groups = httpx.get(f"{prometheus}/api/v1/rules", timeout=10).json()["data"]["groups"]
    assert [rule["health"] for group in groups for rule in group["rules"]] == ["ok"] * 8


def _is_scraped(url: str) -> bool:
    try:
        return bool(query(url, "entrostat_feedback_sets_total"))
    except httpx.HTTPError:
        return False
