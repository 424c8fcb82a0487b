"""Policy training with rollouts from a server."""

from pathlib import Path

import pytest

from tests.conftest import Server


def test_a_server_that_reports_raw_logprobs_is_refused(server: Server, tmp_path: Path) -> None:
    """Importance weights computed from them would be silently wrong."""
    from training.common.errors import TrainingError
    from training.policy.rollouts.served import ServedPolicy
    from training.policy.rollouts.settings import ServedConfig

    with pytest.raises(TrainingError, match=r"before the temperature.*processed_logprobs"):
        ServedPolicy(ServedConfig(url=server.url), tmp_path).connect()
