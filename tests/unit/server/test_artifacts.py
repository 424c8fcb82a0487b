"""Artifacts of the processes of one server: API servers and workers agree."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from probes.artifact import Adapter, Artifact, ModelIdentity, text_hash
from server import artifacts as module
from server.artifacts import STALE, Artifacts, load_artifacts
from server.errors import BadControl
from server.planning.plan import ControlSources, make_plan
from server.planning.refusals import RequestParams
from server.served_model import ModelFacts, find_adapter
from server.wire.request import Control
from tests.unit.server.support import (
    HIDDEN_SIZE,
    SERVED,
    artifacts,
    save_inquiry,
    save_probe,
    save_statistics,
    save_vector,
)

CONTROLS: dict[str, dict[str, object]] = {
    "entropy": {"temperature": {"type": "hapo", "statistics": "m/entropy"}},
    "difficulty": {"difficulty": {"probe": "m/difficulty"}},
    "steering": {"steering": [{"vector": "m/steering", "strength": 1.0}]},
    "inquiry": {"inquiry": {"task": "m/inquiry"}},
}
UNNAMED: dict[str, dict[str, object]] = {
    "entropy": {"temperature": {"type": "hapo"}},
    "difficulty": {"difficulty": {}},
}
each_control = pytest.mark.parametrize("kind", CONTROLS)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A good artifact of each kind."""
    save_statistics(tmp_path, "m/entropy")
    save_probe(tmp_path, "m/difficulty")
    save_vector(tmp_path, "m/steering")
    save_inquiry(tmp_path, "m/inquiry")
    return tmp_path


def make_for_adapter(root: Path, digest: str) -> None:
    """Let all artifacts belong to an adapter."""
    for folder in (root / "m").iterdir():
        found = Artifact.load(folder)
        manifest = found.manifest.model_copy(update={"adapter_hash": digest})
        found.model_copy(update={"manifest": manifest}).save(root)


def planned(control: dict[str, object], found: Artifacts, adapter: Adapter | None) -> object:
    """Plan a request that names its control in the body."""
    params = RequestParams(last_message={"role": "user", "content": "Why?"}, adapter=adapter)
    body = Control.model_validate(control)
    return make_plan(ControlSources(body, None, None), {}, found, params)


@each_control
def test_an_artifact_of_the_base_model_does_not_fit_its_adapter(kind: str, root: Path) -> None:
    found = artifacts(root)
    planned(CONTROLS[kind], found, None)
    for digest in ("h", None):
        with pytest.raises(
            BadControl, match="made for the base model, not for the adapter `tuned`"
        ):
            planned(CONTROLS[kind], found, Adapter("tuned", digest))
        if kind in UNNAMED:
            with pytest.raises(BadControl, match="for the adapter `tuned`"):
                planned(UNNAMED[kind], found, Adapter("tuned", digest))


@each_control
def test_an_artifact_of_an_adapter_fits_it_by_hash_and_no_other(kind: str, root: Path) -> None:
    make_for_adapter(root, "h")
    found = artifacts(root)
    assert all(card.usable and card.adapter == "h" for card in found.cards)
    planned(CONTROLS[kind], found, Adapter("any name", "h"))
    if kind in UNNAMED:
        planned(UNNAMED[kind], found, Adapter("any name", "h"))
    with pytest.raises(BadControl, match="made for another LoRA adapter, not for the adapter `b`"):
        planned(CONTROLS[kind], found, Adapter("b", "other"))
    with pytest.raises(BadControl, match="made for a LoRA adapter, not for the base model"):
        planned(CONTROLS[kind], found, None)


@each_control
def test_no_artifact_fits_once_the_weights_were_updated(kind: str, root: Path) -> None:
    found = artifacts(root)
    for _ in range(2):
        found.mark_stale()
        assert len(found) == 0
        assert {card.reason for card in found.cards} == {STALE}
        assert not any(card.usable for card in found.cards)
        with pytest.raises(BadControl, match="weights of the model were updated"):
            planned(CONTROLS[kind], found, None)
        if kind in UNNAMED:
            with pytest.raises(BadControl, match="weights of the model were updated"):
                planned(UNNAMED[kind], found, None)


def test_a_reloaded_adapter_is_fingerprinted_again(tmp_path: Path) -> None:
    weights = tmp_path / "adapter_model.safetensors"
    weights.write_bytes(b"one")
    loaded = {"tuned": SimpleNamespace(lora_path=str(tmp_path))}
    one = find_adapter("tuned", loaded)
    weights.write_bytes(b"two")
    assert find_adapter("tuned", loaded) is one  # vLLM still has what was there
    loaded["tuned"] = SimpleNamespace(lora_path=str(tmp_path))
    two = find_adapter("tuned", loaded)
    assert one is not None
    assert two is not None
    assert None not in (one.adapter.hash, two.adapter.hash)
    assert one.adapter.hash != two.adapter.hash
    assert find_adapter("base", loaded) is None
    loaded["tuned"] = SimpleNamespace(lora_path=str(tmp_path / "gone"))
    gone = find_adapter("tuned", loaded)
    assert gone is not None
    assert gone.adapter.hash is None


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (ModelFacts(HIDDEN_SIZE, num_layers=2), "steering.norms.2: the model's layers are 0 to 1"),
        (ModelFacts(HIDDEN_SIZE, family="MambaForCausalLM"), "not supported for MambaForCausalLM"),
        (ModelFacts(HIDDEN_SIZE, steered=[1]), "steering.norms.2: not among --steering-layers"),
        (ModelFacts(16), "manifest.json: steering.features is 8, the model's hidden size is 16"),
    ],
)
def test_a_vector_that_does_not_fit_the_model_is_listed_with_the_reason(
    model: ModelFacts, said: str, tmp_path: Path
) -> None:
    save_vector(tmp_path, "m/steering")
    found = Artifacts([tmp_path], SERVED, model)
    (card,) = found.cards
    assert not card.usable
    assert card.kind == "steering-vector"
    assert said in str(card.reason)
    assert found.steering_vectors() == {}


def test_the_reason_of_a_worker_is_that_of_the_listing(tmp_path: Path) -> None:
    """Only a worker knows the class of the model."""
    save_vector(tmp_path, "m/steering")
    mine = artifacts(tmp_path)
    worker = Artifacts([tmp_path], SERVED, ModelFacts(HIDDEN_SIZE, family="MambaForCausalLM"))
    mine.keep_common([worker.for_workers()])
    (card,) = mine.cards
    assert "not supported for MambaForCausalLM" in str(card.reason)


def test_a_model_whose_files_are_elsewhere_is_served_without_artifacts(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "shipped_artifacts", lambda: root)
    config = SimpleNamespace(
        model="s3://bucket/model",
        revision=None,
        get_hidden_size=lambda: HIDDEN_SIZE,
        get_total_num_hidden_layers=lambda: 4,
        dtype=torch.float32,
    )
    found = load_artifacts(config)
    assert len(found) == 0
    assert len(found.cards) == 4


def test_a_worker_loads_every_artifact_that_an_api_server_may_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker does not know `--chat-template`, so it loads artifacts for every template."""
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    (tmp_path / "chat_template.jinja").write_text("the model's own")
    root = tmp_path / "artifacts"
    identity = ModelIdentity.from_checkpoint(tmp_path).model_dump()
    for name, template in (("own", "the model's own"), ("served", "served")):
        mine = {**identity, "chat_template_hash": text_hash(template)}
        save_probe(root, f"m/{name}", **mine)
    save_probe(root, "m/other", **{**identity, "config_hash": "other"})
    monkeypatch.setattr(module, "shipped_artifacts", lambda: root)
    config = SimpleNamespace(
        model=str(tmp_path),
        get_hidden_size=lambda: HIDDEN_SIZE,
        get_total_num_hidden_layers=lambda: 4,
        dtype=torch.float32,
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
