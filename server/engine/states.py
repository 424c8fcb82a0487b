"""Confidence probes in the worker: reads the hidden state at the end of a prompt, once.

The state is the row that goes into the output head at the step that samples a request's first
token. Score and distance are computed on the device and sent to the API server like a trace.
"""

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray

from probes.selective.state import StateReader
from server.engine.publisher import Directory, Publisher
from server.engine.step import PromptRows
from server.worker.message import RequestMessage


class StateSlots:
    """The probe of every slot, until the end of its prompt was read."""

    def __init__(
        self, num_slots: int, device: torch.device, readers: Mapping[str, StateReader]
    ) -> None:
        self._readers = {name: reader.to(device) for name, reader in readers.items()}
        self._device = device
        self._probes = np.full(num_slots, None, dtype=object)

    def add_reader(self, name: str, reader: StateReader) -> None:
        """Add a probe."""
        self._readers[name] = reader.to(self._device)

    def is_active(self, slots: NDArray[np.int64] | slice) -> bool:
        """Whether any of these slots waits for the end of its prompt."""
        return bool((self._probes[slots] != None).any())  # noqa: E711, elementwise

    def add(self, slot: int, request: RequestMessage) -> None:
        """Assign a request to a slot.

        Raises:
            LookupError: It names a probe that this worker does not have.
        """
        self.remove(slot)
        name = request["state"]
        if name is not None and name not in self._readers:
            raise LookupError(f"this worker has no probe {name!r}")
        self._probes[slot] = name

    def remove(self, slot: int) -> None:
        """Clear a slot."""
        self._probes[slot] = None

    def swap(self, one: int, two: int) -> None:
        """Exchange two slots."""
        self._probes[[one, two]] = self._probes[[two, one]]

    def read_prompts(
        self, prompts: PromptRows, directory: Directory, publisher: Publisher | None
    ) -> None:
        """Read the prompts that just ended. One that resumes after a preemption was read before.

        Args:
            prompts: Those that may have ended.
            directory: The receiver of each slot's trace.
            publisher: Sends what was read to the API servers.
        """
        names = self._probes[prompts.slots]
        ended = (names != None) & (prompts.indices >= 0)  # noqa: E711, elementwise
        if not ended.any():
            return
        self._probes[prompts.slots[ended]] = None
        first = ended & (prompts.indices == 0)
        for name in sorted(set(names[first])):
            mine = prompts.where(first & (names == name))
            figures = self._readers[name].read(mine.states())
            if publisher is not None:
                publisher.publish_states(figures, mine.slots, directory)
