"""Checks before a run starts, and its estimated duration."""

import importlib
import inspect
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from tests.unit.training.policy.tiny_run import config_in
from training.common.errors import TrainingError
from training.policy import job
from training.policy.config import load_config, quick_version, shipped_configs
from training.policy.cost import describe, estimate
from training.policy.job import train_policy
from training.policy.preparation import prepare
from training.policy.run_folder import refuse_damaged
from training.policy.versions import TRL_VLLM, installed_vllm, is_supported_by_trl, release


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["task.tasks=['absent.jsonl']"], "absent.jsonl"),
        (["optimizer.micro_batch=5"], "cannot be divided into micro-batches of 5"),
        (["task.num_problems=50", "task.held_out=48"], "fewer than prompts_per_step = 3"),
        (["model=/nowhere"], "is not a checkpoint"),
        (["rollout.backend=vllm-colocate"], "TRL 1.16 supports vLLM 0.22.0 to 0.31.0"),
    ],
    ids=str,
)
def test_a_dry_run_refuses_the_same_as_a_run(
    tiny_checkpoint: Path, tmp_path: Path, changes: list[str], message: str
) -> None:
    config = config_in(tmp_path / "run", tiny_checkpoint, *changes)
    for check in (prepare, lambda one: train_policy(one, Console(quiet=True))):
        with pytest.raises(TrainingError, match=message):
            check(config)
    assert not (tmp_path / "run").exists()


def test_a_dry_run_refuses_the_folder_of_another_run(whole: Path, tiny_checkpoint: Path) -> None:
    with pytest.raises(TrainingError, match="another seed"):
        prepare(config_in(whole, tiny_checkpoint, "seed=1"))
    prepare(config_in(whole, tiny_checkpoint, "seed=1"), fresh=True)


@pytest.fixture(scope="module")
def stopped(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with two checkpoints, stopped before its result was written."""

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    run = tmp_path_factory.mktemp("stopped") / "run"
    config = config_in(run, tiny_checkpoint, "optimizer.steps=4")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(job, "make_servable", stop)
        with pytest.raises(KeyboardInterrupt):
            train_policy(config, Console(quiet=True))
    return run


FILES = ("model.safetensors", "optimizer.pt", "scheduler.pt", "trainer_state.json")


@pytest.mark.parametrize("damage", ["cut", "empty", "noise", "missing"])
@pytest.mark.parametrize("name", [*FILES, "entropy_state.json"])
def test_a_damaged_checkpoint_is_refused_with_one_sentence(
    stopped: Path, tmp_path: Path, name: str, damage: str
) -> None:
    if name == "entropy_state.json" and damage == "missing":
        return  # without the marker, the checkpoint is incomplete
    copy = tmp_path / "checkpoint-4"
    shutil.copytree(stopped / "checkpoint-4", copy)
    refuse_damaged(copy)
    path = copy / name
    whole_file = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        half = whole_file[: len(whole_file) // 2]
        path.write_bytes({"cut": half, "empty": b"", "noise": b"\xff" * len(whole_file)}[damage])
    with pytest.raises(
        TrainingError, match=rf"is damaged \({re.escape(name)}|the weights"
    ) as raised:
        refuse_damaged(copy)
    assert "\n" not in str(raised.value)


def test_a_resumed_run_checks_its_checkpoint(
    stopped: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(stopped, run)
    config = config_in(run, tiny_checkpoint, "optimizer.steps=4")
    text = (run / "config.json").read_text().replace(str(stopped), str(run))
    (run / "config.json").write_text(text)
    (run / "checkpoint-4" / "optimizer.pt").write_bytes(b"PK")
    for check in (prepare, lambda one: train_policy(one, Console(quiet=True))):
        with pytest.raises(TrainingError, match="checkpoint-4 is damaged"):
            check(config)


def test_a_vllm_that_trl_does_not_support_is_hidden_from_it() -> None:
    """TRL neither warns about it nor imports it, and it can be imported later."""
    program = (
        "import importlib.util, sys, warnings\n"
        "warnings.filterwarnings('error', 'TRL currently supports vLLM')\n"
        "import training.policy.trainer\n"
        "print('vllm' in sys.modules, importlib.util.find_spec('vllm') is not None)"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    hidden = not is_supported_by_trl()
    assert done.stdout.split() == [str(not hidden), str(installed_vllm() is not None)]


def test_the_vllm_range_equals_that_of_trl() -> None:
    source = inspect.getsource(importlib.import_module("trl.import_utils"))
    low, high = (".".join(map(str, version)) for version in TRL_VLLM)
    assert f'Version("{low}") <= _vllm_base_version <= Version("{high}")' in source


@pytest.mark.parametrize(
    ("text", "numbers"),
    [("0.32.0", (0, 32, 0)), ("0.32.0+cpu", (0, 32, 0)), ("0.33.0rc1", (0, 33, 0)), ("1", (1,))],
)
def test_a_version_is_parsed_to_its_release_numbers(text: str, numbers: tuple[int, ...]) -> None:
    assert release(text) == numbers


def test_a_run_longer_than_four_hours_prints_a_warning(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    config = config_in(tmp_path, tiny_checkpoint)
    found = estimate(config)._replace(step_seconds=3600.0, evaluation_seconds=0.0)
    assert "warning: about 6 h" in describe(found, config)
    assert "warning" not in describe(found._replace(step_seconds=60.0), config)


@pytest.mark.parametrize("name", shipped_configs())
def test_a_quick_version_is_small_and_has_a_separate_folder(name: str) -> None:
    config = load_config(name)
    small = quick_version(config)
    assert small.run != config.run
    every = config.rollout.num_iterations * config.rollout.num_minibatches
    assert small.optimizer.steps == 2 * every
    assert small.task.held_out <= 8
