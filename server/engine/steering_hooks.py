"""Steering in the compiled graph: forward hooks and the tables that they read.

The tables keep their addresses, which are part of the compiled graph: a request changes numbers and
never code. Row 0 of every table is that of tokens without steering, whose values pass unchanged,
bit by bit.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from probes.steering import STEERABLE_MODELS, stream_limit
from server.engine.step import update_on_device

HOOKS_VERSION = 2
"""Part of the key of vLLM's compile cache: raise it when a hook changes."""


class LayerSteering(NamedTuple):
    """One row of a layer's table."""

    total: Tensor
    """Added to the residual stream, float32, shape (hidden,)."""
    direction: Tensor | None = None
    """Unit vector along which the stream is clamped, float32, shape (hidden,)."""
    low: float = -torch.inf
    high: float = torch.inf


class LayerTable:
    """The steering rows of one decoder layer, and the hook that applies them."""

    def __init__(self, layer: nn.Module, num_rows: int, stream: Tensor, rows: Tensor) -> None:
        """Register the hook.

        Args:
            layer: A decoder layer of a loaded model that is not compiled yet.
            num_rows: Rows of the table, row 0 included.
            stream: Any tensor with the type, device and last dimension of the residual stream.
            rows: Row of every token of a step, int64, shape (tokens,); shared by all layers.
        """
        self._sum = stream.new_zeros(num_rows, stream.shape[-1])
        self._direction = torch.zeros_like(self._sum)
        self._low = torch.full((num_rows, 1), -torch.inf, device=stream.device)
        self._high = torch.full((num_rows, 1), torch.inf, device=stream.device)
        # Buffers of the layer, so that the compiler takes them as inputs and not as constants.
        for name, tensor in (
            ("steering_rows", rows),
            ("steering_sum", self._sum),
            ("steering_direction", self._direction),
            ("steering_low", self._low),
            ("steering_high", self._high),
        ):
            layer.register_buffer(name, tensor, persistent=False)
        layer.register_forward_hook(steer_stream)

    @property
    def hidden_size(self) -> int:
        """Size of the residual stream."""
        return self._sum.shape[1]

    def clear(self, row: int) -> None:
        """Reset a row, so that it changes nothing."""
        self._sum[row] = 0.0
        self._direction[row] = 0.0
        self._low[row], self._high[row] = -torch.inf, torch.inf

    def write(self, row: int, steering: LayerSteering) -> None:
        """Fill a row. What it is filled with is on the host, where checking it waits for nothing.

        Raises:
            ValueError: A number is not finite in the type of the residual stream.
        """
        dtype = self._sum.dtype
        total = steering.total.to(dtype)
        direction = None if steering.direction is None else steering.direction.to(dtype)
        for part in (total, direction):
            if part is not None and not bool(part.isfinite().all()):
                raise ValueError(f"steering is not finite in {dtype}")
        self.clear(row)
        update_on_device(self._sum[row], total)
        if direction is not None:
            update_on_device(self._direction[row], direction)
            self._low[row], self._high[row] = steering.low, steering.high


def steer_stream(layer: Any, inputs: Any, output: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Forward hook of a steered decoder layer.

    The residual stream after the layer is hidden + residual: adding to one of them adds to it,
    reading it takes both. A steered stream is bounded by `stream_limit`: an overflow would reach
    the KV cache, whose blocks other requests use later.
    """
    hidden, residual = output
    rows = layer.steering_rows[: hidden.shape[0]]
    limit = stream_limit(hidden.dtype)
    moved = hidden.float() + layer.steering_sum[rows].float()
    stream = moved + residual.float()
    direction = layer.steering_direction[rows].float()
    along = (_bounded(stream, limit) * direction).sum(-1, keepdim=True)
    held = along.clamp(layer.steering_low[rows], layer.steering_high[rows])
    shift = (held - along) * direction
    stream = stream + shift
    # Within the limit the sum stays exact: going through the residual would round it.
    inside = stream.abs() <= limit
    moved = torch.where(inside, moved + shift, _bounded(stream, limit) - residual.float())
    moved = _bounded(moved, torch.finfo(hidden.dtype).max).to(hidden.dtype)
    return torch.where((rows > 0).unsqueeze(-1), moved, hidden), residual


def keep_finite(attention: Any, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """Forward pre-hook of an attention module behind a steered layer: finite keys and values.

    A layer in between can still overflow on a stream that steering moved far away. What it does to
    the steered answer stays there; a NaN in a block of the KV cache would reach the next request
    that the block is given to, whose masked positions are multiplied by 0 and not skipped.
    """
    query, key, value, *rest = inputs
    limit = stream_limit(query.dtype)
    key, value = (
        None if part is None else part.nan_to_num(nan=0.0, posinf=limit, neginf=-limit)
        for part in (key, value)
    )
    return query, key, value, *rest


def _bounded(values: Tensor, limit: float) -> Tensor:
    return values.nan_to_num(nan=0.0, posinf=limit, neginf=-limit).clamp(-limit, limit)


def decoder_layers(model: Any, wanted: Sequence[int]) -> dict[int, nn.Module]:
    """The decoder layers with these numbers that are on this rank.

    Raises:
        ValueError: The model is of an unknown family, or has no such layer.
    """
    family = type(model).__name__
    if family not in STEERABLE_MODELS:
        raise ValueError(
            f"steering is not supported for {family}: remove its vectors, or serve one of "
            f"{', '.join(STEERABLE_MODELS)}"
        )
    inner = model.model
    layers = inner.layers
    if missing := [number for number in wanted if not 0 <= number < len(layers)]:
        raise ValueError(
            f"there is no layer {missing[0]}: the model's layers are 0 to {len(layers) - 1}"
        )
    return {
        number: layers[number] for number in wanted if inner.start_layer <= number < inner.end_layer
    }


def guard_attention(model: Any, first: int) -> None:
    """Register `keep_finite` on every attention module of this rank behind layer `first`."""
    inner = model.model
    for number in range(max(first + 1, inner.start_layer), inner.end_layer):
        attention = inner.layers[number].self_attn.attn
        attention.register_forward_pre_hook(keep_finite)
