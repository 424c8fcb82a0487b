"""Importing TRL changes nothing for the rest of the process."""

import os
import subprocess
import sys

import pytest

IMPORT = "; ".join(
    [
        "import os, sys, vllm",
        "before = dict(os.environ)",
        "import training.policy.trl_import",
        "assert dict(os.environ).get('VLLM_LOGGING_LEVEL') == before.get('VLLM_LOGGING_LEVEL')",
        "assert sys.modules['vllm'] is vllm",
    ]
)


@pytest.mark.parametrize("level", [None, "WARNING"])
def test_an_imported_vllm_and_its_log_level_stay(level: str | None) -> None:
    env = {name: value for name, value in os.environ.items() if name != "VLLM_LOGGING_LEVEL"}
    env |= {"VLLM_LOGGING_LEVEL": level} if level else {}
    command = [sys.executable, "-W", "error:TRL currently supports", "-c", IMPORT]
    assert subprocess.run(command, env=env, check=False).returncode == 0
