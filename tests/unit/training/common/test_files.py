"""Law: every file that a user gives is read with and without a byte order mark."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from training.common.errors import TrainingError
from training.common.files import (
    atomic_write,
    read_json_lines,
    read_record,
    read_text,
    read_toml,
    write_text,
)
from training.common.prompts import load_prompts
from training.datasets.loaders import load_problems
from training.difficulty.strategies import load_strategies
from training.policy.evaluation import Evaluation
from training.steering.generations import SteeredGenerations
from training.steering.tasks import load_episodes

_STRATEGIES = "".join(f"[{name}]\ntemperature = 0.5\nbudget = 0.5\n" for name in ("easy", "normal"))
_READERS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "prompts.jsonl": ('{"prompt": "Why?"}\n', load_prompts),
    "problems.jsonl": (
        '{"prompt": "1 + 1?", "answer": "2", "grader": "numeric"}\n',
        lambda path: load_problems([str(path)], 10, 0),
    ),
    "runs.jsonl": (
        '{"episode": 0, "step": 0, "prompt": "A or B?", "actions": ["A", "B"]}\n',
        load_episodes,
    ),
    "strategies.toml": (
        f"{_STRATEGIES}[hard]\ntemperature = 0.4\nbudget = 0.5\n",
        lambda path: load_strategies(str(path)),
    ),
}


@pytest.mark.parametrize("name", _READERS)
@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_a_byte_order_mark_changes_nothing(tmp_path: Path, name: str, line_end: str) -> None:
    text, read = _READERS[name]
    path = tmp_path / name
    path.write_bytes(text.encode())
    expected = read(path)
    path.write_bytes(text.replace("\n", line_end).encode("utf-8-sig"))
    assert read(path) == expected


@pytest.mark.parametrize("name", _READERS)
def test_utf_16_is_refused_with_the_remedy(tmp_path: Path, name: str) -> None:
    text, read = _READERS[name]
    path = tmp_path / name
    path.write_bytes(text.encode("utf-16"))
    with pytest.raises(TrainingError, match="UTF-16 text: save it as UTF-8"):
        read(path)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b'{"a": 1}\n{"a": \n', "line 2: not JSON"),
        (b"[1]\n", "line 1: not a JSON object"),
        (b"[" * 100_000, "line 1: not JSON: nested too deeply"),
        (b"{}\n\xe9", "not UTF-8 text"),
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, content: bytes, complaint: str) -> None:
    path = tmp_path / "lines.jsonl"
    path.write_bytes(content)
    with pytest.raises(TrainingError, match=complaint):
        list(read_json_lines(path))


def test_a_toml_error_names_the_file_and_the_line(tmp_path: Path) -> None:
    path = tmp_path / "job.toml"
    path.write_text("a = 1\nb = \n")
    with pytest.raises(TrainingError, match=r"job.toml: not TOML: .*line 2"):
        read_toml(path)


def test_an_atomic_write_replaces_the_file(tmp_path: Path) -> None:
    path = tmp_path / "page.md"
    write_text(path, "old")
    write_text(path, "né")
    assert read_text(path) == "né"
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_write_keeps_the_old_file_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "page.md"
    write_text(path, "old")
    with pytest.raises(TypeError), atomic_write(path) as staging:
        staging.write_text(None)  # type: ignore[arg-type]
    assert read_text(path) == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is damaged: delete it or start with --fresh"),
        (b"{", "is damaged: delete it"),
        (b"\xff\xfe", "is damaged: delete it"),
        (b"[]", "is damaged: delete it"),
        (b"null", "is damaged: delete it"),
        (b"{}", "is damaged at `divergence`: delete it"),
        (b'{"divergence": {"0.1": "far"}}', "is damaged at `divergence.0.1`: delete it"),
    ],
)
def test_a_damaged_record_of_a_run_is_named(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "generations.json"
    path.write_bytes(content)
    with pytest.raises(TrainingError) as error:
        read_record(path, SteeredGenerations)
    assert str(error.value).startswith(f"{path}: {said}")


def test_what_was_kept_is_what_is_read(tmp_path: Path) -> None:
    kept = SteeredGenerations(divergence={0.1: 2.0}, prompts=["a"], completions={}, sampled={})
    path = tmp_path / "generations.json"
    path.write_text(kept.model_dump_json())
    assert read_record(path, SteeredGenerations) == kept
    evaluation = Evaluation([[True, False]], [[0.5, 0.25]], [1.5], [[3, 4]])
    path.write_text(json.dumps(evaluation._asdict()))
    assert read_record(path, Evaluation) == evaluation
