"""Why an artifact cannot be used with the served model."""

from probes.artifact import Manifest
from probes.artifact.contents import Contents
from probes.steering import STEERABLE_MODELS, SteeringVector
from server.served_model import ModelFacts


def misfit(manifest: Manifest, contents: Contents, model: ModelFacts) -> str | None:
    """Why a well-formed artifact cannot be used with this model; None if it can."""
    if isinstance(contents, SteeringVector):
        assert manifest.steering is not None
        if manifest.steering.features != model.hidden_size:
            return (
                f"manifest.json: steering.features is {manifest.steering.features}, the model's "
                f"hidden size is {model.hidden_size}"
            )
        return _unfit_vector(contents, model)
    read = None if manifest.confidence is None else manifest.confidence.state
    if read is not None and (reason := read.unreadable(model.hidden_size)):
        return f"manifest.json: confidence.state.{reason}"
    if manifest.probe is not None and (reason := manifest.probe.unreadable(model.hidden_size)):
        return f"manifest.json: probe.{reason}"
    return None


def _unfit_vector(vector: SteeringVector, model: ModelFacts) -> str | None:
    if model.family is not None and model.family not in STEERABLE_MODELS:
        known = ", ".join(STEERABLE_MODELS)
        return f"steering is not supported for {model.family}, only for {known}"
    for number, layer in vector.layers.items():
        if model.num_layers is not None and number >= model.num_layers:
            return (
                f"manifest.json: steering.norms.{number}: the model's layers are 0 to "
                f"{model.num_layers - 1}"
            )
        if (reason := layer.unusable(model.dtype)) is not None:
            return f"weights.safetensors: the tensor `layer_{number}` {reason}"
        if model.steered is not None and number not in model.steered:
            return f"manifest.json: steering.norms.{number}: not among --steering-layers"
    return None
