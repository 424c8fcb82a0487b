from pathlib import Path

import pytest

from training.common.errors import TrainingError
from training.common.prompts import load_prompts


def test_the_shipped_prompts_are_many_and_different() -> None:
    prompts = load_prompts(None)
    assert len(prompts) >= 80
    assert len(set(prompts)) == len(prompts)


def test_a_file_may_hold_other_fields_blank_lines_and_any_character(tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt": "a\u2028b", "id": 3}\r\n\n{"prompt": "é"}', "utf-8")
    assert load_prompts(path) == ["a\u2028b", "é"]


@pytest.mark.parametrize(
    "line",
    [
        '{"prompt": "Why?"}',
        '{"question": "Why?"}',
        '{"prompt": [{"role": "user", "content": "Why?"}]}',
    ],
)
def test_published_shapes_are_read(tmp_path: Path, line: str) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text(line)
    assert load_prompts(path) == ["Why?"]


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b'{"prompt": "a"}\n{"prompt": \n', "line 2: not JSON"),
        (b'{"prompt": "a"}\n\n"b"\n', "line 3: not a JSON object"),
        (b'{"text": "a"}\n', "line 1: expected an object"),
        (b'{"prompt": " "}\n', "line 1: expected an object"),
        (b'{"prompt": 3}\n', "line 1: expected an object"),
        (b"\n\n", "contains no prompts"),
        (b"\xff\xfe", "UTF-16"),
    ],
)
def test_a_bad_file_is_refused_by_its_line(tmp_path: Path, content: bytes, complaint: str) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_bytes(content)
    with pytest.raises(TrainingError, match=complaint):
        load_prompts(path)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="cannot be read: No such file"):
        load_prompts(tmp_path / "none.jsonl")
