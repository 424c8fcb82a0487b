"""Steering in the worker: which row of the steering tables each token of a step reads.

Requests that are steered alike share a row. `steering_hooks` holds the tables and applies them.
"""

from collections import OrderedDict
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from probes.steering import unit_direction
from server.engine.steering_hooks import LayerSteering, LayerTable
from server.engine.step import update_on_device
from server.worker.message import RequestMessage, SteeringMessage

_FAILED_KEYS = 4096
"""With this many failed configurations, every further one is refused."""

Vectors = Mapping[str, Mapping[int, Tensor]]
"""By artifact id, then by layer; shape (hidden,)."""


class UntrustedSteering(RuntimeError):
    """A request with the same configuration failed: cached blocks may be unsteered."""


class Size(NamedTuple):
    """Sizes of the tables, which are part of the compiled graph."""

    slots: int
    """Requests in a batch."""
    rows: int
    """Steering configurations in the tables at once."""
    tokens: int
    """In a step, including padding."""


def num_rows(slots: int, admitted: int | None) -> int:
    """Number of table rows that always suffices.

    The API servers admit a new steering configuration when an admitted one has no request left.
    They learn this before the worker does, which frees a request that ended at a stop string with
    the next output. Until then the worker holds both the new configurations and those that they
    replaced, at most twice the admitted number. One row per request of a batch also suffices.

    Args:
        slots: Requests in a batch.
        admitted: Configurations in use at once, over all API servers; None without a limit.
    """
    return slots if admitted is None else min(2 * admitted, slots)


class SteeringControl:
    """The tables of all layers, and the row that each slot reads."""

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
            vectors: The vectors that requests may name.
            stream: Any tensor with the type, device and last dimension of the residual stream.
        """
        self._vectors = dict(vectors)
        self._rows = torch.zeros(size.tokens, dtype=torch.int64, device=stream.device)
        self._tables = {
            number: LayerTable(layer, size.rows + 1, stream, self._rows)
            for number, layer in layers.items()
        }
        self._free = list(range(size.rows, 0, -1))
        self._known: OrderedDict[str, int] = OrderedDict()
        """Row of every configuration in the tables, least recently used first."""
        self._users = np.zeros(size.rows + 1, dtype=np.int64)
        self._row = np.zeros(size.slots, dtype=np.int64)
        self._everywhere = np.zeros(size.slots, dtype=bool)
        self._keys = np.full(size.slots, None, dtype=object)
        self._failed: set[str] = set()
        self._marked = 0
        """Tokens at the front of `_rows` that may not be 0."""

    def add_vector(self, name: str, layers: Mapping[int, Tensor]) -> None:
        """Add a vector; its layers are hooked."""
        self._vectors[name] = layers

    # -- slots -----------------------------------------------------------------------------

    def add(self, slot: int, request: RequestMessage) -> None:
        """Assign a request to a slot.

        Raises:
            UntrustedSteering: Its blocks in the prefix cache may be unsteered.
            Exception: It names a vector that this worker does not have, or no row is free.
        """
        self.remove(slot)
        control = request["steering"]
        if control is None:
            return
        self._keys[slot] = key = control["key"]
        if key in self._failed or len(self._failed) >= _FAILED_KEYS:
            raise UntrustedSteering("requests with the same steering failed before")
        row = self._known.get(key)
        if row is None:
            row = self._take_row()
            try:
                self.write_row(row, control)
            except BaseException:
                self._free.append(row)
                raise
            self._known[key] = row
        self._known.move_to_end(key)
        self._users[row] += 1
        self._row[slot] = row
        self._everywhere[slot] = control["all"]

    def remove(self, slot: int) -> None:
        """Clear a slot; its table row stays cached for the same steering."""
        if row := int(self._row[slot]):
            self._users[row] -= 1
        self._row[slot] = 0
        self._keys[slot] = None

    def fail(self, slot: int) -> None:
        """Clear a slot whose request continues unsteered.

        Its states enter the prefix cache as if they were steered, so later requests with the same
        steering fail as well: an answer that is not steered always says so.
        """
        if self._keys[slot] is not None:
            self._failed.add(self._keys[slot])
        self.remove(slot)

    def swap(self, one: int, two: int) -> None:
        """Exchange two slots."""
        for column in (self._row, self._everywhere, self._keys):
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
        raise RuntimeError("more steering configurations than were admitted")  # see `num_rows`

    def write_row(self, row: int, control: SteeringMessage) -> None:
        """Write a steering configuration into a row of every layer's table."""
        for layer, table in self._tables.items():
            total = torch.zeros(table.hidden_size)
            for name, number, factor in control["add"]:
                if number == layer:  # others may be on another pipeline stage
                    total += self._vectors[name][layer].float() * factor
            steering = LayerSteering(total)
            for name, number, low, high in control["clamp"]:
                if number == layer:
                    steering = LayerSteering(
                        total, unit_direction(self._vectors[name][layer]), low, high
                    )
            table.write(row, steering)

    # -- the step --------------------------------------------------------------------------

    def clear_rows(self) -> None:
        """Make every token of the coming step read row 0."""
        self._rows.zero_()
        self._marked = 0

    def assign_rows(
        self,
        slots: NDArray[np.int64],
        starts: NDArray[np.int64],
        counts: NDArray[np.int64],
        prompts: NDArray[np.int64],
    ) -> None:
        """Set the row that every token of the coming step reads; does nothing without steering.

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
            update_on_device(self._rows[:stale], reads)
            self._marked = total
