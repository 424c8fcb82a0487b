"""Difficulty probes in the worker: classifies prompts and applies the classes.

The state is the row that goes into the output head at the step that samples a request's first
token, so chunked prompts, cached prefixes and mixed batches need nothing of their own. The class
stays on the device; the answer's temperature and budget are looked up there at every later step.
"""

from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from probes.difficulty.probe import Head, predicted_class, route
from server.engine.publisher import Directory, Publisher
from server.engine.step import PromptRows, force_token, on_device, update_on_device
from server.worker.message import RequestMessage

_UNDECIDED = -1
_REMEMBERED = 16_384
"""Decisions kept for preempted requests that resume."""


class Tap:
    """Keeps the last input of the output head."""

    def __init__(self) -> None:
        self.hidden: Tensor | None = None
        self._model: Any = None

    def attach(self, model: Any) -> None:
        """Register the hook on a loaded model, once."""
        if model is self._model:
            return
        self._model = model
        compute_logits: Callable[..., Any] = model.compute_logits

        def tapped(hidden: Tensor, *args: Any, **kwargs: Any) -> Any:
            self.hidden = hidden
            return compute_logits(hidden, *args, **kwargs)

        model.compute_logits = tapped


class DifficultySlots:
    """Probes, classes and strategies of every slot."""

    def __init__(self, num_slots: int, device: torch.device, heads: Mapping[str, Head]) -> None:
        self._heads = {name: head.to(device) for name, head in heads.items()}
        self._device = device
        self._probes = np.full(num_slots, None, dtype=object)
        self._settled = np.ones(num_slots, dtype=bool)
        self._traces = np.zeros(num_slots, dtype=np.uint64)
        self._prices = np.full(num_slots, -1.0, dtype=np.float32)
        # By class: T0 (3), budget in tokens (3); then the token that ends an answer. Whole numbers
        # below 2^24 are exact in float32.
        self._table = np.zeros((num_slots, 7), dtype=np.float32)
        self._device_table = torch.zeros(num_slots, 7, device=device)
        self._classes = torch.full((num_slots,), _UNDECIDED, device=device)
        self.memory: OrderedDict[tuple[str, int, int], Tensor] = OrderedDict()
        self.stale = False
        """Whether the device's copy is out of date."""

    def is_active(self, slots: NDArray[np.int64] | slice) -> bool:
        """Whether any of these slots has a probe."""
        return bool((self._probes[slots] != None).any())  # noqa: E711, elementwise

    def add_head(self, name: str, head: Head) -> None:
        """Add a probe."""
        self._heads[name] = head.to(self._device)

    # -- slots -----------------------------------------------------------------------------

    def add(self, slot: int, request: RequestMessage) -> None:
        """Assign a request to a slot. Its class is computed or restored at its next token.

        Raises:
            Exception: It names a probe that this worker does not have, or is malformed.
        """
        self.remove(slot)
        control = request["difficulty"]
        if control is None:
            return
        if control["probe"] not in self._heads:
            raise LookupError(f"this worker has no probe {control['probe']!r}")
        self._probes[slot] = control["probe"]
        self._settled[slot] = False
        self._traces[slot] = control["trace"]
        self._prices[slot] = control["price"]
        self._table[slot] = [*control["temperatures"], *control["budgets"], control["stop"]]
        self.stale = True

    def remove(self, slot: int) -> None:
        """Clear a slot."""
        if self._probes[slot] is not None:
            self._probes[slot] = None
            self._settled[slot] = True
            self._classes[slot] = _UNDECIDED

    def swap(self, one: int, two: int) -> None:
        """Exchange two slots."""
        if self._probes[one] is None and self._probes[two] is None:
            return
        for column in (self._probes, self._settled, self._traces, self._prices, self._table):
            column[[one, two]] = column[[two, one]]
        kept = self._classes[one].clone()  # a list as an index would be copied to the device
        self._classes[one] = self._classes[two]
        self._classes[two] = kept
        self.stale = True

    def flush(self) -> None:
        """Bring the device's copy of the slots up to date."""
        if self.stale:
            update_on_device(self._device_table, self._table)
            self.stale = False

    # -- the step --------------------------------------------------------------------------

    def read_prompts(
        self, prompts: PromptRows, directory: Directory, publisher: Publisher | None
    ) -> None:
        """Classify requests whose prompt just ended; restore the class of preempted ones.

        Args:
            prompts: Those that may have ended.
            directory: The receiver of each slot's trace.
            publisher: Sends the decisions to the API servers.
        """
        slots, indices = prompts.slots, prompts.indices
        waiting = ~self._settled[slots] & (indices >= 0)
        if not waiting.any():
            return
        self._settled[slots[waiting]] = True
        for slot in slots[waiting & (indices > 0)].tolist():
            if (known := self.memory.get(self._key(slot, directory))) is not None:
                self._classes[slot] = known
        names, first = self._probes[slots], waiting & (indices == 0)
        for name in sorted(set(names[first])):
            self._classify(name, prompts.where(first & (names == name)), directory, publisher)

    def _classify(
        self, name: str, prompts: PromptRows, directory: Directory, publisher: Publisher | None
    ) -> None:
        head, states, slots = self._heads[name], prompts.states(), prompts.slots
        prices = on_device(self._prices[slots], self._device)
        probabilities, forecast = head.probabilities(states), head.forecast(states)
        classes = predicted_class(probabilities)
        if head.router_kept is not None:
            classes = torch.where(prices < 0, classes, route(forecast, head.router_kept, prices))
        self._classes[on_device(slots, self._device)] = classes
        for position, slot in enumerate(slots.tolist()):
            self.memory[self._key(slot, directory)] = classes[position]
        while len(self.memory) > _REMEMBERED:
            self.memory.popitem(last=False)
        if publisher is not None:
            waiting = directory._replace(traces=self._traces.copy())
            distance = head.distance(states).unsqueeze(1)
            figures = torch.cat([probabilities, *forecast, distance], dim=1)
            publisher.publish_decisions(classes, figures, slots, waiting)

    def _key(self, slot: int, directory: Directory) -> tuple[str, int, int]:
        return (
            str(directory.addresses[slot]),
            int(self._traces[slot]),
            int(directory.choices[slot]),
        )

    def base(self, slots: Tensor, own: Tensor) -> Tensor:
        """T0 of every row: its class's, or its own where it has none or is greedy.

        Args:
            slots: Shape (rows,).
            own: The requests' own temperatures, shape (rows,).
        """
        classes = self._classes[slots]
        chosen = self._device_table[slots, classes.clamp_min(0)]
        return torch.where((classes >= 0) & (chosen > 0) & (own > 0), chosen, own)

    def may_end(self, slots: NDArray[np.int64] | None, indices: NDArray[np.int64] | Tensor) -> bool:
        """Whether any row may be at the end of its budget.

        The host does not know the classes, so it says yes at the budget of each. No row goes on
        behind its own.
        """
        if slots is None or isinstance(indices, Tensor):
            return True
        budgets = self._table[slots, 3:6]
        return bool(((budgets > 0) & (indices[:, None] + 1 == budgets)).any())

    def limit(
        self,
        logits: Tensor,
        rows: Tensor | None,
        slots: Tensor,
        indices: NDArray[np.int64] | Tensor,
    ) -> None:
        """Force the end of the answer in every row that samples the last token of its budget.

        Args:
            logits: The whole batch, changed in place.
            rows: Which rows; None is all.
            slots: Of these rows.
            indices: Token each row is about to draw.
        """
        classes = self._classes[slots]
        table = self._device_table[slots]
        budget = table.gather(1, classes.clamp_min(0).unsqueeze(1) + 3).squeeze(1)
        drawn = on_device(indices, self._device)
        over = (classes >= 0) & (budget > 0) & (drawn + 1 >= budget)
        force_token(logits, rows, over, table[:, 6].long())
