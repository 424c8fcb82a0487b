"""A number on the device for every completion that asks for one, kept while it is preempted.

What a completion has learned belongs to it and not to its slot: a preempted request leaves its slot
and comes back to another. So each completion has a cell, found again by the completion's name; the
cell that was unused for longest is recycled, and there are more cells than slots.
"""

from collections import OrderedDict

import numpy as np
import torch
from torch import Tensor

from server.engine.step import on_device, update_on_device

_CELLS_PER_SLOT = 4
Completion = tuple[str, int, int]
"""Address of the API server, its number of the call, and which of the call's completions."""


class CompletionCells:
    """The cells, and which of them belongs to the completion in each slot."""

    def __init__(self, num_slots: int, device: torch.device, dtype: torch.dtype) -> None:
        self._device = device
        self._num_cells = _CELLS_PER_SLOT * num_slots
        self._cells = np.full(num_slots, self._num_cells, dtype=np.int64)
        """The last cell belongs to nobody."""
        self._completions = np.full(num_slots, None, dtype=object)
        """None where a slot has no cell."""
        self._first = np.zeros(num_slots)
        """What the cell of a new completion starts with."""
        self._device_cells = torch.full((num_slots,), self._num_cells, device=device)
        self.values = torch.zeros(self._num_cells + 1, dtype=dtype, device=device)
        """By cell."""
        self._known = OrderedDict[Completion, int]()
        """Cell of each completion, the longest unused first."""

    def of(self, slots: Tensor) -> Tensor:
        """Cells of slots, both on the device."""
        return self._device_cells[slots]

    def add(self, slot: int, address: str, call: int, first: float) -> None:
        """Give the completion in a slot a cell.

        Args:
            slot: Which.
            address: Of the API server.
            call: A number of its own for every call of that server.
            first: What a new completion's cell starts with.
        """
        self._completions[slot], self._first[slot] = (address, call, 0), first
        self._cells[slot] = self._num_cells

    def remove(self, slot: int) -> None:
        """Clear a slot; the cell stays, for the case that its completion comes back."""
        self._completions[slot], self._cells[slot] = None, self._num_cells

    def swap(self, one: int, two: int) -> None:
        """Exchange two slots."""
        for column in (self._completions, self._cells, self._first):
            column[[one, two]] = column[[two, one]]

    def name_choice(self, slot: int, choice: int) -> bool:
        """Set which of a request's n completions is in a slot; whether the slot has a cell."""
        if (completion := self._completions[slot]) is None:
            return False
        self._completions[slot] = (*completion[:2], choice)
        self._cells[slot] = self._num_cells
        return True

    def flush(self) -> None:
        """Find the cells of completions that joined, and bring the device up to date."""
        cells, first = [], []
        waiting = (self._completions != None) & (self._cells == self._num_cells)  # noqa: E711
        for slot in np.flatnonzero(waiting).tolist():
            completion = self._completions[slot]
            if completion not in self._known:
                self._known[completion] = self._free_cell()
                cells.append(self._known[completion])
                first.append(self._first[slot])
            self._known.move_to_end(completion)
            self._cells[slot] = self._known[completion]
        if cells:
            starts = on_device(np.array(first), self._device).to(self.values.dtype)
            self.values[on_device(np.array(cells), self._device)] = starts
        update_on_device(self._device_cells, self._cells)

    def _free_cell(self) -> int:
        if len(self._known) < self._num_cells:
            return len(self._known)
        in_use = {completion for completion in self._completions if completion is not None}
        oldest = next(one for one in self._known if one not in in_use)
        return self._known.pop(oldest)
