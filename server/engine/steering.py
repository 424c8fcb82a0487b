"""Steering in the worker: what each token of the batch adds to the residual stream, by layer.

Tables stand still: their addresses are part of the compiled graph, so a request changes numbers,
never code. A steered layer reads, for every token, the row of its table that the token belongs to;
row 0 adds nothing and clamps nothing, and it is what tokens without steering read.
"""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

FAMILIES = (
    "GemmaForCausalLM",
    "Gemma2ForCausalLM",
    "Gemma3ForCausalLM",
    "LlamaForCausalLM",
    "MistralForCausalLM",
    "Qwen2ForCausalLM",
    "Qwen3ForCausalLM",
)
"""Models whose decoder layers return the residual stream in two parts, hidden and residual."""
Vectors = Mapping[str, Mapping[int, Tensor]]
"""By artifact id, then by layer; shape (hidden,)."""


class Size(NamedTuple):
    """How large the tables are; all of it is part of the compiled graph."""

    slots: int
    """Requests in a batch."""
    rows: int
    """Kinds of steering in the tables at once."""
    tokens: int
    """In a step, those that pad it included."""


def num_rows(slots: int, admitted: int | None) -> int:
    """Rows that no coming and going of requests can exhaust.

    The API servers hold back a new kind of steering until one of the admitted kinds has no request
    left. They know that before the worker does: of a request that ends at a stop string it hears
    only with the next output. So while a new kind is seated, all that it replaces may still be
    there, but each of them once: twice the admitted kinds are enough. So are as many as there are
    requests in a batch.

    Args:
        slots: Requests in a batch.
        admitted: Kinds in use at once, over all API servers; None if nobody is held back.
    """
    return slots if admitted is None else min(2 * admitted, slots)


class SteeringControl:
    """Tables, and who reads which row of them."""

    def __init__(
        self,
        size: Size,
        layers: Mapping[int, nn.Module],
        vectors: Vectors,
        stream: Tensor,
    ) -> None:
        """Hook into the layers of a loaded model.

        Args:
            size: Of the tables.
            layers: The decoder layers to steer, by number.
            vectors: What requests may name.
            stream: Any tensor of the residual stream's type, device and, at the end, size.
        """
        self._vectors = vectors
        self._rows = torch.zeros(size.tokens, dtype=torch.int64, device=stream.device)
        self._tables = {
            number: Table(layer, size.rows + 1, stream, self._rows)
            for number, layer in layers.items()
        }
        self._free = list(range(size.rows, 0, -1))
        self._known: OrderedDict[str, int] = OrderedDict()
        """Row of every steering in the tables, the longest unused first."""
        self._users = np.zeros(size.rows + 1, dtype=np.int64)
        self._row = np.zeros(size.slots, dtype=np.int64)
        self._everywhere = np.zeros(size.slots, dtype=bool)
        self._marked = 0
        """Tokens at the front of `_rows` that may not be 0."""

    # -- slots -----------------------------------------------------------------------------

    def add(self, slot: int, control: Mapping[str, Any] | None) -> None:
        """Seat a request.

        Args:
            slot: Where.
            control: From `steering_control`; None seats a request without steering.
        """
        self.remove(slot)
        if control is None:
            return
        row = self._known.get(control["key"])
        if row is None:
            row = self._take_row()
            self._write(row, control)
            self._known[control["key"]] = row
        self._known.move_to_end(control["key"])
        self._users[row] += 1
        self._row[slot] = row
        self._everywhere[slot] = control["all"]

    def remove(self, slot: int) -> None:
        """Forget whoever sits there; the row is kept for the next one of its kind."""
        self._users[self._row[slot]] -= 1
        self._row[slot] = 0

    def swap(self, one: int, two: int) -> None:
        """Exchange two slots."""
        for column in (self._row, self._everywhere):
            column[[one, two]] = column[[two, one]]

    def steered(self) -> list[int]:
        """The slots of steered requests."""
        slots: list[int] = np.flatnonzero(self._row).tolist()
        return slots

    def _take_row(self) -> int:
        if self._free:
            return self._free.pop()
        for key, row in self._known.items():
            if self._users[row] == 0:
                del self._known[key]
                return row
        raise AssertionError("more kinds of steering than were admitted")  # see `num_rows`

    def _write(self, row: int, control: Mapping[str, Any]) -> None:
        for table in self._tables.values():
            table.clear(row)
        for name, layer, factor in control["add"]:
            if layer in self._tables:  # else on another pipeline stage
                self._tables[layer].add(row, self._vectors[name][layer], factor)
        for name, layer, low, high in control["clamp"]:
            if layer in self._tables:
                self._tables[layer].clamp(row, self._vectors[name][layer], low, high)

    # -- the step --------------------------------------------------------------------------

    def mark(
        self,
        slots: NDArray[np.int64],
        starts: NDArray[np.int64],
        counts: NDArray[np.int64],
        prompts: NDArray[np.int64],
    ) -> None:
        """Say which row every token of the coming step reads. Without steering: nothing.

        Args:
            slots: Of the step's requests, in the order of their tokens.
            starts: Tokens of each that are computed already.
            counts: Tokens of each in this step.
            prompts: Tokens of each one's prompt.
        """
        rows = self._row[slots]
        total = int(counts.sum()) if rows.any() else 0
        if stale := max(total, self._marked):
            reads = np.zeros(stale, dtype=np.int64)
            if total:
                offsets = np.arange(total) - np.repeat(counts.cumsum() - counts, counts)
                positions = offsets + np.repeat(starts, counts)
                first = np.where(self._everywhere[slots], 0, prompts - 1)
                steered = positions >= np.repeat(first, counts)
                reads[:total] = np.where(steered, np.repeat(rows, counts), 0)
            # A fresh pageable array: the one before may still be on its way to the device.
            self._rows[:stale].copy_(torch.from_numpy(reads), non_blocking=True)
            self._marked = total


class Table:
    """One layer's numbers, and the hook that reads them."""

    def __init__(self, layer: nn.Module, num_rows: int, stream: Tensor, rows: Tensor) -> None:
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
        layer.register_forward_hook(_steer)

    def clear(self, row: int) -> None:
        """Make a row add nothing."""
        self._sum[row] = 0.0
        self._direction[row] = 0.0
        self._low[row], self._high[row] = -torch.inf, torch.inf

    def add(self, row: int, vector: Tensor, factor: float) -> None:
        """Add a multiple of a vector to a row."""
        self._sum[row] += (vector.float() * factor).to(self._sum)

    def clamp(self, row: int, vector: Tensor, low: float, high: float) -> None:
        """Hold the stream's component along a vector inside a band."""
        self._direction[row] = (vector.float() / vector.float().norm()).to(self._direction)
        self._low[row], self._high[row] = low, high


def _steer(layer: Any, inputs: Any, output: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Forward hook of a decoder layer; traced into the compiled graph.

    The residual stream behind the layer is hidden + residual: adding to one of them adds to it,
    reading it takes both.
    """
    hidden, residual = output
    rows = layer.steering_rows[: hidden.shape[0]]
    moved = hidden + layer.steering_sum[rows]
    direction = layer.steering_direction[rows].float()
    along = ((moved.float() + residual.float()) * direction).sum(-1, keepdim=True)
    held = along.clamp(layer.steering_low[rows], layer.steering_high[rows])
    return moved + ((held - along) * direction).to(moved.dtype), residual


def decoder_layers(model: Any, wanted: Sequence[int]) -> dict[int, nn.Module]:
    """The decoder layers with these numbers that are on this rank.

    Raises:
        ValueError: The model is none whose layers are known, or has no such layer.
    """
    family = type(model).__name__
    if family not in FAMILIES:
        raise ValueError(
            f"steering is not known to work for {family}: leave out its vectors, or serve one of "
            f"{', '.join(FAMILIES)}"
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
