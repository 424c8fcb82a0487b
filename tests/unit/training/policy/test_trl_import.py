"""Importing TRL changes nothing for the rest of the process."""

import subprocess
import sys

PROGRAM = """
import os, sys, vllm

for level in (None, "WARNING"):
    if os.fork() == 0:  # importing vLLM takes longer than all else
        os.environ.pop("VLLM_LOGGING_LEVEL", None)
        if level:
            os.environ["VLLM_LOGGING_LEVEL"] = level
        import training.policy.trl_import
        assert os.environ.get("VLLM_LOGGING_LEVEL") == level
        assert sys.modules["vllm"] is vllm
        os._exit(0)
    assert os.wait()[1] == 0, level
"""


def test_an_imported_vllm_and_its_log_level_stay() -> None:
    command = [sys.executable, "-W", "error:TRL currently supports", "-c", PROGRAM]
    assert subprocess.run(command, check=False).returncode == 0
