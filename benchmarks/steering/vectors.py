"""Random steering vectors for measurements that are not about what they mean."""

from pathlib import Path

import torch

from probes.artifact import Artifact, Manifest, ModelIdentity
from probes.steering import SteeringSpec, tensor_name
from server.commands.default_model import DEFAULT_MODEL


def vector_name(number: int) -> str:
    """Id of the artifact."""
    return f"{DEFAULT_MODEL}/random-{number}"


def random_vectors(size: int, layers: list[int], number: int) -> dict[int, torch.Tensor]:
    """Standard normal, by layer; the same ones for the same number."""
    draw = torch.Generator().manual_seed(number)
    return {layer: torch.randn(size, generator=draw) for layer in layers}


def save_random(root: Path, checkpoint: Path, layers: list[int], count: int) -> None:
    """Write so many artifacts for the default model below a folder."""
    from transformers import AutoConfig

    size = AutoConfig.from_pretrained(checkpoint).hidden_size
    for number in range(count):
        manifest = Manifest(
            kind="steering-vector",
            model=DEFAULT_MODEL,
            identity=ModelIdentity.from_checkpoint(checkpoint),
            data_hash="none",
            seed=number,
            steering=SteeringSpec(features=size, norms=dict.fromkeys(layers, 1.0)),
        )
        vectors = random_vectors(size, layers, number)
        tensors = {tensor_name(layer): vector for layer, vector in vectors.items()}
        Artifact(id=vector_name(number), manifest=manifest, tensors=tensors).save(root)
