"""The folder of a policy run: whose it is, where to go on, what stays when the run is done."""

import json
import shutil
from pathlib import Path
from typing import Any

from training.common.errors import TrainingError
from training.policy.config import PolicyConfig, resolved

CONFIG_FILE = "config.json"
BEFORE, AFTER = "before.json", "after.json"
"""What the policy did on held-out problems."""
STATE_FILE = "entropy_state.json"
"""Written last into a checkpoint: one without it was cut off."""

_OWN = (
    *(BEFORE, AFTER, "steps.jsonl", "report.md", "report.png", "README.md"),
    *("checkpoint", "adapter", "served", "tracking"),
)
"""Names in a run folder, but for the checkpoints under way and the config."""

_BYTES_TO_RESUME = 12
"""Of a trained float32 weight in a checkpoint: itself and AdamW's two moments."""
_BYTES_TO_SERVE = 4
KEPT = 2
"""Checkpoints of a run under way; while a third is written, there are three."""


def claim(config: PolicyConfig, *, fresh: bool) -> None:
    """Write the config into the run folder.

    Args:
        config: Of the run.
        fresh: Throw away the run that is there.

    Raises:
        TrainingError: A run with another config is there, or something that is no run.
    """
    run = config.run
    text, path = resolved(config), run / CONFIG_FILE
    if path.is_file():
        there = _config_in(path)
        if there is None:
            raise TrainingError(
                f"{path} is not of a run: name another folder with --set run=FOLDER"
            )
        if not fresh:
            _refuse_another(run, there, json.loads(text))
        else:
            _clear(run)
    staging = path.with_suffix(".tmp")
    staging.write_text(text)
    staging.replace(path)


def _config_in(path: Path) -> dict[str, Any] | None:
    """A run's config as JSON; None for a file of something else."""
    try:
        found = json.loads(path.read_text())
    except ValueError:
        return None
    keys = {"run", "objectives", "rollout", "optimizer"}
    return found if isinstance(found, dict) and keys <= found.keys() else None


def _refuse_another(run: Path, old: dict[str, Any], new: dict[str, Any]) -> None:
    changed = sorted(key for key in old.keys() | new.keys() if old.get(key) != new.get(key))
    if changed:
        raise TrainingError(
            f"{run} holds a run with another {', '.join(changed)}: name another folder with --set "
            "run=FOLDER, or start it over with --fresh"
        )


def _clear(run: Path) -> None:
    """Remove what a run writes, and nothing else that may lie there."""
    drop_checkpoints(run)
    for path in (run / name for name in _OWN):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    (run / CONFIG_FILE).unlink()  # last: as long as it is there, what is left can be cleared again


def target_of(config: PolicyConfig) -> Path:
    """Where the result of a run goes: a folder to serve."""
    return config.run / ("adapter" if config.lora else "checkpoint")


def is_finished(config: PolicyConfig) -> bool:
    """Whether a run was trained, saved and measured to its end."""
    return (config.run / AFTER).is_file() and target_of(config).is_dir()


def last_checkpoint(run: Path) -> Path | None:
    """The latest checkpoint that was written to its end."""
    found = [path for path in _checkpoints(run) if (path / STATE_FILE).is_file()]
    return max(found, key=step_of, default=None)


def _checkpoints(run: Path) -> list[Path]:
    """Those that the trainer wrote; a copy by another name is the user's."""
    return [
        path
        for path in run.glob("checkpoint-*")
        if path.name.removeprefix("checkpoint-").isdecimal()
    ]


def step_of(checkpoint: Path) -> int:
    """The optimizer step after which a checkpoint was written."""
    return int(checkpoint.name.rpartition("-")[2])


def disk_needed(config: PolicyConfig, num_trained: float) -> float:
    """Most bytes that the checkpoints of a run take at once.

    Args:
        config: Of the run.
        num_trained: How many weights it trains.
    """
    optimizer = config.optimizer
    saves = -(-optimizer.steps // optimizer.save_every)
    under_way = num_trained * _BYTES_TO_RESUME * min(saves, KEPT + 1)
    # The result is saved while those that are kept are still there.
    at_the_end = num_trained * (_BYTES_TO_RESUME * min(saves, KEPT) + _BYTES_TO_SERVE)
    return max(under_way, at_the_end)


def refuse_full_disk(config: PolicyConfig, num_trained: int) -> None:
    """Refuse a run whose checkpoints will not fit, which is known before its first step.

    Raises:
        TrainingError: There is less room than they take.
    """
    run = config.run
    needed = disk_needed(config, num_trained)
    there = sum(path.stat().st_size for path in run.glob("checkpoint*/*") if path.is_file())
    free = shutil.disk_usage(run).free
    if free + there < needed:
        raise TrainingError(
            f"run: the checkpoints take {needed / 2**30:.1f} GiB and {free / 2**30:.1f} GiB are "
            f"free in {run}: free some, or name another folder with --set run=FOLDER"
        )


def make_servable(folder: Path) -> None:
    """Drop the pickle that the trainer leaves, and let others than its owner read the weights."""
    (folder / "training_args.bin").unlink(missing_ok=True)
    config = next(folder.glob("*config.json"))
    for weights in folder.glob("*.safetensors"):
        shutil.copymode(config, weights)


def drop_checkpoints(run: Path) -> None:
    """Remove what only a run under way needs: three times its result, and pickles among it."""
    for path in _checkpoints(run):
        shutil.rmtree(path)


def num_trained(model: Any) -> int:
    """How many weights of a model are trained."""
    return sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
