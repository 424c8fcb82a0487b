"""Laws by phase in the worker: whether each completion thinks now, and its law while it does.

A completion thinks from the token that starts its thinking to the one that ends it. The phase is
on the device and follows the sampled tokens there, so it costs no synchronization, whatever vLLM
schedules. A cell holds `2 * index + thinks` of the last token that changed the phase, with 0 for
the prompt: the highest of several drafts is the last one accepted, and telling a step twice changes
nothing.
"""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from probes.laws import NUM_PARAMETERS, EntropyTargetLaw
from server.engine.completions import CompletionCells
from server.engine.slots import LAW, PARAMETERS
from server.engine.step import update_on_device
from server.worker.message import RequestMessage

_NO_TOKEN = -2
"""No token of any vocabulary; -1 is vLLM's padding."""


class Fed(NamedTuple):
    """What the rows of a group read in this step."""

    tokens: Tensor
    """Shape (rows,). The rows of a request follow each other; from the second on, it is a draft."""
    offsets: Tensor
    """Position of each row among those of its request, shape (rows,)."""


class PhaseSlots:
    """Law of the thinking phase of every slot, and the phase of every completion."""

    def __init__(self, num_slots: int, device: torch.device) -> None:
        self._device = device
        self._rows = np.zeros((num_slots, 1 + NUM_PARAMETERS), dtype=np.float32)
        """Tag and parameters of the law while the model thinks."""
        self._marks = np.full((num_slots, 2), _NO_TOKEN, dtype=np.int64)
        """Tokens that start and end the thinking."""
        self._active = np.zeros(num_slots, dtype=bool)
        self._device_columns = torch.zeros(1 + NUM_PARAMETERS, num_slots, device=device)
        self._device_marks = torch.full((2, num_slots), _NO_TOKEN, device=device)
        self._phases = CompletionCells(num_slots, device, torch.int64)
        self.stale = False
        """Whether the device's copy is out of date."""

    def is_active(self, slots: NDArray[np.int64] | slice) -> bool:
        """Whether any of these slots has laws by phase."""
        return bool(self._active[slots].any())

    def solving(self, slots: NDArray[np.int64] | slice) -> NDArray[np.bool_]:
        """Which of these slots follow an entropy target while the model thinks."""
        found: NDArray[np.bool_] = self._rows[slots, 0] == EntropyTargetLaw.tag
        return found

    # -- slots -----------------------------------------------------------------------------

    def add(self, slot: int, request: RequestMessage) -> None:
        """Assign a request to a slot.

        Raises:
            ValueError: A parameter is missing, or not finite in float32.
        """
        self.remove(slot)
        if (wanted := request["phases"]) is None:
            return
        row = np.array([wanted["law"], *wanted["parameters"]], dtype=np.float32)
        if row.shape != self._rows[slot].shape or not np.isfinite(row).all():
            raise ValueError("the parameters of the thinking phase's law are malformed")
        self._rows[slot], self._marks[slot] = row, (wanted["start"], wanted["end"])
        self._phases.add(slot, request["address"], wanted["call"], int(wanted["thinking"]))
        self._active[slot] = self.stale = True

    def remove(self, slot: int) -> None:
        """Clear a slot; the phase stays, for the case that its completion comes back."""
        if self._active[slot]:
            self._rows[slot], self._marks[slot] = 0.0, _NO_TOKEN
            self._phases.remove(slot)
            self._active[slot], self.stale = False, True

    def swap(self, one: int, two: int) -> None:
        """Exchange two slots."""
        if self._active[one] or self._active[two]:
            for column in (self._rows, self._marks, self._active):
                column[[one, two]] = column[[two, one]]
            self._phases.swap(one, two)
            self.stale = True

    def name_choice(self, slot: int, choice: int) -> None:
        """Set which of a request's n completions occupies a slot."""
        self.stale |= self._phases.name_choice(slot, choice)

    def flush(self) -> None:
        """Bring the device's copy of the slots up to date."""
        if self.stale:
            self._phases.flush()
            update_on_device(self._device_columns, self._rows.T)
            update_on_device(self._device_marks, self._marks.T)
            self.stale = False

    # -- the step --------------------------------------------------------------------------

    def select_law(self, table: Tensor, slots: Tensor, fed: Fed | None) -> None:
        """Replace the laws of the rows that think, in place.

        Args:
            table: Columns of the law table, shape (columns, rows).
            slots: Of these rows, on the device.
            fed: What the rows read; None if no row is a draft's.
        """
        thinking, own = self._thinking(slots, fed), self._device_columns[:, slots]
        table[LAW] = torch.where(thinking, own[0], table[LAW])
        table[PARAMETERS] = torch.where(thinking, own[1:], table[PARAMETERS])

    def _thinking(self, slots: Tensor, fed: Fed | None) -> Tensor:
        """Whether each row samples a token of the thinking phase, shape (rows,)."""
        before = self._phases.values[self._phases.of(slots)] % 2 == 1
        if fed is None:
            return before
        start, end = self._device_marks[:, slots]
        draft, place = fed.offsets > 0, torch.arange(len(slots), device=self._device)
        starts, ends = draft & (fed.tokens == start), draft & (fed.tokens == end)
        last = torch.where(starts | ends, place, -1).cummax(0).values
        return torch.where(last > place - fed.offsets, starts[last.clamp_min(0)], before)

    def learn(self, slots: Tensor, indices: Tensor, sampled: Tensor) -> None:
        """Follow the sampled tokens.

        Args:
            slots: Shape (rows,), on the device.
            indices: Index of each row's token in its completion; negative where none was sampled.
            sampled: Token of every row; anything where none was sampled.
        """
        start, end = self._device_marks[:, slots]
        starts = sampled == start
        changes = (starts | (sampled == end)) & (indices >= 0)
        latest = torch.where(changes, 2 * (indices.long() + 1) + starts, -1)
        self._phases.values.scatter_reduce_(0, self._phases.of(slots), latest, "amax")
