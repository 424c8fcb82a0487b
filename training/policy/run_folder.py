"""The folder of a policy run: ownership, checkpoints and cleanup."""

import fcntl
import json
import shutil
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from training.common.errors import TrainingError
from training.policy.config import PolicyConfig, config_json

CONFIG_FILE = "config.json"
BEFORE, AFTER = "before.json", "after.json"
"""Evaluations on the held-out problems."""
STATE_FILE = "entropy_state.json"
"""Written last into a checkpoint; a checkpoint without it is incomplete."""

_OWN = (
    *(BEFORE, AFTER, "steps.jsonl", "report.md", "report.png", "README.md"),
    *("checkpoint", "adapter", "served", "tracking"),
)
"""Names in a run folder, except intermediate checkpoints and the config."""

_NEEDED = ("trainer_state.json", "optimizer.pt", "scheduler.pt", STATE_FILE)
"""Files that are needed to resume a run, in addition to the weights."""

_REMEDY = "delete this folder to resume from an earlier checkpoint, or start over with --fresh"

_BYTES_TO_RESUME = 12
"""Bytes per trained float32 weight in a checkpoint: the weight and AdamW's two moments."""
_BYTES_TO_SERVE = 4
KEPT = 2
"""Number of checkpoints that a run keeps; there are three while a new one is written."""


@contextmanager
def only_run(run: Path) -> Iterator[None]:
    """Hold the lock of a run folder while a block runs: one process at a time writes to it.

    Raises:
        TrainingError: Another process holds it.
    """
    with (run / ".lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise TrainingError(
                f"{run}: another process trains in this folder: wait for its end, or name another "
                "folder with --set run=FOLDER"
            ) from error
        yield


def refuse_another_run(config: PolicyConfig, *, fresh: bool) -> None:
    """Check that a run may use its folder; writes nothing.

    Args:
        config: Configuration of the run.
        fresh: Whether the existing run will be discarded.

    Raises:
        TrainingError: The folder has a run with another config, or files that are not of a run.
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
        _refuse_another(config.run, there, json.loads(config_json(config)))


def write_config(config: PolicyConfig, *, fresh: bool) -> None:
    """Write the config into the run folder.

    Args:
        config: Configuration of the run.
        fresh: Discard the existing run.

    Raises:
        TrainingError: See `refuse_another_run`.
    """
    refuse_another_run(config, fresh=fresh)
    path = config.run / CONFIG_FILE
    if path.is_file() and fresh:
        _remove_run_files(config.run)
    staging = path.with_suffix(".tmp")
    staging.write_text(config_json(config))
    staging.replace(path)


def _config_in(path: Path) -> dict[str, Any] | None:
    """The config of a run as JSON; None if the file is not such a config."""
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
            f"{run} has a run with another {', '.join(changed)}: name another folder with --set "
            "run=FOLDER, or start over with --fresh"
        )


def _remove_run_files(run: Path) -> None:
    """Remove the files that a run writes, and no others."""
    drop_checkpoints(run)
    for path in (run / name for name in _OWN):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    (run / CONFIG_FILE).unlink()  # last, so that an interrupted cleanup can be repeated


def model_folder(config: PolicyConfig) -> Path:
    """The folder of the resulting model, which can be served."""
    return config.run / ("adapter" if config.lora else "checkpoint")


def is_finished(config: PolicyConfig) -> bool:
    """Whether a run is trained, saved and evaluated."""
    return (config.run / AFTER).is_file() and model_folder(config).is_dir()


def last_checkpoint(run: Path) -> Path | None:
    """The latest complete checkpoint."""
    found = [path for path in _checkpoints(run) if (path / STATE_FILE).is_file()]
    return max(found, key=step_of, default=None)


def refuse_damaged(checkpoint: Path) -> None:
    """Check that all files of a checkpoint can be read, before a model is loaded.

    Raises:
        TrainingError: A file is damaged; the message names the file and the remedy.
    """
    for path in sorted(checkpoint.iterdir()):
        if reason := _describe_damage(path):
            raise TrainingError(f"{checkpoint} is damaged ({path.name} {reason}): {_REMEDY}")
    if any(path.is_dir() for path in checkpoint.iterdir()):  # sharded by FSDP or DeepSpeed
        return
    missing = [name for name in _NEEDED if not (checkpoint / name).is_file()]
    missing += [] if [*checkpoint.glob("*.safetensors")] else ["the weights"]
    if missing:
        raise TrainingError(f"{checkpoint} is damaged ({', '.join(missing)} missing): {_REMEDY}")


def _describe_damage(path: Path) -> str:
    """Description of the damage of a file; empty if there is none."""
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
    except Exception as error:  # each format raises different errors
        return (
            f"cannot be read: {str(error).splitlines()[0] if str(error) else type(error).__name__}"
        )
    return ""


def _checkpoints(run: Path) -> list[Path]:
    """Checkpoints that the trainer wrote; copies under other names belong to the user."""
    return [
        path
        for path in run.glob("checkpoint-*")
        if path.name.removeprefix("checkpoint-").isdecimal()
    ]


def step_of(checkpoint: Path) -> int:
    """The optimizer step of a checkpoint."""
    return int(checkpoint.name.rpartition("-")[2])


def disk_needed(config: PolicyConfig, num_trained: float) -> float:
    """Largest total size of the checkpoints of a run, bytes.

    Args:
        config: Configuration of the run.
        num_trained: Number of trained weights.
    """
    optimizer = config.optimizer
    saves = -(-optimizer.steps // optimizer.save_every)
    under_way = num_trained * _BYTES_TO_RESUME * min(saves, KEPT + 1)
    # The result is saved before the checkpoints are deleted.
    at_the_end = num_trained * (_BYTES_TO_RESUME * min(saves, KEPT) + _BYTES_TO_SERVE)
    return max(under_way, at_the_end)


def refuse_full_disk(config: PolicyConfig, num_trained: int) -> None:
    """Refuse a run whose checkpoints will not fit on the disk.

    Raises:
        TrainingError: The free disk space is too small.
    """
    run = config.run
    needed = disk_needed(config, num_trained)
    there = sum(path.stat().st_size for path in run.glob("checkpoint*/*") if path.is_file())
    nearest = next(folder for folder in (run, *run.absolute().parents) if folder.is_dir())
    free = shutil.disk_usage(nearest).free
    if free + there < needed:
        raise TrainingError(
            f"run: the checkpoints need {needed / 2**30:.1f} GiB, but only "
            f"{free / 2**30:.1f} GiB are free in {run}: free disk space, or name another folder "
            "with --set run=FOLDER"
        )


def make_servable(folder: Path) -> None:
    """Delete the pickle file of the trainer, and give the weights the mode of other files."""
    (folder / "training_args.bin").unlink(missing_ok=True)
    config = next(folder.glob("*config.json"))
    for weights in folder.glob("*.safetensors"):
        shutil.copymode(config, weights)


def drop_checkpoints(run: Path) -> None:
    """Delete the checkpoints that are needed only to resume; they contain pickle files."""
    for path in _checkpoints(run):
        shutil.rmtree(path)


def num_trained(model: Any) -> int:
    """Number of trained weights of a model."""
    return sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
