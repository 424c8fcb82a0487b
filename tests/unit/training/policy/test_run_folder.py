"""The folder of a policy run: ownership, cleanup and disk space."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from training.common.errors import TrainingError
from training.policy.config import PolicyConfig, load_config
from training.policy.run_folder import (
    STATE_FILE,
    last_checkpoint,
    only_run,
    refuse_full_disk,
    write_config,
)


def config_in(run: Path, *changes: str) -> PolicyConfig:
    return load_config("plain", ["optimizer.steps=6", f"run={run}", *changes])


@pytest.mark.parametrize(("save_every", "needed"), [(2, 36), (3, 28), (6, 16)])
def test_too_little_disk_space_is_refused_at_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, save_every: int, needed: int
) -> None:
    """12 bytes per weight for up to three checkpoints; 4 for the result in addition to two."""
    config = config_in(tmp_path, f"optimizer.save_every={save_every}")
    free = SimpleNamespace(free=needed * 2**30)
    monkeypatch.setattr("shutil.disk_usage", lambda folder: free)
    refuse_full_disk(config, 2**30)
    free.free -= 1
    with pytest.raises(TrainingError, match=rf"need {needed}.0 GiB, but only .* are free"):
        refuse_full_disk(config, 2**30)
    (tmp_path / "checkpoint-2").mkdir()
    (tmp_path / "checkpoint-2" / "optimizer.pt").write_bytes(b"1")  # its disk space can be reused
    refuse_full_disk(config, 2**30)


def test_two_runs_never_write_to_one_folder(tmp_path: Path) -> None:
    with (
        only_run(tmp_path),
        pytest.raises(TrainingError, match="another process trains"),
        only_run(tmp_path),
    ):
        pass
    with only_run(tmp_path):
        pass


def test_starting_over_removes_the_run_and_nothing_else(tmp_path: Path) -> None:
    config = config_in(tmp_path)
    write_config(config, fresh=False)
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("mine")
    (tmp_path / "checkpoint-2").mkdir()
    (tmp_path / "steps.jsonl").write_text("{}")
    write_config(config, fresh=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "thesis"]


def test_starting_over_can_be_interrupted_and_keeps_copied_checkpoints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_in(tmp_path)
    write_config(config, fresh=False)
    for name in ("checkpoint-2", "checkpoint-2-good"):
        (tmp_path / name).mkdir()
        (tmp_path / name / STATE_FILE).write_text("{}")
    assert last_checkpoint(tmp_path) == tmp_path / "checkpoint-2"
    with monkeypatch.context() as patch:
        patch.setattr("shutil.rmtree", lambda path: (_ for _ in ()).throw(OSError("cut off")))
        with pytest.raises(OSError, match="cut off"):
            write_config(config, fresh=True)
    write_config(config, fresh=True)
    assert last_checkpoint(tmp_path) is None
    assert (tmp_path / "checkpoint-2-good").is_dir()


@pytest.mark.parametrize("text", ['{"hidden_size": 8}', '{"run": "x", "obj', "[]"])
@pytest.mark.parametrize("fresh", [False, True])
def test_a_folder_that_is_not_of_a_run_is_not_changed(
    tmp_path: Path, text: str, fresh: bool
) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(TrainingError, match="is not the config of a run"):
        write_config(config_in(tmp_path), fresh=fresh)
    assert (tmp_path / "config.json").read_text() == text
