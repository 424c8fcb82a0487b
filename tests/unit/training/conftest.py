from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.training.fake import Fake, running


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """Files that say which model it is; the fake needs no weights."""
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    (folder / "config.json").write_text('{"hidden_size": 8}')
    (folder / "tokenizer.json").write_text("{}")
    return folder


@pytest.fixture
def fake(checkpoint: Path) -> Iterator[Fake]:
    with running(checkpoint) as server:
        yield server
