"""Truncations in the worker: parameters of every slot, and mirostat's limit of every completion.

The limit mu belongs to a completion, not to a slot, so it is in a `CompletionCells`.
"""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from probes.truncation_functions import next_limit
from probes.truncations import NO_TRUNCATION, NUM_PARAMETERS, Mirostat
from server.engine.completions import CompletionCells
from server.engine.kernels import Kernels, RowDecision
from server.engine.step import update_on_device
from server.worker.message import RequestMessage


class TruncationSlots:
    """Truncation of every slot, on the host and on the device."""

    def __init__(self, num_slots: int, vocab_size: int, device: torch.device) -> None:
        self._log_vocab = math.log(vocab_size)
        self._rows = np.zeros((num_slots, 1 + NUM_PARAMETERS), dtype=np.float32)
        """Tag and parameters."""
        self._device_rows = torch.zeros(num_slots, 1 + NUM_PARAMETERS, device=device)
        self._limits = CompletionCells(num_slots, device, torch.float32)
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
            first = 2 * float(row[1])  # as llama.cpp starts
            self._limits.add(slot, request["address"], wanted["call"], first)

    def remove(self, slot: int) -> None:
        """Clear a slot; the limit stays, because the completion may resume."""
        if self._rows[slot, 0] != NO_TRUNCATION:
            self._rows[slot], self.stale = 0.0, True
            self._limits.remove(slot)

    def swap(self, one: int, two: int) -> None:
        """Exchange two slots."""
        if self.truncates(np.array([one, two])).any():
            self._rows[[one, two]] = self._rows[[two, one]]
            self._limits.swap(one, two)
            self.stale = True

    def name_choice(self, slot: int, choice: int) -> None:
        """Set which of a request's n completions occupies a slot."""
        self.stale |= self._limits.name_choice(slot, choice)

    def flush(self) -> None:
        """Bring the device's copy of the slots up to date."""
        if self.stale:
            self._limits.flush()
            update_on_device(self._device_rows, self._rows)
            self.stale = False

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
        limits = self._limits.values[self._limits.of(slots)]
        return kernels.truncate(logits, decision, self._device_rows[slots], limits)

    def learn(self, slots: Tensor, surprise: Tensor) -> None:
        """Move the limits of the completions that sampled a token.

        Args:
            slots: Shape (rows,), on the device; each at most once.
            surprise: Nats, shape (rows,); NaN where no token was sampled.
        """
        cells, rows = self._limits.of(slots), self._device_rows[slots]
        before = self._limits.values[cells]
        after = next_limit(before, surprise, rows[:, 1], rows[:, 2], self._log_vocab)
        self._limits.values[cells] = after
