"""What the user can fix is one sentence and exit code 2, whatever names it."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from training.cli.errors import one_sentence_errors
from training.common.config import JobConfig
from training.common.errors import TrainingError
from training.common.job import check_job


def sentence(capsys: pytest.CaptureFixture[str], error: Exception) -> str:
    """What a command prints that ends with an error."""
    with pytest.raises(SystemExit) as left, one_sentence_errors("train-probe x"):
        raise error
    assert left.value.code == 2
    printed = capsys.readouterr().err
    assert printed.endswith("\n")
    return printed.removesuffix("\n")


def test_an_error_cannot_control_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    printed = sentence(capsys, TrainingError("a\x1b]52;c;x\x07.jsonl: cannot be read"))
    assert printed == "train-probe x: a]52;c;x.jsonl: cannot be read"


@pytest.mark.parametrize("error", [PermissionError, IsADirectoryError, FileExistsError])
def test_a_path_that_cannot_be_used_is_named(
    capsys: pytest.CaptureFixture[str], error: type[OSError]
) -> None:
    assert sentence(capsys, error(1, "Not permitted", "out/x")) == (
        "train-probe x: out/x: Not permitted"
    )


def test_an_error_of_no_path_is_not_hidden() -> None:
    with pytest.raises(ConnectionResetError), one_sentence_errors("train-probe x"):
        raise ConnectionResetError(104, "reset")


@pytest.mark.parametrize("field", ["out", "runs"])
def test_a_folder_whose_name_is_too_long_is_refused(field: str, tmp_path: Path) -> None:
    config = JobConfig.model_validate({field: tmp_path / ("x" * 300)})
    with pytest.raises(TrainingError, match="cannot be written: File name too long"):
        check_job(config)


@pytest.mark.parametrize("seed", [-1, 2**31, 10**30])
def test_a_seed_that_numpy_or_torch_would_refuse_after_the_sampling_is_refused(seed: int) -> None:
    with pytest.raises(ValidationError):
        JobConfig(seed=seed)


def test_an_id_that_no_request_could_name_is_refused() -> None:
    check_job(JobConfig(name="m/" + "x" * 198))
    with pytest.raises(TrainingError, match="200 characters at most"):
        check_job(JobConfig(name="m/" + "x" * 199))
