"""The controller: entropy of each row, temperature of each row, scaled logits. No runner in here.

State is one row per request slot, kept on the host and copied to the device only when a request
joins, leaves or moves. A step without controlled requests returns at once; a step with them runs a
fixed number of tensor operations, whatever the batch, and never waits for the device.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from vllm.logger import init_logger

from probes.difficulty.probe import Head
from probes.laws import NUM_PARAMETERS, EntropyTargetLaw
from server.engine.difficulty import DifficultyControl
from server.engine.kernels import Kernels
from server.engine.publisher import Directory, Publisher
from server.engine.steering import SteeringControl
from server.worker.message import KEY

logger = init_logger("vllm.entrostat")


class Group(NamedTuple):
    """Rows of a batch that are decided together."""

    rows: Tensor | None
    """Their positions in the batch, on the device; None means every row."""
    slots: Tensor
    """Their slots, on the device."""
    host_slots: NDArray[np.int64] | None
    """The same on the host, where the runner knows them there."""
    solve: bool
    """Whether any of them follows an entropy target."""
    traced: bool
    """Whether anybody wants to know what was measured."""
    judged: bool = False
    """Whether any of them has a difficulty probe."""


class Measured(NamedTuple):
    """What one step measured at the rows of a group."""

    group: Group
    indices: NDArray[np.int64] | Tensor
    """Token index of each row in its completion; negative where nothing is sampled."""
    entropy: Tensor
    """Nats, shape (rows,)."""
    temperature: Tensor
    """Shape (rows,)."""


class Controller:
    """Per-slot laws and the step that applies them."""

    def __init__(
        self, num_slots: int, vocab_size: int, device: torch.device, publisher: Publisher | None
    ) -> None:
        self.kernels = Kernels(vocab_size, device)
        self.steps = 0
        """Sampling steps seen; moves whenever the engine makes progress."""
        self.failures = 0
        self._device = device
        self._publisher = publisher
        # law, base temperature, parameters
        self._table = np.zeros((num_slots, 2 + NUM_PARAMETERS), dtype=np.float32)
        self._device_table = torch.zeros(2 + NUM_PARAMETERS, num_slots, device=device)
        self._active = np.zeros(num_slots, dtype=bool)
        self._directory = Directory(
            np.zeros(num_slots, np.uint64),
            np.zeros(num_slots, np.uint32),
            np.full(num_slots, "", dtype=object),
        )
        self._stale = False
        self.difficulty: DifficultyControl | None = None
        """Set by `read_difficulty`; None where no probe fits the model."""
        self.steering: SteeringControl | None = None
        """Set by the plugin; None where no vector fits the model."""

    def read_difficulty(self, model: Any, heads: Mapping[str, Head]) -> None:
        """Read these probes on a loaded model.

        Args:
            model: Its output head is tapped.
            heads: By artifact id.
        """
        self.difficulty = DifficultyControl(len(self._active), self._device, heads)
        self.difficulty.tap.attach(model)

    def report_to(self, publisher: Publisher) -> None:
        """Send traces here from now on."""
        self._publisher = publisher

    def mute(self) -> None:
        """Send no traces: another rank that sees the same rows does."""
        self._publisher = None

    @property
    def lost_records(self) -> int:
        """Trace records that no API server took."""
        return 0 if self._publisher is None else self._publisher.lost

    # -- slots -----------------------------------------------------------------------------

    def add(self, slot: int, extra_args: Mapping[str, Any] | None, base: float) -> bool:
        """Seat a request in a slot, wiping whatever sat there before.

        Args:
            slot: Where.
            extra_args: Of its sampling parameters; without a control the slot becomes idle.
            base: Its own temperature; 0 is greedy.

        Returns:
            Whether the request is controlled.
        """
        control = (extra_args or {}).get(KEY)
        if control is None:
            self.remove(slot)
            return False
        self._table[slot] = [control["law"], base, *control["parameters"]]
        self._active[slot] = True
        self._seat(slot, control["trace"], 0, control["address"])
        if self.difficulty is not None:
            self.difficulty.add(slot, control["difficulty"])
        if self.steering is not None:
            self.steering.add(slot, control["steering"])
        else:  # better no answer than one that is not steered and says it is
            assert control["steering"] is None, "this worker has no steering vectors"
        return True

    def remove(self, slot: int) -> None:
        """Make a slot idle."""
        if self._active[slot]:
            self._table[slot] = 0.0
            self._active[slot] = False
            self._seat(slot, 0, 0, "")
            if self.difficulty is not None:
                self.difficulty.remove(slot)
            if self.steering is not None:
                self.steering.remove(slot)

    def move(self, source: int, target: int) -> None:
        """Move a request to another slot; the source becomes idle."""
        self.swap(source, target)
        self.remove(source)

    def swap(self, one: int, two: int) -> None:
        """Exchange two slots."""
        if not (self._active[one] or self._active[two]):
            return
        self._directory = self._directory.copy()
        for column in (self._table, self._active, *self._directory):
            column[[one, two]] = column[[two, one]]
        if self.difficulty is not None:
            self.difficulty.swap(one, two)
        if self.steering is not None:
            self.steering.swap(one, two)
        self._stale = True

    def name_choice(self, slot: int, choice: int) -> None:
        """Say which of a request's n completions sits in a slot."""
        self._seat(slot, int(self._directory.traces[slot]), choice, self._directory.addresses[slot])

    def _seat(self, slot: int, trace: int, choice: int, address: str) -> None:
        self._directory = self._directory.copy()
        self._directory.traces[slot] = trace
        self._directory.choices[slot] = choice
        self._directory.addresses[slot] = address
        self._stale = True

    # -- batches ---------------------------------------------------------------------------

    def is_active(self, slots: NDArray[np.int64] | slice) -> bool:
        """Whether any of these slots holds a controlled request."""
        return bool(self._active[slots].any())

    def needs_solver(self, slots: NDArray[np.int64] | slice) -> bool:
        """Whether any of these slots follows an entropy target."""
        return bool((self._table[slots, 0] == EntropyTargetLaw.tag).any())

    def is_traced(self, slots: NDArray[np.int64] | slice) -> bool:
        """Whether any of these slots sends a trace."""
        return bool(self._directory.traces[slots].any())

    def is_judged(self, slots: NDArray[np.int64] | slice) -> bool:
        """Whether any of these slots has a difficulty probe."""
        return self.difficulty is not None and self.difficulty.is_active(slots)

    def groups(self, slot_of_row: NDArray[np.int64]) -> list[Group]:
        """Split a batch into rows that are decided alike.

        Rows without a control are in no group: they are neither read nor written.

        Args:
            slot_of_row: Slot of each row of the batch, shape (rows,).
        """
        active = self._active[slot_of_row]
        solving = self._table[slot_of_row, 0] == EntropyTargetLaw.tag
        groups = []
        for solve, members in ((False, active & ~solving), (True, solving)):
            host_rows = members.nonzero()[0]
            if len(host_rows):
                host_slots = slot_of_row[host_rows]
                rows, slots = (
                    torch.from_numpy(part).to(self._device, non_blocking=True)
                    for part in (host_rows, host_slots)
                )
                traced, judged = self.is_traced(host_slots), self.is_judged(host_slots)
                everyone = len(host_rows) == len(slot_of_row)
                groups.append(
                    Group(None if everyone else rows, slots, host_slots, solve, traced, judged)
                )
        return groups

    def flush(self) -> None:
        """Bring the device's copy of the slots up to date."""
        if self._stale:
            columns = torch.from_numpy(self._table.T.copy())
            self._device_table.copy_(columns, non_blocking=True)
            self._stale = False
        if self.difficulty is not None:
            self.difficulty.flush()

    # -- the step --------------------------------------------------------------------------

    def settle(
        self,
        hidden: Tensor,
        rows: NDArray[np.int64],
        slots: NDArray[np.int64],
        indices: NDArray[np.int64],
    ) -> None:
        """Let difficulty probes read the prompts that ended in this step.

        Args:
            hidden: Final hidden states, shape (any number of rows, hidden size).
            rows: Row of `hidden` of each request that may have ended its prompt.
            slots: Of these rows.
            indices: Token that each row draws next; negative while its prompt is still read.
        """
        assert self.difficulty is not None
        try:
            self.difficulty.settle(hidden, rows, slots, indices, self._directory, self._publisher)
        except Exception:  # as in `control`: the answer is then one of no class
            self.failures += 1
            if self.failures == 1:
                logger.exception("entrostat: a difficulty probe failed, decoding goes on")

    def control(
        self, logits: Tensor, group: Group, indices: NDArray[np.int64] | Tensor
    ) -> Measured:
        """Scale the logits of a group in place so that the sampler draws at each row's T.

        The sampler divides by the request's own temperature afterwards, so what happens here is a
        division by T / T0. A failure leaves the logits alone: the request is decoded plainly and
        its trace says so.

        Args:
            logits: The whole batch, shape (rows, vocab), float32, before temperature.
            group: Which rows.
            indices: Token index of each row of the group.

        Returns:
            What was measured, for `publish`.
        """
        mine = logits if group.rows is None else logits[group.rows]
        difficulty = self.difficulty if group.judged else None
        try:
            table = self._device_table[:, group.slots]
            law, own, parameters = table[0], table[1], table[2:].T
            base = own.clone() if difficulty is None else difficulty.base(group.slots, own)
            entropy, temperature = self.kernels.decide(
                mine, base, law, parameters, solve=group.solve
            )
        except Exception:  # the boundary where a failing control must not fail the request
            self.failures += 1
            if self.failures == 1:
                logger.exception("entrostat: a control failed, decoding goes on without it")
            entropy = temperature = torch.full((len(mine),), torch.nan, device=self._device)
        else:
            scale = torch.where(temperature == own, 1.0, temperature / own).unsqueeze(-1)
            if group.rows is None:
                logits.div_(scale)
            else:
                logits[group.rows] = mine.div_(scale)
            if difficulty is not None and difficulty.may_end(group.host_slots, indices):
                difficulty.limit(logits, group.rows, group.slots, indices)
        return Measured(group, indices, entropy, temperature)

    def publish(self, measured: Measured) -> None:
        """Send what `control` measured to the API servers, if anybody wants it."""
        group = measured.group
        if self._publisher is not None and group.traced:
            slots = group.slots if group.host_slots is None else group.host_slots
            self._publisher.publish(
                measured.entropy, measured.temperature, slots, measured.indices, self._directory
            )
