"""The Python of the how-to runs as printed."""

import re
from pathlib import Path

import pytest

from tests.unit.clients.fake import Fake

PAGE = Path(__file__).parents[3] / "docs" / "how-to" / "clients.md"
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # a reader's script just ends
@pytest.mark.parametrize("block", BLOCKS, ids=range(len(BLOCKS)))
def test_every_block_runs(fake: Fake, block: str, capsys: pytest.CaptureFixture[str]) -> None:
    here = block.replace("http://127.0.0.1:8000/v1", fake.url)
    assert here != block
    scope: dict[str, object] = {}
    exec(compile(here, str(PAGE), "exec"), scope)
    scope["client"].close()  # type: ignore[attr-defined]
    assert "1.25" in capsys.readouterr().out
    (request,) = fake.requests
    assert request["entropy"]["trace"] == "tokens"
