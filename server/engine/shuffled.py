"""The law `shuffled` in the worker: a histogram of temperatures and a seed per slot."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from probes.laws import NUM_BINS, ShuffledLaw
from probes.shuffled import counter_uniform, draw_temperature
from server.engine.step import on_device, update_on_device
from server.worker.message import RequestMessage

_SEED_MASK = 2**63 - 1


class ShuffledSlots:
    """Histogram and seed of every slot, on the host and on the device."""

    def __init__(self, num_slots: int, device: torch.device) -> None:
        self._device = device
        self._active = np.zeros(num_slots, dtype=bool)
        self._seeds = np.zeros(num_slots, dtype=np.int64)
        self._bins = np.ones((num_slots, 2, NUM_BINS), dtype=np.float32)
        """Temperatures, and the share of the weight up to each."""
        self._device_seeds = torch.zeros(num_slots, dtype=torch.int64, device=device)
        self._device_bins = torch.ones(num_slots, 2, NUM_BINS, device=device)
        self.stale = False
        """Whether the device's copy is out of date."""

    def is_active(self, slots: NDArray[np.int64] | slice) -> bool:
        """Whether any of these slots follows the law."""
        return bool(self._active[slots].any())

    def add(self, slot: int, request: RequestMessage) -> None:
        """Assign a request to a slot and reset the slot's state.

        Raises:
            ValueError: The histogram is malformed, or a law needs one that is not there.
        """
        self.remove(slot)
        if (wanted := request["shuffled"]) is None:
            phases = request["phases"]
            if ShuffledLaw.tag in (request["law"], phases and phases["law"]):
                raise ValueError("the law `shuffled` has no histogram of temperatures")
            return
        bins = np.array([wanted["temperatures"], wanted["cumulative"]], dtype=np.float32)
        if not 1 <= bins.shape[1] <= NUM_BINS or not np.isfinite(bins).all():
            raise ValueError("the histogram of temperatures is malformed")
        self._bins[slot] = np.pad(bins, ((0, 0), (0, NUM_BINS - bins.shape[1])), mode="edge")
        self._seeds[slot] = wanted["seed"] & _SEED_MASK
        self._active[slot] = self.stale = True

    def remove(self, slot: int) -> None:
        """Clear a slot."""
        self._active[slot] = False

    def swap(self, one: int, two: int) -> None:
        """Exchange two slots."""
        if self._active[one] or self._active[two]:
            for column in (self._active, self._seeds, self._bins):
                column[[one, two]] = column[[two, one]]
            self.stale = True

    def name_choice(self, slot: int, choice: int) -> None:
        """Give the i-th completion of a request a seed of its own, as vLLM does: seed + i."""
        if self._active[slot]:
            self._seeds[slot] = (int(self._seeds[slot]) + choice) & _SEED_MASK
            self.stale = True

    def flush(self) -> None:
        """Bring the device's copy of the slots up to date."""
        if self.stale:
            update_on_device(self._device_seeds, self._seeds)
            update_on_device(self._device_bins, self._bins)
            self.stale = False

    def temperatures(self, slots: Tensor, indices: NDArray[np.int64] | Tensor) -> Tensor:
        """The temperature of every row; meaningless where the slot does not follow the law.

        Args:
            slots: Shape (rows,), on the device.
            indices: Token that each row draws.
        """
        temperatures, cumulative = self._device_bins[slots].unbind(1)
        drawn = on_device(indices, self._device)
        uniform = counter_uniform(self._device_seeds[slots], drawn)
        return draw_temperature(uniform, temperatures, cumulative)
