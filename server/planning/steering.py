"""Steering in the API server: what a request's vectors mean, and who may share a cache."""

import hashlib
import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from vllm.utils import length_from_prompt_token_ids_or_embeds

from probes.artifact import Artifact
from probes.steering import contents_hash, tensor_name
from server.artifacts import Artifacts
from server.errors import BadControl
from server.wire.request import Steer, SteeringReport
from server.worker.message import steering_control

_PARAM = "entropy.steering"


class SteeringPlan(NamedTuple):
    """How one request is steered."""

    control: dict[str, Any]
    """For the worker."""
    everywhere: bool
    """Whether the whole prompt is steered."""
    reports: list[SteeringReport]

    def salted(self, prompt: Any) -> Any:
        """The prompt, kept apart in the prefix cache from all that is steered in another way.

        Steered states must not meet unsteered ones. The key holds the vectors' contents, not their
        names. Where the prompt stays unsteered but for its last token, an answer's states are
        steered while the same tokens in a later turn's prompt are not; so the length of the prompt
        is part of the salt there.

        Args:
            prompt: As vLLM renders it, a mapping with its tokens or their embeddings.
        """
        tokens, embeds = prompt.get("prompt_token_ids"), prompt.get("prompt_embeds")
        length = length_from_prompt_token_ids_or_embeds(tokens, embeds)
        place = "all" if self.everywhere else str(length)
        parts = [self.control["key"], place, prompt.get("cache_salt") or ""]
        return {**prompt, "cache_salt": hashlib.sha256("|".join(parts).encode()).hexdigest()}


def plan_steering(wanted: Sequence[Steer], artifacts: Artifacts) -> SteeringPlan:
    """Resolve vectors and amounts.

    Raises:
        BadControl: A vector is unknown or does not fit, or two contradict each other.
    """
    everywhere = {one.positions for one in wanted}
    if len(everywhere) > 1:
        param = f"{_PARAM}.positions"
        raise BadControl(f"`{param}`: the vectors of a request have the same positions", param)
    add, clamp, reports = list[Any](), list[Any](), list[SteeringReport]()
    for number, one in enumerate(wanted):
        param = f"{_PARAM}.{number}"
        artifact = artifacts.steering_vector(one.vector, f"{param}.vector")
        layers = _layers(one, artifact, f"{param}.layers")
        if one.clamp is None:
            add += [(one.vector, layer, _factor(one, artifact, layer)) for layer in layers]
        else:
            clamp += [(one.vector, layer, *one.clamp) for layer in layers]
        digest = contents_hash(artifact.tensors)
        fields = one.model_dump(exclude={"layers"})
        reports.append(SteeringReport(hash=digest, layers=layers, **fields))
    held = [layer for _, layer, *_ in clamp]
    if len(held) != len(set(held)):
        raise BadControl(f"`{_PARAM}`: a layer can be clamped along one vector only", _PARAM)
    positions = everywhere.pop()
    said = [report.model_dump(exclude={"vector"}) for report in reports]
    key = hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()
    control = steering_control(key=key, add=add, clamp=clamp, everywhere=positions == "all")
    return SteeringPlan(control, positions == "all", reports)


def _layers(one: Steer, artifact: Artifact, param: str) -> list[int]:
    assert artifact.manifest.steering is not None  # no other vector is usable
    known = sorted(artifact.manifest.steering.norms)
    if one.layers is None:
        return known
    if unknown := sorted(set(one.layers) - set(known)):
        raise BadControl(
            f"`{param}`: `{one.vector}` has no vector for layer {unknown[0]}; it has "
            f"{', '.join(map(str, known))}",
            param,
        )
    return sorted(set(one.layers))


def _factor(one: Steer, artifact: Artifact, layer: int) -> float:
    if one.strength is not None:
        return one.strength
    assert one.strength_relative is not None
    assert artifact.manifest.steering is not None
    norm = float(artifact.tensors[tensor_name(layer)].float().norm())
    return one.strength_relative * artifact.manifest.steering.norms[layer] / norm
