"""The folder of a policy run: whose it is, where to go on, what stays when the run is done."""

import json
import shutil
import zipfile
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

_NEEDED = ("trainer_state.json", "optimizer.pt", "scheduler.pt", STATE_FILE)
"""Files without which a run cannot be resumed, beside the weights."""

_REMEDY = "delete this folder to resume from an earlier checkpoint, or start over with --fresh"

_BYTES_TO_RESUME = 12
"""Of a trained float32 weight in a checkpoint: itself and AdamW's two moments."""
_BYTES_TO_SERVE = 4
KEPT = 2
"""Checkpoints of a run under way; while a third is written, there are three."""


def refuse_another_run(config: PolicyConfig, *, fresh: bool) -> None:
    """Check that a run may use its folder; writes nothing.

    Args:
        config: Of the run.
        fresh: Whether the run that is there will be discarded.

    Raises:
        TrainingError: A run with another config is there, or something else than a run.
    """
    path = config.run / CONFIG_FILE
    if not path.is_file():
        return
    there = _config_in(path)
    if there is None:
        raise TrainingError(
            f"{path} is not the config of a run: name another folder with --set run=FOLDER"
        )
    if not fresh:
        _refuse_another(config.run, there, json.loads(resolved(config)))


def claim(config: PolicyConfig, *, fresh: bool) -> None:
    """Write the config into the run folder.

    Args:
        config: Of the run.
        fresh: Discard the run that is there.

    Raises:
        TrainingError: See `refuse_another_run`.
    """
    refuse_another_run(config, fresh=fresh)
    path = config.run / CONFIG_FILE
    if path.is_file() and fresh:
        _clear(config.run)
    staging = path.with_suffix(".tmp")
    staging.write_text(resolved(config))
    staging.replace(path)


def _config_in(path: Path) -> dict[str, Any] | None:
    """A run's config as JSON; None for a file of something else."""
    try:
        found = json.loads(path.read_text())
    except ValueError:
        return None
    keys = {"run", "objectives", "rollout", "loss"}
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


def refuse_damaged(checkpoint: Path) -> None:
    """Check that all files of a checkpoint can be read, before a model is loaded.

    Raises:
        TrainingError: One cannot; names it and says how to go on.
    """
    for path in sorted(checkpoint.iterdir()):
        if reason := _damage(path):
            raise TrainingError(f"{checkpoint} is damaged ({path.name} {reason}): {_REMEDY}")
    if any(path.is_dir() for path in checkpoint.iterdir()):  # sharded by FSDP or DeepSpeed
        return
    missing = [name for name in _NEEDED if not (checkpoint / name).is_file()]
    missing += [] if [*checkpoint.glob("*.safetensors")] else ["the weights"]
    if missing:
        raise TrainingError(f"{checkpoint} is damaged ({', '.join(missing)} missing): {_REMEDY}")


def _damage(path: Path) -> str:
    """What is wrong with a file; empty if nothing is."""
    try:
        if path.suffix == ".json":
            if not isinstance(json.loads(path.read_text("utf-8")), dict):
                return "is not an object"
        elif path.suffix == ".safetensors":
            from safetensors import safe_open

            with safe_open(path, "pt"):
                pass
        elif path.suffix in (".pt", ".pth", ".bin"):
            with zipfile.ZipFile(path) as archive:
                if bad := archive.testzip():
                    return f"has a wrong checksum in {bad}"
    except Exception as error:  # each format has errors of its own
        return (
            f"cannot be read: {str(error).splitlines()[0] if str(error) else type(error).__name__}"
        )
    return ""


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
    nearest = next(folder for folder in (run, *run.absolute().parents) if folder.is_dir())
    free = shutil.disk_usage(nearest).free
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
