"""Fingerprints of a model and of its LoRA adapters, which tell what an artifact was made for."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple, Self

from pydantic import BaseModel, ConfigDict

_CONFIG_FIELDS = (
    "architectures",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "vocab_size",
    "hidden_act",
    "tie_word_embeddings",
)
"""Fields that define the architecture and do not depend on the library that wrote config.json."""


_REQUIRED = ("config_hash", "weights_hash")
"""Fields that every model has; without them, an artifact would fit any model."""

_WEIGHTS = (("*.safetensors",), ("pytorch_model*.bin",), ("*.gguf",), ("*.pt", "*.pth"))
"""Weight files by format; the first format that a folder has is read."""
_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "tekken.json", "vocab.json", "vocab.txt")
_ADAPTER_FILES = ("adapter_model.*", "adapter_config.json")


class ModelIdentity(BaseModel):
    """Fingerprints of a checkpoint folder; None where the folder has no such file."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    config_hash: str | None
    weights_hash: str | None
    tokenizer_hash: str | None
    chat_template_hash: str | None

    @classmethod
    def from_checkpoint(cls, checkpoint: Path) -> Self:
        """Fingerprint a checkpoint folder; reads only samples of the weights."""
        return cls(
            config_hash=_config_hash(checkpoint / "config.json"),
            weights_hash=_weights_hash(checkpoint),
            tokenizer_hash=_tokenizer_hash(checkpoint),
            chat_template_hash=_template_hash(checkpoint),
        )

    @classmethod
    def unknown(cls) -> Self:
        """The identity of a model whose files cannot be read; no artifact fits it."""
        return cls(
            config_hash=None, weights_hash=None, tokenizer_hash=None, chat_template_hash=None
        )

    def mismatch(self, served: "ModelIdentity", *, any_template: bool = False) -> str | None:
        """Say why an artifact with this identity does not fit the served model, or None.

        Args:
            served: Identity of the served model.
            any_template: Whether to accept every chat template.
        """
        for field in ModelIdentity.model_fields:
            if any_template and field == "chat_template_hash":
                continue
            mine, theirs = getattr(self, field), getattr(served, field)
            if mine is None and (theirs is not None or field in _REQUIRED):
                return f"manifest.json: identity.{field} is null: made for an unknown model"
            if theirs is None and field in _REQUIRED:
                return f"the served model has no {field}: its files cannot be read"
            if mine != theirs:
                return f"made for another model: {field} differs"
        return None


class Adapter(NamedTuple):
    """A LoRA adapter that a request names as its model."""

    name: str
    hash: str | None
    """From `adapter_hash`; None if its files cannot be read."""


def adapter_hash(folder: Path) -> str | None:
    """Fingerprint a LoRA adapter, or None if the folder has none; reads samples of the weights."""
    files = [file for pattern in _ADAPTER_FILES for file in sorted(folder.glob(pattern))]
    return _sampled_hash(files) if any(file.suffix != ".json" for file in files) else None


def text_hash(text: str) -> str:
    """The sha256 of a text, such as a chat template."""
    return hashlib.sha256(text.encode()).hexdigest()


def _config_hash(path: Path) -> str | None:
    if not path.is_file():
        return None
    config = json.loads(path.read_text())
    chosen = {field: config.get(field) for field in _CONFIG_FIELDS}
    return hashlib.sha256(json.dumps(chosen, sort_keys=True).encode()).hexdigest()


def _file_hash(path: Path) -> str | None:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None


def _tokenizer_hash(checkpoint: Path) -> str | None:
    hashes = (_file_hash(checkpoint / name) for name in _TOKENIZERS)
    return next((one for one in hashes if one is not None), None)


def _template_hash(checkpoint: Path) -> str | None:
    """Hash the template's file or, before transformers 4.52, its entry in tokenizer_config.json."""
    file, config = checkpoint / "chat_template.jinja", checkpoint / "tokenizer_config.json"
    if file.is_file() or not config.is_file():
        return _file_hash(file)
    template = json.loads(config.read_text()).get("chat_template")
    if template is None:
        return None
    return text_hash(template if isinstance(template, str) else json.dumps(template))


def _weights_hash(checkpoint: Path) -> str | None:
    for patterns in _WEIGHTS:
        files = sorted({file for pattern in patterns for file in checkpoint.glob(pattern)})
        if files:
            return _sampled_hash(files)
    return None


def _sampled_hash(files: Iterable[Path]) -> str:
    """Hash name, size and 32 evenly spread blocks of every file.

    Finetuning moves every block a little, so a sample tells a tuned model from its base without
    reading gigabytes at start-up.
    """
    digest = hashlib.sha256()
    for file in files:
        size = file.stat().st_size
        digest.update(f"{file.name}:{size}".encode())
        with file.open("rb") as handle:
            for block in range(32):
                handle.seek(size * block // 32)
                digest.update(handle.read(4096))
    return digest.hexdigest()
