"""Two real processes with gloo, started with `accelerate launch`."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.unit.training.policy import tiny_policy as tiny
from training.policy import configs
from training.policy.progress import STEPS_FILE, read_steps

ROOT = Path(__file__).resolve().parents[4]
TWO = Path(configs.__file__).parent / "cpu.yaml"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def launch(*words: object) -> None:
    """`accelerate launch -m WORDS` with the shipped config of two processes."""
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", TWO]
    command += ["--main_process_port", free_port(), "-m", *words]
    done = subprocess.run(
        [str(word) for word in command],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=ROOT,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout[-4000:]


def test_two_processes_train_one_policy_with_shared_statistics(tmp_path: Path) -> None:
    """Each process has different groups; covariance and token selection are over both."""
    objectives = "kl_cov,canon,target_entropy,entropy_advantage"
    launch("tests.unit.training.policy.two_processes", tmp_path, 4, objectives)
    found: dict[str, Any] = json.loads((tmp_path / "result.json").read_text())
    assert len(found["rows"]) == 4
    for row in found["rows"]:
        assert row["grad_norm"] > 0
        # One token in 500, at least one, over all processes together.
        assert 0 < row["objective/kl_cov_share"] <= 1 / 40


def test_the_command_trains_in_two_processes(tmp_path: Path) -> None:
    """The run writes one run folder, one log, one checkpoint and the tracker's file."""
    tiny.save(tmp_path / "model")
    run = tmp_path / "run"
    (tmp_path / "mine.toml").write_text(
        f"""
run = "{run}"
model = "{tmp_path / "model"}"
objectives = ["steer", "target_entropy"]
tracking = "tensorboard"
controller = {{ entropy_target = 3.0 }}
optimizer = {{ steps = 2, micro_batch = 4, save_every = 2 }}
rollout = {{ prompts_per_step = 2, num_generations = 4, max_tokens = 8 }}
task = {{ held_out = 8 }}
evaluation = {{ samples = 2 }}
"""
    )
    launch("training", tmp_path / "mine.toml")
    assert [row["step"] for row in read_steps(run / STEPS_FILE)] == [1, 2]
    assert (run / "checkpoint" / "model.safetensors").is_file()
    assert "steer, target_entropy" in (run / "report.md").read_text()
    assert list((run / "tracking").glob("events*"))
