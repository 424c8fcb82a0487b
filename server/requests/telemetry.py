"""Receives traces from the workers and hands every answer its own.

One ZeroMQ PULL socket per API server. Workers push to the address that came with the request, so
several API servers, several engines and several completions per request need no coordination.
"""

import asyncio
import itertools
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple
from uuid import uuid4

import zmq
import zmq.asyncio

from probes.difficulty.strategies import Difficulty
from server.worker.records import DECISION, read_frame

Token = tuple[float, float]
"""Entropy in nats and applied temperature; NaN where there was none."""


class Decision(NamedTuple):
    """What a difficulty probe said."""

    difficulty: Difficulty
    probabilities: tuple[float, float, float]
    """By the value of `Difficulty`; NaN when the model's state was not finite."""


class TraceBuffer:
    """The trace of one `generate` call, by completion, filling up as records arrive."""

    def __init__(self, identifier: int) -> None:
        self.id = identifier
        self._tokens: dict[int, dict[int, Token]] = {}
        self.decisions: dict[int, Decision] = {}
        """By completion."""
        self._arrived = asyncio.Event()

    def put(self, choice: int, index: int, token: Token) -> None:
        """Store a record; a later one for the same token wins (a preempted step was repeated)."""
        self._tokens.setdefault(choice, {})[index] = token
        self._arrived.set()

    def has(self, choice: int, start: int, stop: int) -> bool:
        """Whether every token in [start, stop) is here."""
        tokens = self._tokens.get(choice, {})
        return all(index in tokens for index in range(start, stop))

    def get(self, choice: int, start: int, stop: int) -> list[Token]:
        """The tokens in [start, stop) that are here, in order."""
        tokens = self._tokens.get(choice, {})
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
        name = f"entrostat-{os.getpid()}-{uuid4().hex[:8]}"
        self._path = Path(tempfile.gettempdir()) / name
        self.address = f"ipc://{self._path}"
        self._ids = itertools.count(1)
        self._open: dict[int, TraceBuffer] = {}
        self._task: asyncio.Task[None] | None = None
        self._socket: zmq.asyncio.Socket | None = None
        self._context: zmq.asyncio.Context | None = None

    def start(self) -> None:
        """Bind and start receiving; call inside the event loop."""
        self._context = zmq.asyncio.Context()
        self._socket = socket = self._context.socket(zmq.PULL)
        socket.setsockopt(zmq.RCVHWM, 100_000)
        socket.bind(self.address)
        self._path.chmod(0o600)
        self._task = asyncio.create_task(self._receive(socket), name="entrostat-telemetry")

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
        """Forget a trace; records that still come for it are dropped."""
        self._open.pop(trace.id, None)

    async def _receive(self, socket: zmq.asyncio.Socket) -> None:
        while True:
            self.feed(await socket.recv())

    def feed(self, frame: bytes) -> None:
        """Distribute one frame. A malformed one is dropped: its traces will be found incomplete."""
        try:
            records = read_frame(frame)
        except ValueError:
            return
        decides = records.dtype == DECISION
        for identifier, choice, what, *values in records.tolist():
            if (trace := self._open.get(identifier)) is None:
                continue
            if decides:
                trace.decide(choice, Decision(Difficulty(what), tuple(values)))
            else:
                trace.put(choice, what, tuple(values))
