"""The commands of README and docs run as printed, long ones at their quick size."""

from pathlib import Path

import pytest

from scripts.doc_blocks import ROOT, blocks, pages
from scripts.run_docs import run_page
from tests.long import is_long

PAGES = [
    page for page in pages() if any(not block.rule.startswith("skip") for block in blocks(page))
]


@pytest.mark.skipif(not is_long(), reason="servers on port 8000, for half an hour: LONG_TESTS=1")
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_block_of_a_page_runs_as_printed(page: Path) -> None:
    assert run_page(page) == 0, "see the printed lines"
