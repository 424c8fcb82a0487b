"""Random traffic on every runner, each answer compared with transformers, token by token.

`make test` runs V2 with drafts, which has every part of the adapter in it. `make test-long`
runs all engines and draws new seeds, which it prints.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.integration.runners.engines import ENGINES

ROOT = Path(__file__).parents[3]


def traffic(name: str, *options: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "tests.integration.runners.traffic", name, *options]
    environment = ENGINES[name].environment()
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("TRAFFIC ")]
    assert lines, done.stdout[-2000:] + done.stderr[-4000:]
    result: dict[str, Any] = json.loads(lines[-1].removeprefix("TRAFFIC "))
    print(result)
    return result


def assert_right(result: dict[str, Any]) -> None:
    assert result["wrong"] == []
    assert result["failures"] == 0
    assert result["answers"] > 0


@pytest.mark.timeout(1800)
def test_random_traffic_is_right_on_v2_with_drafts() -> None:
    result = traffic("v2-drafts", "--seed", "5", "--requests", "10")
    assert_right(result)
    assert result["drafts"] > 0


@pytest.mark.skipif(os.environ.get("LONG_TESTS") != "1", reason="takes half an hour: LONG_TESTS=1")
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", ENGINES)
def test_random_traffic_is_right_on_every_engine(name: str) -> None:
    assert_right(traffic(name, "--seed", "random"))
