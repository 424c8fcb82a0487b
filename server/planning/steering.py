"""Resolves the control `steering` to vectors, factors and a prefix-cache salt."""

import hashlib
import hmac
import json
from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from probes.steering import LayerVector, SteeringVector, is_representable
from server.errors import BadControl
from server.planning.refusals import refuse_mixed_positions, refuse_two_clamps
from server.wire.report import SteeringReport
from server.wire.request import Steer
from server.worker.message import SteeringMessage, steering_control

if TYPE_CHECKING:
    from probes.artifact import Adapter
    from server.artifacts import Artifacts

_PARAM = "entropy.steering"
_OWN_SALT = "entrostat:"


class SteeringPlan(NamedTuple):
    """How one request is steered."""

    control: SteeringMessage
    """Steering control for the worker."""
    everywhere: bool
    """Whether all prompt positions are steered, not only the last."""
    reports: list[SteeringReport]

    def add_cache_salt(
        self, prompt: Any, secret: str, max_tokens: int | None = None, block_size: int = 0
    ) -> Any:
        """Add a cache salt, so that differently steered requests share no KV blocks.

        The salt depends on the contents of the vectors, not on their names. If only the last prompt
        token is steered, the states of an answer are steered but those of the same tokens in a
        later prompt are not; the salt then includes the length of the prompt. An answer so short
        that no block with a steered state fills up leaves only unsteered blocks behind: its prompt
        shares them with unsteered requests.

        Args:
            prompt: Prompt as rendered by vLLM: a mapping with token ids or embeddings.
            secret: Secret of the deployment. Without it, a client could compute the salt, send it
                with an unsteered request and so inject unsteered states into steered ones.
            max_tokens: Most tokens of an answer.
            block_size: Tokens of a block of the prefix cache; 0 if it is switched off or unknown.
        """
        tokens, embeds = prompt.get("prompt_token_ids"), prompt.get("prompt_embeds")
        length = len(embeds if tokens is None else tokens)
        if block_size and max_tokens is not None and not self.everywhere:
            first_steered = (length - 1) // block_size
            if (length + max_tokens) // block_size <= first_steered:
                return mark_unsteered(prompt)
        place = "all" if self.everywhere else str(length)
        parts = [self.control["key"], place, prompt.get("cache_salt") or ""]
        digest = hmac.new(secret.encode(), "|".join(parts).encode(), "sha256").hexdigest()
        return {**prompt, "cache_salt": _OWN_SALT + digest}


def mark_unsteered(prompt: Any) -> Any:
    """Return the prompt of an unsteered request with a salt that no steered request uses.

    Args:
        prompt: Prompt as rendered by vLLM; other types are returned unchanged.
    """
    salt = prompt.get("cache_salt") if isinstance(prompt, dict) else None
    if not isinstance(salt, str) or not salt.startswith(_OWN_SALT):
        return prompt
    return {**prompt, "cache_salt": "client:" + hashlib.sha256(salt.encode()).hexdigest()}


def plan_steering(
    wanted: Sequence[Steer], artifacts: "Artifacts", adapter: "Adapter | None" = None
) -> SteeringPlan:
    """Resolve vectors and amounts.

    Args:
        wanted: Vectors and amounts of the request.
        artifacts: Artifacts of the served model.
        adapter: LoRA adapter that the request names as its model.

    Raises:
        BadControl: A vector is unknown or incompatible, or two vectors contradict each other.
    """
    refuse_mixed_positions(wanted)
    add, clamp, reports = list[Any](), list[Any](), list[SteeringReport]()
    for number, one in enumerate(wanted):
        param = f"{_PARAM}.{number}"
        vector = artifacts.steering_vector(one.vector, f"{param}.vector", adapter)
        layers = _layers(one, vector, f"{param}.layers")
        if one.clamp is None:
            add += [
                (one.vector, layer, _strength_per_norm(one, vector.layers[layer]))
                for layer in layers
            ]
        else:
            clamp += [(one.vector, layer, *one.clamp) for layer in layers]
        fields = one.model_dump(exclude={"layers"})
        reports.append(SteeringReport(hash=vector.hash, layers=layers, **fields))
    _refuse_overflow(wanted, reports, artifacts, adapter)
    refuse_two_clamps([layer for _, layer, *_ in clamp])
    positions = wanted[0].positions
    contents = [report.model_dump(exclude={"vector"}) for report in reports]
    key = hashlib.sha256(json.dumps(contents, sort_keys=True).encode()).hexdigest()
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


def _strength_per_norm(one: Steer, layer: LayerVector) -> float:
    if one.strength is not None:
        return one.strength
    assert one.strength_relative is not None
    return one.strength_relative * (layer.stream_norm / layer.norm)


def _refuse_overflow(
    wanted: Sequence[Steer],
    reports: Sequence[SteeringReport],
    artifacts: "Artifacts",
    adapter: "Adapter | None",
) -> None:
    """Refuse amounts that overflow the dtype of the model, alone or summed.

    Raises:
        BadControl: Names the first amount that is too large.
    """
    dtype = artifacts.dtype
    totals: dict[int, float] = defaultdict(float)
    for number, (one, report) in enumerate(zip(wanted, reports, strict=True)):
        param = f"{_PARAM}.{number}"
        if one.clamp is not None:
            if not all(is_representable(bound, dtype) for bound in one.clamp):
                raise _overflow(f"{param}.clamp", dtype)
            continue
        amount = "strength" if one.strength is not None else "strength_relative"
        vector = artifacts.steering_vector(one.vector, f"{param}.vector", adapter)
        for layer in report.layers:
            factor = abs(_strength_per_norm(one, vector.layers[layer]))
            totals[layer] += factor * vector.layers[layer].largest
            if not (
                is_representable(factor, torch.float32) and is_representable(totals[layer], dtype)
            ):
                raise _overflow(f"{param}.{amount}", dtype)


def _overflow(param: str, dtype: torch.dtype) -> BadControl:
    limit = torch.finfo(dtype).max
    return BadControl(
        f"`{param}`: too large for a model in {str(dtype).removeprefix('torch.')}, whose largest "
        f"number is {limit:.4g}; the amounts of all vectors add up",
        param,
    )
