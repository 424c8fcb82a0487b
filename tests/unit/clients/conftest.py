from collections.abc import Iterator

import pytest

from tests.unit.clients.fake import Fake, running


@pytest.fixture
def fake() -> Iterator[Fake]:
    with running() as server:
        yield server
