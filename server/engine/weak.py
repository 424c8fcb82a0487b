"""Ends samples of a vote whose tokens grow too unsure.

A slot keeps the self-certainty of its last tokens on the device. When the mean of a full window is
below the slot's threshold, the next token ends the answer, as at the limit of a budget. A slot that
a request joins knows no certainty, so a preempted sample fills its window anew.

Source: the online rule of DeepConf, arXiv 2508.15260.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from probes.selective.scores import LONGEST_WINDOW
from server.engine.step import force_token, on_device, update_on_device
from server.worker.message import RequestMessage

_DRAFTS = 64
"""Places for the draft tokens of a step, which are rejected or not."""


class WeakSlots:
    """Window, threshold and last certainties of every slot."""

    def __init__(self, num_slots: int, device: torch.device) -> None:
        self._device = device
        self._rows = np.zeros((num_slots, 3), dtype=np.float32)
        """Window (0: none), threshold, and the token that ends an answer, exact below 2^24."""
        self._device_rows = torch.zeros(num_slots, 3, device=device)
        shape = (num_slots, LONGEST_WINDOW + _DRAFTS)
        self._certainties = torch.full(shape, torch.nan, device=device)
        """By the index of the token in its completion, modulo the number of columns."""
        self.stale = False
        """Whether the device's copy is out of date."""

    def is_active(self, slots: NDArray[np.int64] | slice) -> bool:
        """Whether any of these slots may be ended."""
        return bool(self._rows[slots, 0].any())

    def add(self, slot: int, request: RequestMessage) -> None:
        """Assign a request to a slot and forget the certainties of the last one.

        Raises:
            ValueError: The window is out of range, or a number is not finite in float32.
        """
        self.remove(slot)
        if (wanted := request["weak"]) is None:
            return
        row = np.array([wanted["window"], wanted["threshold"], wanted["stop"]], dtype=np.float32)
        if not np.isfinite(row).all() or not 1 <= row[0] <= LONGEST_WINDOW:
            raise ValueError("the rule that ends weak samples is malformed")
        self._rows[slot], self.stale = row, True
        self._certainties[slot] = torch.nan

    def remove(self, slot: int) -> None:
        """Clear a slot."""
        if self._rows[slot, 0]:
            self._rows[slot], self.stale = 0.0, True

    def swap(self, one: int, two: int) -> None:
        """Exchange two slots."""
        if not self.is_active(np.array([one, two])):
            return
        self._rows[[one, two]] = self._rows[[two, one]]
        kept = self._certainties[one].clone()  # a list as an index would be copied to the device
        self._certainties[one] = self._certainties[two]
        self._certainties[two] = kept
        self.stale = True

    def flush(self) -> None:
        """Bring the device's copy of the slots up to date."""
        if self.stale:
            update_on_device(self._device_rows, self._rows)
            self.stale = False

    def end(
        self,
        logits: Tensor,
        rows: Tensor | None,
        slots: Tensor,
        indices: NDArray[Any] | Tensor,
        certainty: Tensor,
    ) -> None:
        """Force the end of the answer in every row whose last window is below its threshold.

        Args:
            logits: The whole batch, changed in place.
            rows: Which rows; None is all.
            slots: Of these rows.
            indices: Token that each row is about to draw; negative where it draws none.
            certainty: Self-certainty of each row's distribution, nats, shape (rows,).
        """
        window, threshold, stop = self._device_rows[slots].unbind(1)
        drawn = on_device(indices, self._device).long()
        columns = self._certainties.shape[1]
        place = drawn % columns
        own = (drawn >= 0) & (window > 0)
        kept = self._certainties[slots, place]
        self._certainties[slots, place] = torch.where(own, certainty, kept)
        every = torch.arange(columns, device=self._device)
        age = (drawn.unsqueeze(1) - every) % columns
        inside = age < window.unsqueeze(1)
        # A window that is not full yet has a NaN in it, and so has no mean.
        total = torch.where(inside, self._certainties[slots], 0.0).sum(1)
        force_token(logits, rows, own & (total < threshold * window), stop.long())
