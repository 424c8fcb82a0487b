"""Import and export of steering vectors in the formats of other programs."""

import re
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

from probes.artifact import Artifact, ArtifactError, Manifest, package_versions
from probes.steering import SteeringSpec, tensor_name
from training.common.errors import TrainingError
from training.common.job import check_name, make_writable, model_identity
from training.common.prompts import load_prompts
from training.steering.gguf import ControlVector, read_control_vector, write_control_vector
from training.steering.model import LoadedModel, load_model
from training.steering.reader import EpisodeReader, tokenize_episode
from training.steering.tasks import neutral_step
from training.steering.token_tree import decoder_layers

_PROMPTS = 24


def export_gguf(folder: Path, file: Path, strength: float | None) -> None:
    """Write a steering vector as a control vector.

    Args:
        folder: Of the artifact.
        file: To write.
        strength: To scale the directions to, in multiples of the stream's norm.

    Raises:
        TrainingError: It is not a steering vector, or the file cannot be written.
    """
    try:
        artifact = Artifact.load(folder.resolve())
    except ArtifactError as error:
        raise TrainingError(str(error)) from error
    spec = artifact.manifest.steering
    if spec is None:
        raise TrainingError(f"{artifact.id} is a {artifact.manifest.kind}, not a steering vector")
    directions = {layer: artifact.tensors[tensor_name(layer)] for layer in spec.norms}
    if strength is not None:
        directions = {
            layer: direction * (strength * spec.norms[layer] / float(direction.norm()))
            for layer, direction in directions.items()
        }
    hint = str(artifact.manifest.settings.get("model_type", artifact.manifest.model))
    write_control_vector(file, directions, hint)


def import_gguf(
    file: Path,
    name: str,
    model: Path | None,
    out: Path,
    note: Callable[[str], None],
    *,
    force: bool = False,
) -> Path:
    """Import a control vector as a steering vector.

    Args:
        file: To read.
        name: Id of the artifact.
        model: Folder of the model it was made for; None means the embedded one.
        out: Folder of artifacts.
        note: Called with a message for each layer that is skipped.
        force: Import a vector whose file names another architecture than the model's.

    Returns:
        The artifact's folder.

    Raises:
        TrainingError: The file is not a control vector, or does not fit the model.
    """
    check_name(name)
    vector = read_control_vector(file)
    if vector.zero_layers:
        note(f"left out, because the direction is zero: layers {vector.zero_layers}")
    make_writable(out)
    loaded = load_model(model)
    _check_fit(file, vector, loaded, force=force)
    layers = sorted(vector.directions)
    norms = _stream_norms(loaded, layers)
    manifest = Manifest(
        kind="steering-vector",
        model=loaded.name,
        identity=model_identity(loaded.folder),
        data_hash=sha256(file.read_bytes()).hexdigest(),
        seed=0,
        versions=package_versions("entrostat", "transformers", "safetensors", "gguf"),
        settings={"file": file.name, "model_type": vector.model_type},
        steering=SteeringSpec(features=loaded.model.config.hidden_size, norms=norms),
    )
    tensors = {tensor_name(layer): vector.directions[layer] for layer in layers}
    return Artifact(id=name, manifest=manifest, tensors=tensors).save(out)


def _check_fit(file: Path, vector: ControlVector, loaded: LoadedModel, *, force: bool) -> None:
    config = loaded.model.config
    if vector.model_type and not force and not same_architecture(vector.model_type, config):
        raise TrainingError(
            f"{file}: was made for the architecture `{vector.model_type}`, the model is "
            f"`{config.model_type}`: add --force to import it nevertheless"
        )
    width = len(next(iter(vector.directions.values())))
    if width != config.hidden_size:
        raise TrainingError(
            f"{file}: its directions have {width} numbers, the model's hidden size is "
            f"{config.hidden_size}"
        )
    last, number = max(vector.directions), len(decoder_layers(loaded.model))
    if last >= number:
        raise TrainingError(
            f"{file}: `direction.{last}`: the model has no layer {last}, its layers are 0 to "
            f"{number - 1}"
        )


_LLAMA_CPP_NAMES = {"mistral": "llama", "mixtral": "llama"}
"""Architectures with other names in llama.cpp than in transformers."""


def same_architecture(hint: str, config: Any) -> bool:
    """Whether a file's `model_hint` names the architecture of a model of transformers."""
    names = {config.model_type, _LLAMA_CPP_NAMES.get(config.model_type, config.model_type)}

    def normalize_name(name: str) -> str:
        return re.sub(r"[^a-z0-9]", "", name.lower().removesuffix("_text"))

    return normalize_name(hint) in {normalize_name(name) for name in names}


def _stream_norms(loaded: LoadedModel, layers: list[int]) -> dict[int, float]:
    """Mean norm of the residual stream after each layer, at the last tokens of some prompts."""
    prompts = load_prompts(None)[:_PROMPTS]
    steps = [tokenize_episode(loaded.tokenizer, [neutral_step(prompt)]) for prompt in prompts]
    _, states = EpisodeReader(loaded.model, steps).states(layers)
    norms = states.double().norm(dim=-1).mean(0).tolist()
    return dict(zip(layers, norms, strict=True))
