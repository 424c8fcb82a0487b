from collections.abc import Iterator

import pytest

from tests.clients.fake import Fake, running


@pytest.fixture
def fake() -> Iterator[Fake]:
    with running() as server:
        yield server
