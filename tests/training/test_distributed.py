"""Two real processes over gloo."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def run(folder: Path, objectives: str) -> dict[str, Any]:
    """Two processes with four sequences each."""
    base = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2"}
    base |= {"ACCELERATE_USE_CPU": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.training.two_processes", str(folder), "4", objectives],
            env=os.environ | base | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=ROOT,
        )
        for rank in range(2)
    ]
    for process in processes:
        output, _ = process.communicate(timeout=300)
        assert process.returncode == 0, output[-4000:]
    found: dict[str, Any] = json.loads((folder / "result.json").read_text())
    return found


def test_two_processes_train_one_policy_with_statistics_of_both(tmp_path: Path) -> None:
    """Each process holds groups of its own; covariance and the choice of tokens are of both."""
    found = run(tmp_path, "kl_cov,canon,target_entropy,entropy_advantage")
    assert len(found["rows"]) == 4
    for row in found["rows"]:
        assert row["grad_norm"] > 0
        # One token in 500, but one at least, of all processes together, not of each.
        assert 0 < row["objective/kl_cov_share"] <= 1 / 40
