"""Random traffic on every runner, each answer compared with transformers, token by token.

`make test` runs V2 with drafts, which has every part of the adapter in it. `make test-long`
runs all engines and draws new seeds, which it prints.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.integration.runners.engines import ENGINES
from tests.long import is_long

ROOT = Path(__file__).parents[3]


def program(module: str, engine: str, *options: str) -> dict[str, Any]:
    """The line of JSON that a program of `runners` prints behind a word in capitals."""
    command = [sys.executable, "-m", f"tests.integration.runners.{module}", *options]
    environment = ENGINES[engine].environment()
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    word = f"{module.upper()} "
    lines = [line for line in done.stdout.splitlines() if line.startswith(word)]
    assert lines, done.stdout[-2000:] + done.stderr[-4000:]
    result: dict[str, Any] = json.loads(lines[-1].removeprefix(word))
    print(result)
    return result


def traffic(name: str, *options: str) -> dict[str, Any]:
    return program("traffic", name, name, *options)


def assert_right(result: dict[str, Any]) -> None:
    assert result["wrong"] == []
    assert result["failures"] == 0
    assert result["answers"] > 0


@pytest.mark.timeout(1800)
def test_random_traffic_is_right_on_v2_with_drafts() -> None:
    result = traffic("v2-drafts", "--seed", "5", "--requests", "6")
    assert_right(result)
    assert result["drafts"] > 0


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("law", ["fixed", "edt", "dynatemp", "entropy_target"])
def test_drafts_leave_the_controlled_distribution_as_it_is(law: str) -> None:
    """Chi-square of what vLLM's rejection sampler lets through, under each law.

    With 20,000 draws on 2026-11-28: `fixed` p = .351, `edt` .173, `dynatemp` .392,
    `entropy_target` .635; against the uncontrolled distribution 0, 4e-8, 3e-21 and 0.
    """
    draws = 20_000 if is_long() else 1_000
    if law != "entropy_target" and not is_long():
        pytest.skip("one law in the default suite, all with LONG_TESTS=1")
    found = program("speculation", "v2-drafts", "--law", law, "--draws", str(draws))["laws"][law]
    assert found["tokens"] >= draws
    assert found["p_controlled"] > 1e-3
    assert found["p_uncontrolled"] < 1e-6, "the test must be able to fail"


@pytest.mark.skipif(not is_long(), reason="takes half an hour: LONG_TESTS=1")
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", ENGINES)
def test_random_traffic_is_right_on_every_engine(name: str) -> None:
    assert_right(traffic(name, "--seed", "random"))
