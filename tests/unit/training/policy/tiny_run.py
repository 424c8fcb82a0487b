"""The settings of a run of six steps on a tiny checkpoint."""

from pathlib import Path

from training.policy.config import PolicyConfig, load_config

SETTINGS = [
    "optimizer.steps=6",
    "optimizer.save_every=2",
    "optimizer.precision=float32",
    "optimizer.learning_rate=1e-3",
    "task.held_out=8",
    "evaluation.samples=2",
    'objectives=["steer", "target_entropy"]',
    "controller.entropy_target=3.0",
]


def config_in(run: Path, checkpoint: Path, *changes: str) -> PolicyConfig:
    return load_config("plain", [*SETTINGS, f"run={run}", f"model={checkpoint}", *changes])
