"""What a server knows about the model it serves, as far as artifacts must fit it."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from probes.artifact import Adapter, ModelIdentity, adapter_hash

logger = logging.getLogger("vllm.entrostat")


class ModelFacts(NamedTuple):
    """What artifacts must fit beside the identity of the served model."""

    hidden_size: int
    dtype: torch.dtype = torch.float32
    """Type of the activations."""
    num_layers: int | None = None
    """Decoder layers; None does not check the layers of vectors."""
    family: str | None = None
    """Class of the loaded model, which only a worker knows; None does not check it."""
    steered: Sequence[int] | None = None
    """Layers that can be steered; None for those of the vectors."""


def cache_block_size(vllm_config: Any) -> int:
    """Tokens of the least part of the prefix cache that requests share; 0 if it is switched off."""
    cache = vllm_config.cache_config
    return int(cache.prefix_match_unit or cache.block_size) if cache.enable_prefix_caching else 0


def served_identity(model_config: Any) -> ModelIdentity:
    """Fingerprint the served model; unknown if its files are not on this machine."""
    checkpoint = Path(model_config.model)
    try:
        if checkpoint.is_file():  # a single file of weights, such as GGUF
            checkpoint = checkpoint.parent
        elif not checkpoint.is_dir():
            checkpoint = local_folder(model_config.model, model_config.revision)
        return ModelIdentity.from_checkpoint(checkpoint)
    except Exception as error:  # vLLM reads from more places than we do: it may serve all the same
        logger.warning("entrostat: no artifact is used: the model's files are not here: %s", error)
        return ModelIdentity.unknown()


def local_folder(name: str, revision: str | None = None) -> Path:
    """Folder of a model or an adapter: its path, or the copy that vLLM downloaded from the hub.

    Raises:
        Exception: It is not on this machine.
    """
    folder = Path(name)
    if folder.is_dir():
        return folder
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(name, revision=revision, local_files_only=True))


class LoadedAdapter(NamedTuple):
    """A LoRA adapter that vLLM has loaded."""

    request: Any
    """vLLM's `LoRARequest`, a new object whenever the adapter is loaded."""
    adapter: Adapter


_adapters: dict[str, LoadedAdapter] = {}
"""The adapters of this API server whose files were read."""


def find_adapter(name: str | None, loaded: Mapping[str, Any]) -> LoadedAdapter | None:
    """Return a LoRA adapter; its files are read once for each time that it is loaded.

    Args:
        name: Name of a model.
        loaded: vLLM's adapters, by name.

    Returns:
        None if no adapter has this name.
    """
    if name is None or name not in loaded:
        return None
    known = _adapters.get(name)
    if known is None or known.request is not loaded[name]:
        known = LoadedAdapter(loaded[name], Adapter(name, _adapter_hash(loaded[name].lora_path)))
        _adapters[name] = known
    return known


def _adapter_hash(path: str) -> str | None:
    try:
        return adapter_hash(local_folder(path))
    except Exception as error:  # no artifact then fits the adapter; requests without one go on
        logger.warning("entrostat: no artifact fits the adapter %s: %s", path, error)
        return None
