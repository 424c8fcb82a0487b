"""Receives traces from the workers and hands every answer its own.

One ZeroMQ PULL socket per API server. Workers push to the address that came with the request, so
several API servers, several engines and several completions per request need no coordination.
"""

import asyncio
import itertools
import logging
import os
import socket
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple
from uuid import uuid4

import zmq
import zmq.asyncio

from probes.difficulty.strategies import Difficulty
from server import metrics
from server.worker.records import DECISION, read_frame

logger = logging.getLogger("vllm.entrostat")

_PREFIX = "entrostat-"
_NEW = 60.0
"""Seconds; a younger socket may belong to a server that does not listen yet."""
Token = tuple[float, float]
"""Entropy in nats and applied temperature; NaN where there was none."""


class Decision(NamedTuple):
    """What a difficulty probe said."""

    difficulty: Difficulty
    probabilities: tuple[float, float, float]
    """By the value of `Difficulty`; NaN when the model's state was not finite."""


class _Tokens:
    """The tokens of one completion, and how many of them have arrived without a gap."""

    def __init__(self) -> None:
        self.by_index: dict[int, Token] = {}
        self.leading = 0


class TraceBuffer:
    """The trace of one `generate` call, by completion, filling up as records arrive."""

    def __init__(self, identifier: int) -> None:
        self.id = identifier
        self._tokens = defaultdict[int, _Tokens](_Tokens)
        self.decisions: dict[int, Decision] = {}
        """By completion."""
        self._arrived = asyncio.Event()

    def put(self, choice: int, index: int, token: Token) -> None:
        """Store a record; a later one for the same token wins (a preempted step was repeated)."""
        tokens = self._tokens[choice]
        tokens.by_index[index] = token
        while tokens.leading in tokens.by_index:
            tokens.leading += 1
        self._arrived.set()

    def has(self, choice: int, start: int, stop: int) -> bool:
        """Whether every token in [start, stop) is here. Looks at no token twice."""
        tokens = self._tokens[choice]
        missing = range(max(start, tokens.leading), stop)
        return all(index in tokens.by_index for index in missing)

    def get(self, choice: int, start: int, stop: int) -> list[Token]:
        """The tokens in [start, stop) that are here, in order."""
        tokens = self._tokens[choice].by_index
        return [tokens[index] for index in range(start, stop) if index in tokens]

    async def wait(self, choice: int, start: int, stop: int, deadline: float) -> bool:
        """Wait until [start, stop) is complete.

        Args:
            choice: Which completion.
            start: First token.
            stop: One past the last.
            deadline: On the clock of `time.monotonic`.

        Returns:
            Whether it is complete.
        """
        return await self._wait(lambda: self.has(choice, start, stop), deadline)

    async def wait_decision(self, choice: int, deadline: float) -> Decision | None:
        """Wait for what the difficulty probe said of a completion; None if nothing came."""
        await self._wait(lambda: choice in self.decisions, deadline)
        return self.decisions.get(choice)

    def decide(self, choice: int, decision: Decision) -> None:
        """Store what the difficulty probe said."""
        self.decisions[choice] = decision
        self._arrived.set()

    async def _wait(self, arrived: Callable[[], bool], deadline: float) -> bool:
        while not arrived():
            self._arrived.clear()
            try:
                async with asyncio.timeout(deadline - time.monotonic()):
                    await self._arrived.wait()
            except TimeoutError:
                return False
        return True


class Telemetry:
    """The receiving end of one API server."""

    def __init__(self) -> None:
        # Short and private: a Unix socket path may have 107 characters.
        name = f"{_PREFIX}{os.getpid()}-{uuid4().hex[:8]}"
        self._path = Path(tempfile.gettempdir()) / name
        self.address = f"ipc://{self._path}"
        self._ids = itertools.count(1)
        self._open: dict[int, TraceBuffer] = {}
        self._task: asyncio.Task[None] | None = None
        self._socket: zmq.asyncio.Socket | None = None
        self._context: zmq.asyncio.Context | None = None

    @property
    def num_open(self) -> int:
        """Traces that were started and not closed."""
        return len(self._open)

    @property
    def receives(self) -> bool:
        """Whether the receiver runs."""
        return self._task is not None and not self._task.done()

    def start(self) -> None:
        """Bind and start receiving; call inside the event loop."""
        remove_stale_sockets(self._path.parent)
        self._context = zmq.asyncio.Context()
        self._socket = receiver = self._context.socket(zmq.PULL)
        receiver.setsockopt(zmq.RCVHWM, 100_000)
        receiver.bind(self.address)
        self._path.chmod(0o600)
        self._task = asyncio.create_task(self._receive(receiver), name="entrostat-telemetry")

    async def stop(self) -> None:
        """Stop receiving and remove the socket."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self._socket is not None:
            self._socket.close(linger=0)
        if self._context is not None:
            self._context.term()
        self._path.unlink(missing_ok=True)

    def open(self) -> TraceBuffer:
        """Start a trace."""
        trace = TraceBuffer(next(self._ids))
        self._open[trace.id] = trace
        return trace

    def close(self, trace: TraceBuffer) -> None:
        """Drop a trace; records that still come for it are ignored."""
        self._open.pop(trace.id, None)

    async def _receive(self, receiver: zmq.asyncio.Socket) -> None:
        try:
            while True:
                self.feed(await receiver.recv())
        except Exception:
            logger.exception("entrostat: the telemetry receiver ended; /ready answers 503")
            raise

    def feed(self, frame: bytes) -> None:
        """Distribute one frame. One that cannot be read is dropped and counted."""
        try:
            self._distribute(frame)
        except Exception as error:  # whatever a frame holds, the next one is received
            metrics.dropped_frame()
            logger.warning("entrostat: a telemetry frame was dropped: %s", error)

    def _distribute(self, frame: bytes) -> None:
        records = read_frame(frame)
        decides = records.dtype == DECISION
        for identifier, choice, what, *values in records.tolist():
            if (trace := self._open.get(identifier)) is None:
                continue
            if decides:
                trace.decide(choice, Decision(Difficulty(what), tuple(values)))
            else:
                trace.put(choice, what, tuple(values))


def remove_stale_sockets(folder: Path) -> None:
    """Delete sockets that a killed server left behind: those that nobody listens to."""
    for path in folder.glob(f"{_PREFIX}*"):
        try:
            if path.is_socket() and time.time() - path.stat().st_mtime > _NEW and _is_dead(path):
                path.unlink()
        except OSError as error:  # it is gone, or another user's
            logger.debug("entrostat: %s stays: %s", path, error)


def _is_dead(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.settimeout(1.0)
            probe.connect(str(path))
        except ConnectionRefusedError:
            return True
    return False
