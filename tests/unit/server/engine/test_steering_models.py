"""Steering in every family of models, compiled, and on two ranks: tiny ones beside transformers."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.unit.server.engine.tiny import CASES

# Real engines, but not the shared one, which runs beside them.
pytestmark = [pytest.mark.engine, pytest.mark.timeout(1200)]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the program of `tiny.py` found."""
    folder = str(tmp_path_factory.mktemp("tiny"))
    command = [sys.executable, "-m", "tests.unit.server.engine.tiny", folder]
    root = Path(__file__).parents[4]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1100, cwd=root)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


@pytest.mark.parametrize("name", [case.name for case in CASES])
def test_log_probabilities_are_those_of_transformers_with_hooks(
    found: dict[str, Any], name: str
) -> None:
    """Of four requests in a batch with one prompt, read in chunks, two of them steered.

    `compiled, other layers` starts with the compile cache that `compiled` left.
    """
    assert max(found[name]["differences"]) < 1e-3
    pushed, plain, held, also_plain = found[name]["moved"]
    assert plain == also_plain == 0
    assert min(pushed, held) > 0.3


def test_a_model_of_another_family_is_refused_by_name(found: dict[str, Any]) -> None:
    assert "OPTForCausalLM" in found["refused"]
