"""Fingerprints of weights in other formats and of LoRA adapters."""

from pathlib import Path

import pytest

from probes.artifact import ModelIdentity, adapter_hash


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    return tmp_path


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.gguf", "model.pth"])
def test_weights_of_other_formats_are_fingerprinted(checkpoint: Path, name: str) -> None:
    for file in checkpoint.glob("*.safetensors"):
        file.unlink()
    assert ModelIdentity.from_checkpoint(checkpoint).weights_hash is None
    (checkpoint / name).write_bytes(b"one")
    one = ModelIdentity.from_checkpoint(checkpoint).weights_hash
    (checkpoint / name).write_bytes(b"two")
    assert one is not None
    assert ModelIdentity.from_checkpoint(checkpoint).weights_hash not in (None, one)


def test_an_adapter_is_its_weights_and_its_config(tmp_path: Path) -> None:
    assert adapter_hash(tmp_path) is None
    config, weights = tmp_path / "adapter_config.json", tmp_path / "adapter_model.safetensors"
    config.write_text('{"r": 8}')
    assert adapter_hash(tmp_path) is None
    weights.write_bytes(b"weights")
    hashes = [adapter_hash(tmp_path)]
    config.write_text('{"r": 4}')
    hashes.append(adapter_hash(tmp_path))
    weights.write_bytes(b"Weights")
    hashes.append(adapter_hash(tmp_path))
    assert len(set(hashes)) == 3
