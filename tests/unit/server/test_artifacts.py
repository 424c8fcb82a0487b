"""What the processes of one server may use: the API servers ask for it, the workers have it."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from probes.artifact import ModelIdentity, text_hash
from server import artifacts as module
from server.artifacts import load_artifacts
from tests.unit.server.support import HIDDEN_SIZE, save_probe


def test_a_worker_has_whatever_an_api_server_may_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker is not told of `--chat-template`; what it lacks it cannot even refuse."""
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "chat_template.jinja").write_text("the model's own")
    root = tmp_path / "artifacts"
    identity = ModelIdentity.of(tmp_path).model_dump()
    for name, template in (("own", "the model's own"), ("served", "served")):
        mine = {**identity, "chat_template_hash": text_hash(template)}
        save_probe(root, f"m/{name}", **mine)
    save_probe(root, "m/other", **{**identity, "config_hash": "other"})
    monkeypatch.setattr(module, "shipped_artifacts", lambda: root)
    config = SimpleNamespace(
        model=str(tmp_path), get_hidden_size=lambda: HIDDEN_SIZE, dtype=torch.float32
    )
    assert {*load_artifacts(config).heads()} == {"m/own"}
    assert {*load_artifacts(config, "served").heads()} == {"m/served"}
    assert {*load_artifacts(config, any_template=True).heads()} == {"m/own", "m/served"}
