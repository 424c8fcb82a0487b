"""Sends trace records to the API servers from a separate thread.

The engine thread queues device tensors and returns at once; the sender thread waits for the
copy, packs the records and pushes one frame per receiver and step. A receiver that is gone or slow
loses records, never holds up decoding; the answer then says that its trace is incomplete.
"""

import queue
import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import zmq
from numpy.typing import NDArray
from torch import Tensor
from vllm.logger import init_logger

from server.worker.records import DECISION, STATE, TOKEN, Records, write_frame

logger = init_logger("vllm.entrostat")

_MAX_STEPS = 4096
"""Maximum number of queued steps."""
_MAX_SOCKETS = 256
"""Maximum number of open sockets; each receiver is an API server, so most of more are gone."""


_Column = NDArray[np.int64] | Tensor


class Directory(NamedTuple):
    """The receiver of each slot's trace."""

    traces: NDArray[np.uint64]
    """Trace id per slot; 0 sends none."""
    choices: NDArray[np.uint32]
    addresses: NDArray[np.object_]
    """ZeroMQ endpoint per slot."""

    def copy(self) -> "Directory":
        """A copy to change before it replaces this one."""
        return Directory(self.traces.copy(), self.choices.copy(), self.addresses.copy())


class _Step(NamedTuple):
    """Rows being copied to the host, and what they are packed into."""

    kind: np.dtype[np.void]
    columns: dict[str, _Column]
    """`slot` and the known fields of `kind`, each of shape (rows,); the others are NaN."""
    directory: Directory
    copied: torch.Event | None

    @property
    def num_rows(self) -> int:
        """Length of every column."""
        return len(self.columns["slot"])


class Publisher:
    """One thread and one ZeroMQ PUSH socket per receiving API server."""

    def __init__(self) -> None:
        self._steps: queue.Queue[_Step | None] = queue.Queue(_MAX_STEPS)
        self._sockets: OrderedDict[str, zmq.Socket[bytes]] = OrderedDict()
        """By address, least recently used first."""
        self._thread: threading.Thread | None = None
        self.lost = {"queue_full": 0, "no_receiver": 0, "error": 0}
        """Number of lost records by cause."""

    def publish(
        self,
        values: Sequence[Tensor | None],
        slots: NDArray[np.int64] | Tensor,
        indices: NDArray[np.int64] | Tensor,
        directory: Directory,
    ) -> None:
        """Queue one step's rows. Never waits for the device.

        Args:
            values: The fields of `TOKEN` after the index, in order, each of shape (rows,), on the
                device; None sends NaN.
            slots: Slot of each row, on either side.
            indices: Token index of each row in its completion; negative rows are dropped (their
                prompt is not read to the end yet, so nothing was sampled).
            directory: Who receives the trace of each slot now.
        """
        self._queue(TOKEN, slots, [indices, *values], directory)

    def publish_decisions(
        self,
        classes: Tensor,
        figures: Tensor,
        slots: NDArray[np.int64],
        directory: Directory,
    ) -> None:
        """Queue the decisions of difficulty probes.

        Args:
            classes: Values of `Difficulty`, shape (rows,), on the device.
            figures: Probability of each class, expected accuracy and tokens of each strategy,
                distance of the state; shape (rows, 10), on the device.
            slots: Slot of each row.
            directory: The receiver of each slot's decision.
        """
        self._queue(DECISION, slots, [classes, *figures.unbind(1)], directory)

    def publish_states(
        self, figures: Tensor, slots: NDArray[np.int64], directory: Directory
    ) -> None:
        """Queue what confidence probes read at the end of prompts.

        Args:
            figures: Score and distance, shape (rows, 2), on the device.
            slots: Slot of each row.
            directory: The receiver of each slot's trace.
        """
        self._queue(STATE, slots, [*figures.unbind(1)], directory)

    def _queue(
        self,
        kind: np.dtype[np.void],
        slots: NDArray[np.int64] | Tensor,
        values: Sequence[_Column | None],
        directory: Directory,
    ) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="entrostat-trace", daemon=True)
            self._thread.start()
        fields = zip((kind.names or ())[2:], values, strict=True)
        columns = {"slot": slots} | {name: one for name, one in fields if one is not None}
        copied = None
        if any(isinstance(one, Tensor) and one.device.type != "cpu" for one in columns.values()):
            columns = _to_host(columns)
            copied = torch.Event(blocking=True)  # one that spins would hold the driver's lock
            copied.record()
        try:
            self._steps.put_nowait(_Step(kind, columns, directory, copied))
        except queue.Full:  # the queue is full: drop the records rather than wait
            self.lost["queue_full"] += len(slots)

    def close(self) -> None:
        """Send what is queued and stop the thread."""
        if self._thread is not None:
            self._steps.put(None, timeout=5)
            self._thread.join(timeout=5)

    def _run(self) -> None:
        context = zmq.Context()
        while (step := self._steps.get()) is not None:
            try:
                if step.copied is not None:
                    step.copied.synchronize()
                self._send(context, step)
            except Exception:  # any error: continue with the next step
                self.lost["error"] += step.num_rows
        for socket in self._sockets.values():
            socket.close(linger=1000)
        context.term()

    def _send(self, context: "zmq.Context[zmq.Socket[bytes]]", step: _Step) -> None:
        columns = {name: np.asarray(column) for name, column in step.columns.items()}
        slots = columns["slot"]
        keep = step.directory.traces[slots] != 0
        if step.kind is TOKEN:
            keep &= columns["index"] >= 0
        slots = slots[keep]
        if not len(slots):
            return
        records = np.empty(len(slots), dtype=step.kind)
        records["trace"] = step.directory.traces[slots]
        records["choice"] = step.directory.choices[slots]
        for field in (step.kind.names or ())[2:]:
            records[field] = columns[field][keep] if field in columns else np.nan
        addresses = step.directory.addresses[slots]
        for address in set(addresses):
            self._push(context, address, records[addresses == address])

    def _push(
        self, context: "zmq.Context[zmq.Socket[bytes]]", address: str, records: Records
    ) -> None:
        try:
            self._socket(context, address).send(write_frame(records), zmq.NOBLOCK)
        except zmq.ZMQError:  # no such endpoint, or its queue is full
            self.lost["no_receiver"] += len(records)

    def _socket(self, context: "zmq.Context[zmq.Socket[bytes]]", address: str) -> zmq.Socket[bytes]:
        if address not in self._sockets:
            socket = context.socket(zmq.PUSH)
            try:
                socket.connect(address)
            except zmq.ZMQError:  # an open socket would keep the context from ending
                socket.close(linger=0)
                raise
            self._sockets[address] = socket
            if len(self._sockets) > _MAX_SOCKETS:
                self._sockets.popitem(last=False)[1].close(linger=1000)
        self._sockets.move_to_end(address)
        return self._sockets[address]


def _to_host(columns: dict[str, _Column]) -> dict[str, _Column]:
    """Start copying tensors to pinned memory, whole numbers together and the others together."""
    found = {**columns}
    for floating in (False, True):
        tensors = {name: one for name, one in columns.items() if isinstance(one, Tensor)}
        rows = {name: one for name, one in tensors.items() if one.is_floating_point() == floating}
        if rows:
            host = torch.stack([*rows.values()]).to("cpu", non_blocking=True)  # pins its memory
            found |= dict(zip(rows, host, strict=True))
    return found
