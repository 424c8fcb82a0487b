"""Steering vectors to and from the files of other programs."""

from hashlib import sha256
from pathlib import Path

from probes.artifact import Artifact, ArtifactError, Manifest, package_versions
from probes.steering import SteeringSpec, tensor_name
from training.common.errors import TrainingError
from training.common.job import check_name, identify, make_writable
from training.common.prompts import load_prompts
from training.steering.gguf import read_control_vector, write_control_vector
from training.steering.model import load_model
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
        TrainingError: It is no steering vector, or the file cannot be written.
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


def import_gguf(file: Path, name: str, model: Path | None, out: Path) -> Path:
    """Make a steering vector of a control vector.

    Args:
        file: To read.
        name: Id of the artifact.
        model: Folder of the model it was made for; None means the embedded one.
        out: Folder of artifacts.

    Returns:
        The artifact's folder.

    Raises:
        TrainingError: The file is none, or does not fit the model.
    """
    check_name(name)
    vector = read_control_vector(file)
    make_writable(out)
    loaded = load_model(model)
    config = loaded.model.config
    width = len(next(iter(vector.directions.values())))
    if width != config.hidden_size:
        raise TrainingError(
            f"{file}: its directions have {width} entries, the model's stream {config.hidden_size}"
        )
    layers, number = sorted(vector.directions), len(decoder_layers(loaded.model))
    if layers[-1] >= number:
        raise TrainingError(
            f"{file}: there is no layer {layers[-1]}: the model's layers are 0 to {number - 1}"
        )
    prompts = load_prompts(None)[:_PROMPTS]
    steps = [tokenize_episode(loaded.tokenizer, [neutral_step(prompt)]) for prompt in prompts]
    _, states = EpisodeReader(loaded.model, steps).states(layers)
    norms = states.double().norm(dim=-1).mean(0).tolist()
    manifest = Manifest(
        kind="steering-vector",
        model=loaded.name,
        identity=identify(loaded.folder),
        data_hash=sha256(file.read_bytes()).hexdigest(),
        seed=0,
        versions=package_versions("entrostat", "transformers", "safetensors", "gguf"),
        settings={"file": file.name, "model_type": vector.model_type},
        steering=SteeringSpec(features=width, norms=dict(zip(layers, norms, strict=True))),
    )
    tensors = {tensor_name(layer): vector.directions[layer] for layer in layers}
    return Artifact(id=name, manifest=manifest, tensors=tensors).save(out)
