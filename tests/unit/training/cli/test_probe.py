import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.unit.training.fake import Fake
from training.cli.probe import train_probe

Refused = Callable[..., str]


@pytest.fixture
def refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Refused:
    """Run `train-probe temperature` in an empty folder and return its one sentence."""
    monkeypatch.setattr("signal.signal", lambda *_: None)
    monkeypatch.chdir(tmp_path)

    def run(*words: object) -> str:
        with pytest.raises(SystemExit) as end:
            train_probe(["temperature", *map(str, words)])
        assert end.value.code == 2
        output = capsys.readouterr().err
        assert output.startswith("train-probe temperature: ")
        assert output.count("\n") == 1
        assert not list(tmp_path.glob("artifacts/*"))
        return output

    return run


def test_an_unreachable_server(refused: Refused) -> None:
    assert "no server answers at http://127.0.0.1:9/v1/" in refused(
        "--server", "http://127.0.0.1:9"
    )


@pytest.mark.parametrize("address", ["localhost:8000", "", "http://127.0.0.1:9,"])
def test_something_that_is_no_address(refused: Refused, address: str) -> None:
    assert "write an address such as" in refused("--server", address)


def test_a_server_that_measures_no_entropy(refused: Refused, fake: Fake) -> None:
    fake.measures = False
    assert "it is not an Entrostat server" in refused("--server", fake.url)
    assert fake.asked == []


def test_a_server_that_is_no_model_server(refused: Refused, fake: Fake) -> None:
    assert "is not a vLLM server" in refused("--server", f"{fake.url}/elsewhere")


def test_a_server_whose_files_are_elsewhere(refused: Refused, fake: Fake) -> None:
    fake.root = "Qwen/Qwen3-8B"
    assert "with --checkpoint" in refused("--server", fake.url)
    assert fake.asked == []


def test_a_served_name_that_cannot_name_an_artifact(refused: Refused, fake: Fake) -> None:
    fake.model = "my model"
    assert "write MODEL/NAME" in refused("--server", fake.url)


def test_a_server_and_a_model_of_our_own(refused: Refused) -> None:
    for more in (["./model"], ["--", "--dtype", "float32"]):
        assert "leave out MODEL" in refused("--server", "http://127.0.0.1:9", *more)


def test_a_model_that_is_not_here(refused: Refused) -> None:
    assert "is not a folder on this machine" in refused("Qwen/Qwen3-8B")


def test_a_folder_that_is_no_checkpoint(refused: Refused, tmp_path: Path) -> None:
    assert "no config.json" in refused("--checkpoint", tmp_path)


def test_a_bad_line_of_prompts(refused: Refused, tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt": "a"}\nb\n')
    assert "prompts.jsonl: line 2: not JSON" in refused("--prompts", path)


def test_too_few_tokens(refused: Refused) -> None:
    assert "--tokens 1999: Input should be greater than or equal to 2000" in refused(
        "--tokens", 1999
    )


@pytest.mark.parametrize(
    "name", ["entropy", "a/b/c", "../entropy", "a/", "a b/c", "/a", "a/.b", ""]
)
def test_a_malformed_name(refused: Refused, name: str) -> None:
    assert "write MODEL/NAME" in refused("--name", name)


@pytest.mark.parametrize("flag", ["--out", "--runs"])
def test_a_folder_that_cannot_be_written(refused: Refused, tmp_path: Path, flag: str) -> None:
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        assert "cannot be written" in refused(flag, folder)


def test_a_missing_library_names_the_extra(
    refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in [name for name in sys.modules if name.split(".")[0] == "training"]:
        if module.startswith("training.temperature"):
            monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert "pip install 'entrostat[train]'" in refused()
