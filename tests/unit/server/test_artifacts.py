"""Artifacts of the processes of one server: API servers and workers agree."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from probes.artifact import ModelIdentity, text_hash
from server import artifacts as module
from server.artifacts import load_artifacts
from server.errors import BadControl
from tests.unit.server.planning.test_steering import save as save_vector
from tests.unit.server.support import HIDDEN_SIZE, artifacts, save_probe, save_statistics


def test_a_worker_loads_every_artifact_that_an_api_server_may_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker does not know `--chat-template`, so it loads artifacts for every template."""
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "chat_template.jinja").write_text("the model's own")
    root = tmp_path / "artifacts"
    identity = ModelIdentity.from_checkpoint(tmp_path).model_dump()
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


def test_only_artifacts_that_every_worker_has_loaded_are_usable(tmp_path: Path) -> None:
    """The processes read the folders at different times; the folders may change in between."""
    for name in ("m/kept", "m/replaced", "m/removed"):
        save_vector(tmp_path, name)
    save_statistics(tmp_path, "m/statistics")
    worker = artifacts(tmp_path)
    save_vector(tmp_path, "m/replaced", seed=7)
    save_vector(tmp_path, "m/added")
    save_probe(tmp_path, "m/probe")
    shutil.rmtree(tmp_path / "m" / "removed")
    mine = artifacts(tmp_path)
    mine.keep_common([None, worker.for_workers(), worker.for_workers()])
    assert {card.id for card in mine.cards if card.usable} == {"m/kept", "m/statistics"}
    reasons = {card.id: str(card.reason) for card in mine.cards if not card.usable}
    assert "added while the server started" in reasons["m/added"]
    assert "added while the server started" in reasons["m/probe"]
    assert "replaced while the server started" in reasons["m/replaced"]
    assert set(mine.steering_vectors()) == {"m/kept"}
    for name in ("m/added", "m/replaced"):
        with pytest.raises(BadControl, match="cannot be used"):
            mine.steering_vector(name, "entropy.steering.0.vector")
