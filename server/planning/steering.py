"""Steering in the API server: what a request's vectors mean, and who may share a cache."""

import hashlib
import hmac
import json
from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from probes.steering import LayerVector, SteeringVector, fits
from server.errors import BadControl
from server.planning.refusals import refuse_mixed_positions, refuse_two_clamps
from server.wire.report import SteeringReport
from server.wire.request import Steer
from server.worker.message import SteeringMessage, steering_control

if TYPE_CHECKING:
    from server.artifacts import Artifacts

_PARAM = "entropy.steering"
_OWN_SALT = "entrostat:"


class SteeringPlan(NamedTuple):
    """How one request is steered."""

    control: SteeringMessage
    """For the worker."""
    everywhere: bool
    """Whether the whole prompt is steered."""
    reports: list[SteeringReport]

    def salted(self, prompt: Any, secret: str) -> Any:
        """The prompt, kept apart in the prefix cache from all that is steered in another way.

        Steered states must not meet unsteered ones. The key holds the vectors' contents, not their
        names. Where the prompt stays unsteered but for its last token, an answer's states are
        steered while the same tokens in a later turn's prompt are not; so the length of the prompt
        is part of the salt there.

        Args:
            prompt: As vLLM renders it, a mapping with its tokens or their embeddings.
            secret: Of the deployment: without it a client could compute the salt and send it with
                an unsteered request of its own, whose states a steered one would then take over.
        """
        tokens, embeds = prompt.get("prompt_token_ids"), prompt.get("prompt_embeds")
        place = "all" if self.everywhere else str(len(embeds if tokens is None else tokens))
        parts = [self.control["key"], place, prompt.get("cache_salt") or ""]
        digest = hmac.new(secret.encode(), "|".join(parts).encode(), "sha256").hexdigest()
        return {**prompt, "cache_salt": _OWN_SALT + digest}


def unforged(prompt: Any) -> Any:
    """The prompt of an unsteered request, whose client's salt cannot equal one of ours.

    Args:
        prompt: As vLLM renders it; anything else stays as it is.
    """
    salt = prompt.get("cache_salt") if isinstance(prompt, dict) else None
    if not isinstance(salt, str) or not salt.startswith(_OWN_SALT):
        return prompt
    return {**prompt, "cache_salt": "client:" + hashlib.sha256(salt.encode()).hexdigest()}


def plan_steering(wanted: Sequence[Steer], artifacts: "Artifacts") -> SteeringPlan:
    """Resolve vectors and amounts.

    Raises:
        BadControl: A vector is unknown or does not fit, or two contradict each other.
    """
    refuse_mixed_positions(wanted)
    add, clamp, reports = list[Any](), list[Any](), list[SteeringReport]()
    for number, one in enumerate(wanted):
        param = f"{_PARAM}.{number}"
        vector = artifacts.steering_vector(one.vector, f"{param}.vector")
        layers = _layers(one, vector, f"{param}.layers")
        if one.clamp is None:
            add += [(one.vector, layer, _factor(one, vector.layers[layer])) for layer in layers]
        else:
            clamp += [(one.vector, layer, *one.clamp) for layer in layers]
        fields = one.model_dump(exclude={"layers"})
        reports.append(SteeringReport(hash=vector.hash, layers=layers, **fields))
    _refuse_overflow(wanted, reports, artifacts)
    refuse_two_clamps([layer for _, layer, *_ in clamp])
    positions = wanted[0].positions
    said = [report.model_dump(exclude={"vector"}) for report in reports]
    key = hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()
    control = steering_control(key=key, add=add, clamp=clamp, everywhere=positions == "all")
    return SteeringPlan(control, positions == "all", reports)


def _layers(one: Steer, vector: SteeringVector, param: str) -> list[int]:
    known = sorted(vector.layers)
    if one.layers is None:
        return known
    if unknown := sorted(set(one.layers) - set(known)):
        raise BadControl(
            f"`{param}`: `{one.vector}` has no vector for layer {unknown[0]}; it has "
            f"{', '.join(map(str, known))}",
            param,
        )
    return sorted(set(one.layers))


def _factor(one: Steer, layer: LayerVector) -> float:
    if one.strength is not None:
        return one.strength
    assert one.strength_relative is not None
    return one.strength_relative * (layer.stream_norm / layer.norm)


def _refuse_overflow(
    wanted: Sequence[Steer], reports: Sequence[SteeringReport], artifacts: "Artifacts"
) -> None:
    """Refuse amounts that are not finite in the type they are used in, alone or added up.

    Raises:
        BadControl: Naming the first amount that is too large.
    """
    dtype = artifacts.dtype
    totals: dict[int, float] = defaultdict(float)
    for number, (one, report) in enumerate(zip(wanted, reports, strict=True)):
        param = f"{_PARAM}.{number}"
        if one.clamp is not None:
            if not all(fits(bound, dtype) for bound in one.clamp):
                raise _overflow(f"{param}.clamp", dtype)
            continue
        amount = "strength" if one.strength is not None else "strength_relative"
        vector = artifacts.steering_vector(one.vector, f"{param}.vector")
        for layer in report.layers:
            factor = abs(_factor(one, vector.layers[layer]))
            totals[layer] += factor * vector.layers[layer].largest
            if not (fits(factor, torch.float32) and fits(totals[layer], dtype)):
                raise _overflow(f"{param}.{amount}", dtype)


def _overflow(param: str, dtype: torch.dtype) -> BadControl:
    limit = torch.finfo(dtype).max
    return BadControl(
        f"`{param}`: too large for a model in {str(dtype).removeprefix('torch.')}, whose largest "
        f"number is {limit:.4g}; the amounts of all vectors add up",
        param,
    )
