"""State of every slot of the batch: temperature laws and receivers of traces.

Every table here, and those of difficulty and steering, is a `SlotTable`: the controller tells them
alike which request joins, leaves or moves.
"""

from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from probes.laws import NO_LAW, NO_ROW, NUM_PARAMETERS, EntropyTargetLaw
from server.engine.publisher import Directory
from server.engine.step import update_on_device
from server.worker.message import RequestMessage

LAW, BASE, FAILED = 0, 1, -1
PARAMETERS = slice(2, -1)
"""Columns of a law's row."""


class SlotTable(Protocol):
    """State that requests keep while they occupy a slot."""

    def add(self, slot: int, request: RequestMessage) -> None:
        """Assign a request to a slot and reset the slot's state."""

    def remove(self, slot: int) -> None:
        """Clear a slot."""

    def swap(self, one: int, two: int) -> None:
        """Exchange two slots."""


class LawTable:
    """Law, base temperature and parameters of every slot, on the host and on the device."""

    def __init__(self, num_slots: int, device: torch.device) -> None:
        self.rows = np.zeros((num_slots, 3 + NUM_PARAMETERS), dtype=np.float32)
        self.device_columns = torch.zeros(3 + NUM_PARAMETERS, num_slots, device=device)
        self.active = np.zeros(num_slots, dtype=bool)
        self.stale = False
        """Whether the device's copy is out of date."""

    def add(self, slot: int, request: RequestMessage) -> None:
        """Assign a request to a slot; its base temperature is set by `set_base`.

        Raises:
            ValueError: A parameter is missing, or not finite in float32.
        """
        row = np.array([request["law"], 0.0, *request["parameters"], 0.0], dtype=np.float32)
        if row.shape != self.rows[slot].shape or not np.isfinite(row).all():
            raise ValueError("the law's parameters are malformed")
        self.rows[slot], self.active[slot], self.stale = row, True, True

    def set_base(self, slot: int, base: float) -> None:
        """Set the request's own temperature; 0 is greedy."""
        self.rows[slot, BASE], self.stale = base, True

    def fail(self, slot: int) -> None:
        """Replace the law of a slot by none, and mark the request: its trace says so."""
        self.rows[slot, PARAMETERS] = NO_ROW
        self.rows[slot, LAW], self.rows[slot, FAILED] = NO_LAW, 1.0
        self.active[slot] = self.stale = True

    def remove(self, slot: int) -> None:
        """Clear a slot."""
        self.rows[slot], self.active[slot], self.stale = 0.0, False, True

    def swap(self, one: int, two: int) -> None:
        """Exchange two slots."""
        for column in (self.rows, self.active):
            column[[one, two]] = column[[two, one]]
        self.stale = True

    def solving(self, slots: NDArray[np.int64] | slice) -> NDArray[np.bool_]:
        """Which of these slots follow an entropy target."""
        found: NDArray[np.bool_] = self.rows[slots, LAW] == EntropyTargetLaw.tag
        return found

    def any_failed(self) -> bool:
        """Whether the control of any request in the batch failed."""
        return bool(self.rows[:, FAILED].any())

    def flush(self) -> None:
        """Copy the rows to the device if they changed."""
        if self.stale:
            update_on_device(self.device_columns, self.rows.T)
            self.stale = False


class TraceTable:
    """The receiver of every slot's trace.

    `directory` is replaced and never changed in place: a step that waits in the publisher's queue
    keeps the one it was queued with.
    """

    def __init__(self, num_slots: int) -> None:
        self.directory = Directory(
            np.zeros(num_slots, np.uint64),
            np.zeros(num_slots, np.uint32),
            np.full(num_slots, "", dtype=object),
        )
        self.confident = np.zeros(num_slots, dtype=bool)
        """Whether the trace of a slot has the confidence of its tokens."""

    def add(self, slot: int, request: RequestMessage) -> None:
        """Assign a request to a slot."""
        self._write(slot, request["trace"], 0, request["address"])
        self.confident[slot] = request["confidence"] and request["trace"] != 0

    def remove(self, slot: int) -> None:
        """Clear a slot."""
        self._write(slot, 0, 0, "")
        self.confident[slot] = False

    def swap(self, one: int, two: int) -> None:
        """Exchange two slots."""
        self.directory = self.directory.copy()
        for column in (*self.directory, self.confident):
            column[[one, two]] = column[[two, one]]

    def name_choice(self, slot: int, choice: int) -> None:
        """Set which of a request's n completions occupies a slot."""
        now = self.directory
        self._write(slot, int(now.traces[slot]), choice, now.addresses[slot])

    def is_traced(self, slots: NDArray[np.int64] | slice) -> bool:
        """Whether any of these slots sends a trace."""
        return bool(self.directory.traces[slots].any())

    def _write(self, slot: int, trace: int, choice: int, address: str) -> None:
        changed = self.directory.copy()
        changed.traces[slot], changed.choices[slot] = trace, choice
        changed.addresses[slot] = address
        self.directory = changed


def reported_temperature(temperature: Tensor, columns: Tensor) -> Tensor:
    """The temperature for the trace: NaN if the request's control failed.

    Args:
        temperature: Applied, shape (rows,).
        columns: Of the law table, shape (columns, rows).
    """
    return temperature.masked_fill(columns[FAILED] > 0, torch.nan)
