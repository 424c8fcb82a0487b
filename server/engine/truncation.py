"""Truncations in the worker: parameters of every slot, and mirostat's limit of every completion.

The limit mu belongs to a completion, not to a slot: a preempted request leaves its slot and comes
back to another. So each completion has a cell, found again by the completion's name; the cell that
was unused for longest is recycled, and there are more cells than slots.
"""

import math
from collections import OrderedDict

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from probes.truncation_functions import next_limit
from probes.truncations import NO_TRUNCATION, NUM_PARAMETERS, Mirostat
from server.engine.kernels import Kernels, RowDecision
from server.worker.message import RequestMessage

_CELLS_PER_SLOT = 4
Completion = tuple[str, int, int]
"""Address of the API server, its number of the call, and which of the call's completions."""


class TruncationSlots:
    """Truncation of every slot, on the host and on the device."""

    def __init__(self, num_slots: int, vocab_size: int, device: torch.device) -> None:
        self._device = device
        self._log_vocab = math.log(vocab_size)
        self._num_cells = _CELLS_PER_SLOT * num_slots
        self._rows = np.zeros((num_slots, 1 + NUM_PARAMETERS), dtype=np.float32)
        """Tag and parameters."""
        self._cells = np.full(num_slots, self._num_cells, dtype=np.int64)
        """The last cell is unused."""
        self._completions = np.full(num_slots, None, dtype=object)
        """The completion of each slot; None without mirostat."""
        self._device_rows = torch.zeros(num_slots, 1 + NUM_PARAMETERS, device=device)
        self._device_cells = torch.full((num_slots,), self._num_cells, device=device)
        self._limits = torch.zeros(self._num_cells + 1, device=device)
        self._known = OrderedDict[Completion, int]()
        """Cell of each completion, least recently used first."""
        self.stale = False
        """Whether the device's copy is out of date."""

    def truncates(self, slots: NDArray[np.int64] | slice) -> NDArray[np.bool_]:
        """Which of these slots truncate."""
        found: NDArray[np.bool_] = self._rows[slots, 0] != NO_TRUNCATION
        return found

    def learns(self, slots: NDArray[np.int64] | slice) -> bool:
        """Whether any of these slots needs the sampled tokens."""
        return bool((self._rows[slots, 0] == Mirostat.tag).any())

    def add(self, slot: int, request: RequestMessage) -> None:
        """Assign a request to a slot.

        Raises:
            ValueError: A parameter is missing, or not finite in float32.
        """
        self.remove(slot)
        if (wanted := request["truncation"]) is None:
            return
        row = np.array([wanted["kind"], *wanted["parameters"]], dtype=np.float32)
        if row.shape != self._rows[slot].shape or not np.isfinite(row).all():
            raise ValueError("the parameters of the truncation are malformed")
        self._rows[slot], self.stale = row, True
        if row[0] == Mirostat.tag:
            self._completions[slot] = (request["address"], wanted["call"], 0)

    def remove(self, slot: int) -> None:
        """Clear a slot; the limit stays, because the completion may resume."""
        if self._rows[slot, 0] != NO_TRUNCATION:
            self._rows[slot], self._cells[slot] = 0.0, self._num_cells
            self._completions[slot], self.stale = None, True

    def swap(self, one: int, two: int) -> None:
        """Exchange two slots."""
        if self.truncates(np.array([one, two])).any():
            for column in (self._rows, self._cells, self._completions):
                column[[one, two]] = column[[two, one]]
            self.stale = True

    def name_choice(self, slot: int, choice: int) -> None:
        """Set which of a request's n completions occupies a slot."""
        if (completion := self._completions[slot]) is not None:
            self._completions[slot] = (*completion[:2], choice)
            self._cells[slot], self.stale = self._num_cells, True

    def flush(self) -> None:
        """Bring the device's copy of the slots up to date."""
        if not self.stale:
            return
        cells, limits = [], []
        waiting = (self._completions != None) & (self._cells == self._num_cells)  # noqa: E711
        for slot in np.flatnonzero(waiting).tolist():
            completion = self._completions[slot]
            if completion not in self._known:
                self._known[completion] = self._free_cell()
                cells.append(self._known[completion])
                limits.append(2 * float(self._rows[slot, 1]))  # as llama.cpp starts
            self._known.move_to_end(completion)
            self._cells[slot] = self._known[completion]
        if cells:
            self._limits[torch.tensor(cells, device=self._device)] = torch.tensor(
                limits, device=self._device
            )
        self._device_rows.copy_(torch.from_numpy(self._rows.copy()), non_blocking=True)
        self._device_cells.copy_(torch.from_numpy(self._cells.copy()), non_blocking=True)
        self.stale = False

    def _free_cell(self) -> int:
        if len(self._known) < self._num_cells:
            return len(self._known)
        in_use = {completion for completion in self._completions if completion is not None}
        oldest = next(one for one in self._known if one not in in_use)
        return self._known.pop(oldest)

    def apply(
        self, kernels: Kernels, logits: Tensor, decision: RowDecision, slots: Tensor
    ) -> Tensor:
        """Remove the tokens that are not kept, in place; ln of the kept weight, shape (rows,).

        Args:
            kernels: Compute the thresholds.
            logits: Shape (rows, vocab), before temperature.
            decision: For these rows.
            slots: Of these rows, on the device.
        """
        limits = self._limits[self._device_cells[slots]]
        return kernels.truncate(logits, decision, self._device_rows[slots], limits)

    def learn(self, slots: Tensor, surprise: Tensor) -> None:
        """Move the limits of the completions that sampled a token.

        Args:
            slots: Shape (rows,), on the device; each at most once.
            surprise: Nats, shape (rows,); NaN where no token was sampled.
        """
        cells, rows = self._device_cells[slots], self._device_rows[slots]
        before = self._limits[cells]
        after = next_limit(before, surprise, rows[:, 1], rows[:, 2], self._log_vocab)
        self._limits[cells] = after
