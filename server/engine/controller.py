"""The controller: entropy of each row, temperature of each row, scaled logits. For any runner.

State is one row per request slot, kept on the host and copied to the device only when a request
joins, leaves or moves. A step without controlled requests returns at once; a step with them runs a
fixed number of tensor operations, whatever the batch, and never waits for the device.

An exception here would end the engine and every request in it. So nothing raises: a request whose
control fails continues without it, its trace says so, and `failures` counts it.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import product
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from vllm.logger import init_logger

from probes.difficulty.probe import Head
from probes.laws import ShuffledLaw
from probes.selective.state import StateReader
from server.engine.difficulty import DifficultySlots, Tap
from server.engine.kernels import Kernels
from server.engine.phases import Fed, PhaseSlots
from server.engine.publisher import Publisher
from server.engine.shuffled import ShuffledSlots
from server.engine.slots import (
    BASE,
    LAW,
    PARAMETERS,
    LawTable,
    SlotTable,
    TraceTable,
    reported_temperature,
)
from server.engine.states import StateSlots
from server.engine.steering import SteeringControl
from server.engine.step import Group, Measured, Odds, PromptRows, logprobs, on_device, record
from server.engine.truncation import TruncationSlots
from server.engine.weak import WeakSlots
from server.engine.weights import refuse_unusable
from server.worker.message import KEY, WorkerArtifact

logger = init_logger("vllm.entrostat")


class Controller:
    """The tables of all slots, and the step that applies them."""

    def __init__(
        self, num_slots: int, vocab_size: int, device: torch.device, publisher: Publisher | None
    ) -> None:
        self.kernels = Kernels(vocab_size, device)
        self.steps = 0
        """Sampling steps seen; grows whenever the engine makes progress."""
        self.failures = 0
        """Controls that failed."""
        self._num_slots = num_slots
        self._device = device
        self.publisher = publisher
        self.laws = LawTable(num_slots, device)
        self.traces = TraceTable(num_slots)
        self.shuffled = ShuffledSlots(num_slots, device)
        self.truncation = TruncationSlots(num_slots, vocab_size, device)
        self.phases = PhaseSlots(num_slots, device)
        self.weak = WeakSlots(num_slots, device)
        self.difficulty: DifficultySlots | None = None
        """Set by `read_difficulty`; None where no probe fits the model."""
        self.readers: list[DifficultySlots | StateSlots] = []
        """Tables that read the end of a prompt: of difficulty and of confidence."""
        self.tap = Tap()
        self.steering: SteeringControl | None = None
        """Set by the plugin; None where no vector fits the model."""
        self.weight_updates = 0
        """Times that weights were loaded after the start; artifacts belong to those before."""
        self.artifacts: dict[str, WorkerArtifact] = {}
        """What this worker has loaded, by id; set by the plugin."""

    def read_difficulty(self, model: Any, heads: Mapping[str, Head]) -> None:
        """Read these probes, by artifact id, on a loaded model: its output head is tapped."""
        self.difficulty = DifficultySlots(self._num_slots, self._device, heads)
        self.readers = [*(r for r in self.readers if isinstance(r, StateSlots)), self.difficulty]
        self.tap.attach(model)

    def read_states(self, model: Any, readers: Mapping[str, StateReader]) -> None:
        """Read these confidence probes on a loaded model; arguments as of `read_difficulty`."""
        self.readers.append(StateSlots(self._num_slots, self._device, readers))
        self.tap.attach(model)

    def report_to(self, publisher: Publisher | None) -> None:
        """Set the publisher that sends traces; None if another rank with the same rows does."""
        self.publisher = publisher

    @property
    def lost_records(self) -> dict[str, int]:
        """Number of trace records that no API server took, by cause."""
        return {} if self.publisher is None else {**self.publisher.lost}

    # -- failures --------------------------------------------------------------------------

    @contextmanager
    def contain_failures(self, *slots: int) -> Iterator[None]:
        """Catch any error of these slots' controls and disable the controls."""
        try:
            yield
        except Exception as error:  # any error would end the engine and all its requests
            self.count_failure(error)
            for slot in slots:
                self.fail(slot)

    @contextmanager
    def contain_step_failures(self) -> Iterator[None]:
        """Like `contain_failures` for a whole step, in which the failing slot is unknown."""
        try:
            yield
        except Exception as error:  # as in `contain_failures`
            self.count_failure(error)
            with self.contain_failures():  # even if clearing the slots fails
                for slot in np.flatnonzero(self.laws.active).tolist():
                    self.fail(slot)
                if self.steering is not None:
                    self.steering.clear_rows()

    def count_failure(self, error: Exception) -> None:
        """Count a failed control; the first one is logged with its traceback."""
        self.failures += 1
        if self.failures == 1:
            logger.error("entrostat: a control failed, decoding goes on without it", exc_info=error)

    def fail(self, slot: int) -> None:
        """Disable the controls of a request; its trace says that they failed."""
        for reader in self.readers:
            with self.contain_failures():
                reader.remove(slot)
        if self.steering is not None:
            with self.contain_failures():
                self.steering.fail(slot)
        self.phases.remove(slot)
        self.weak.remove(slot)
        self.laws.fail(slot)

    # -- slots -----------------------------------------------------------------------------

    @property
    def _tables(self) -> list[SlotTable]:
        always = (self.traces, self.laws, self.shuffled, self.truncation, self.phases, self.weak)
        return [*always, *self.readers, *([] if self.steering is None else [self.steering])]

    def add(self, slot: int, extra_args: Mapping[str, Any] | None, base: float) -> bool:
        """Assign a request to a slot and reset the slot's state.

        Args:
            slot: Which.
            extra_args: Of its sampling parameters; without a control the slot becomes idle.
            base: Its own temperature; 0 is greedy.

        Returns:
            Whether the request is controlled.
        """
        self.remove(slot)
        request = (extra_args or {}).get(KEY)
        if request is None:
            return False
        failures = self.failures
        for table in self._tables:
            with self.contain_failures():
                table.add(slot, request)
        with self.contain_failures():
            refuse_unusable(request, self.steering is not None, self.weight_updates)
        with self.contain_failures():
            self.laws.set_base(slot, base)
        if self.failures > failures:
            self.fail(slot)
            self.laws.rows[slot, BASE] = base
        return True

    def remove(self, slot: int) -> None:
        """Make a slot idle."""
        if self.laws.active[slot]:
            for table in self._tables:
                with self.contain_failures(slot):
                    table.remove(slot)

    def move(self, source: int, target: int) -> None:
        """Move a request to another slot; the source becomes idle."""
        self.swap(source, target)
        self.remove(source)

    def swap(self, one: int, two: int) -> None:
        """Exchange two slots."""
        if not (self.laws.active[one] or self.laws.active[two]):
            return
        for table in self._tables:
            with self.contain_failures(*(slot for slot in (one, two) if self.laws.active[slot])):
                table.swap(one, two)

    def name_choice(self, slot: int, request_id: str) -> None:
        """Set which of a request's n completions occupies a slot.

        Args:
            slot: Which.
            request_id: vLLM names the i-th of n completions `i_<request id>`.
        """
        with self.contain_failures(slot):
            choice = int(request_id.partition("_")[0])
            for table in (self.traces, self.shuffled, self.truncation, self.phases):
                table.name_choice(slot, choice)

    # -- batches ---------------------------------------------------------------------------

    def is_active(self, slots: NDArray[np.int64] | slice) -> bool:
        """Whether any of these slots holds a controlled request."""
        return bool(self.laws.active[slots].any())

    def has_probes(self, slots: NDArray[np.int64] | slice) -> bool:
        """Whether any of these slots has a probe that reads the end of its prompt."""
        return any(reader.is_active(slots) for reader in self.readers)

    def groups(self, slot_of_row: NDArray[np.int64]) -> list[Group]:
        """Split a batch into groups of rows that need the same computations.

        Rows without a control are in no group: they are neither read nor written.

        Args:
            slot_of_row: Slot of each row of the batch, shape (rows,).
        """
        active = self.laws.active[slot_of_row]
        solving = self.laws.solving(slot_of_row) | self.phases.solving(slot_of_row)
        truncating = self.truncation.truncates(slot_of_row)
        groups = []
        for solve, truncate in product((False, True), (False, True)):
            members = active & (solving == solve) & (truncating == truncate)
            host_rows = members.nonzero()[0]
            if len(host_rows):
                host_slots = slot_of_row[host_rows]
                rows, slots = (on_device(part, self._device) for part in (host_rows, host_slots))
                everyone = len(host_rows) == len(slot_of_row)
                groups.append(self.group(None if everyone else rows, slots, host_slots))
        return groups

    def group(self, rows: Tensor | None, slots: Tensor, host_slots: NDArray[np.int64]) -> Group:
        """Make a group of these rows.

        Args:
            rows: Their positions in the batch, on the device; None means every row.
            slots: Their slots, on the device.
            host_slots: The slots that occur, on the host.
        """
        return Group(
            rows,
            slots,
            host_slots,
            solve=bool((self.laws.solving(host_slots) | self.phases.solving(host_slots)).any()),
            traced=self.traces.is_traced(host_slots),
            has_probe=self.has_probes(host_slots),
            classified=self.difficulty is not None and self.difficulty.is_active(host_slots),
            shuffled=self.shuffled.is_active(host_slots),
            truncated=bool(self.truncation.truncates(host_slots).any()),
            confident=bool(self.traces.confident[host_slots].any()),
            learns=self.truncation.learns(host_slots),
            phased=self.phases.is_active(host_slots),
            weak=self.weak.is_active(host_slots),
        )

    def flush(self) -> None:
        """Bring the device's copy of the slots up to date."""
        with self.contain_failures():
            tables = (self.laws, self.shuffled, self.truncation, self.phases, self.weak)
            for table in (*tables, self.difficulty):
                if table is not None:
                    table.flush()

    # -- the step --------------------------------------------------------------------------

    def read_prompts(self, prompts: PromptRows) -> None:
        """Run the probes of the prompts that ended in this step."""
        directory = self.traces.directory
        for reader in self.readers:
            with self.contain_failures():  # the answer then has no class, or no probability
                reader.read_prompts(prompts, directory, self.publisher)

    def control(
        self,
        logits: Tensor,
        group: Group,
        indices: NDArray[np.int64] | Tensor,
        fed: Fed | None = None,
    ) -> Measured:
        """Scale the logits of a group in place so that the sampler draws at each row's T.

        The sampler divides by the request's own temperature afterwards, so what happens here is a
        division by T / T0. A failure leaves the logits unchanged: the request continues and
        its trace says so.

        Args:
            logits: The whole batch, shape (rows, vocab), float32, before temperature.
            group: Which rows.
            indices: Token index of each row of the group.
            fed: What its rows read; None if no row is a draft's.

        Returns:
            What was measured, for `publish`.
        """
        mine = logits if group.rows is None else logits[group.rows]
        difficulty = self.difficulty if group.classified else None
        sends = group.traced and self.publisher is not None
        try:
            tables = (self.laws, self.shuffled, self.truncation, self.phases, self.weak)
            if any(table is not None and table.stale for table in (*tables, difficulty)):
                raise RuntimeError("the device's copy of the slots is out of date")
            table = self.laws.device_columns[:, group.slots]
            if group.phased:
                self.phases.select_law(table, group.slots, fed)
            law, own, parameters = table[LAW], table[BASE], table[PARAMETERS].T
            if group.shuffled:
                drawn = self.shuffled.temperatures(group.slots, indices)
                parameters[:, 0] = torch.where(law == ShuffledLaw.tag, drawn, parameters[:, 0])
            base = own.clone() if difficulty is None else difficulty.base(group.slots, own)
            decision = self.kernels.decide(mine, base, law, parameters, solve=group.solve)
            temperature, kept = decision.temperature, None
            asked = (sends and group.confident) or group.weak
            confidence = self.kernels.confidence(mine, decision) if asked else None
            if group.truncated:
                kept = self.truncation.apply(self.kernels, mine, decision, group.slots)
            sampled = self.kernels.sampled_entropy(mine, decision) if sends else None
            scale = torch.where(temperature == own, 1.0, temperature / own).unsqueeze(-1)
            if group.rows is None:
                logits.div_(scale)
            else:
                logits[group.rows] = mine.div_(scale)
            if difficulty is not None and difficulty.may_end(group.host_slots, indices):
                difficulty.limit(logits, group.rows, group.slots, indices)
            if group.weak and confidence is not None:
                self.weak.end(logits, group.rows, group.slots, indices, confidence[0])
            odds = Odds(logits, temperature, decision.maximum, decision.log_total, kept)
            if self.laws.any_failed():
                temperature = reported_temperature(temperature, table)
        except Exception as error:  # a failing control must not fail a request
            self.count_failure(error)
            nothing = torch.full((len(mine),), torch.nan, device=self._device)
            sampled = nothing if sends else None
            return Measured(group, indices, nothing, nothing, sampled, nothing, None, None)
        entropy, varentropy = decision.entropy, decision.varentropy
        return Measured(group, indices, entropy, temperature, sampled, varentropy, confidence, odds)

    def learn(self, measured: Measured, sampled: Tensor) -> Tensor | None:
        """Pass the sampled tokens to the controls, before the next step.

        Args:
            measured: What `control` returned.
            sampled: Token of every row of the group; anything where none was sampled.

        Returns:
            Log-probability of each token at T = 1, nats, shape (rows,); NaN where a token was
            forced. None if nothing is known, or nobody asked.
        """
        group = measured.group
        try:
            if group.phased:
                indices = on_device(measured.indices, self._device)
                self.phases.learn(group.slots, indices, sampled)
            reported = measured.sampled_entropy is not None
            if measured.odds is None or not (reported or group.learns):
                return None
            plain, own = logprobs(measured.odds, group, sampled)
            if group.learns:
                drawn = on_device(measured.indices, self._device) >= 0
                self.truncation.learn(group.slots, torch.where(drawn, -own, torch.nan))
        except Exception as error:  # as in `control`
            self.count_failure(error)
            return None
        return plain

    def publish(self, measured: Measured, logprob: Tensor | None = None) -> None:
        """Send what was measured to the API servers, if any of the requests is traced.

        Args:
            measured: What `control` returned.
            logprob: What `learn` returned.
        """
        group = measured.group
        if self.publisher is not None and measured.sampled_entropy is not None:
            slots = group.slots if group.host_slots is None else group.host_slots
            with self.contain_failures():
                values, directory = record(measured, logprob), self.traces.directory
                self.publisher.publish(values, slots, measured.indices, directory)
