"""Receives trace records from the workers and routes them to the requests.

Each API server binds one ZeroMQ PULL socket. Workers push to the address sent with the request, so
multiple API servers, engines and completions per request need no coordination.
"""

import asyncio
import itertools
import logging
import math
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
from probes.selective.state import PromptState
from server.metrics import observe
from server.worker.records import DECISION, STATE, read_frame

logger = logging.getLogger("vllm.entrostat")

_PREFIX = "entrostat-"
_NEW = 60.0
"""Seconds; a newer socket may belong to a server that is not listening yet."""


class TracedToken(NamedTuple):
    """What was measured at one token; NaN where it was not."""

    entropy: float
    """Nats, at temperature 1."""
    temperature: float
    """As applied."""
    sampled_entropy: float
    """Nats, at the applied temperature."""
    logprob: float = math.nan
    """Of the sampled token at temperature 1, nats."""
    varentropy: float = math.nan
    """Nats^2, at temperature 1."""
    self_certainty: float = math.nan
    """Nats, at temperature 1."""
    collision: float = math.nan
    """Probability that two samples are equal, at temperature 1."""


class Decision(NamedTuple):
    """What a difficulty probe decided."""

    difficulty: Difficulty
    """The strategy."""
    probabilities: tuple[float, float, float]
    """Indexed by `Difficulty`; NaN if the hidden state was not finite."""
    accuracy: tuple[float, float, float] = (math.nan,) * 3
    """Expected by strategy; NaN without a router."""
    tokens: tuple[float, float, float] = (math.nan,) * 3
    """Expected by strategy, over the mean length under the strategy normal."""
    distance: float = math.nan
    """Of the hidden state to those of the training questions; NaN if it was not finite."""


class _Tokens:
    """The tokens of one completion, and the length of their gap-free prefix."""

    def __init__(self) -> None:
        self.by_index: dict[int, TracedToken] = {}
        self.leading = 0


class TraceBuffer:
    """Trace records of one `generate` call, by completion."""

    def __init__(self, identifier: int) -> None:
        self.id = identifier
        self.tokens = defaultdict[int, _Tokens](_Tokens)
        self.decisions: dict[int, Decision] = {}
        """By completion."""
        self.states: dict[int, PromptState] = {}
        """By completion."""
        self._arrived = asyncio.Event()

    def put(self, choice: int, index: int, token: TracedToken) -> None:
        """Store a record; it replaces an earlier one of the same token (a repeated step)."""
        tokens = self.tokens[choice]
        tokens.by_index[index] = token
        while tokens.leading in tokens.by_index:
            tokens.leading += 1
        self._arrived.set()

    def has(self, choice: int, start: int, stop: int) -> bool:
        """Whether every token in [start, stop) has arrived. Skips the known gap-free prefix."""
        tokens = self.tokens[choice]
        missing = range(max(start, tokens.leading), stop)
        return all(index in tokens.by_index for index in missing)

    def get(self, choice: int, start: int, stop: int) -> list[TracedToken]:
        """The tokens in [start, stop) that have arrived, in order."""
        tokens = self.tokens[choice].by_index
        return [tokens[index] for index in range(start, stop) if index in tokens]

    async def wait(self, choice: int, start: int, stop: int, deadline: float) -> bool:
        """Wait until [start, stop) is complete.

        Args:
            choice: Index of the completion.
            start: Index of the first token.
            stop: One past the index of the last token.
            deadline: A time of `time.monotonic`.

        Returns:
            Whether it is complete.
        """
        return await self._wait(lambda: self.has(choice, start, stop), deadline)

    async def wait_decision(self, choice: int, deadline: float) -> Decision | None:
        """Wait for the difficulty decision of a completion; None after the deadline."""
        await self._wait(lambda: choice in self.decisions, deadline)
        return self.decisions.get(choice)

    def store_decision(self, choice: int, decision: Decision) -> None:
        """Store a difficulty decision."""
        self.decisions[choice] = decision
        self._arrived.set()

    async def wait_state(self, choice: int, deadline: float) -> PromptState | None:
        """Wait for what was read at the end of a completion's prompt; None after the deadline."""
        await self._wait(lambda: choice in self.states, deadline)
        return self.states.get(choice)

    def store_state(self, choice: int, state: PromptState) -> None:
        """Store what was read at the end of the prompt."""
        self.states[choice] = state
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
    """The telemetry receiver of one API server."""

    def __init__(self) -> None:
        # Kept short: a Unix socket path is limited to 107 characters.
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
        """Number of open traces."""
        return len(self._open)

    @property
    def is_running(self) -> bool:
        """Whether the receiver is running."""
        return self._task is not None and not self._task.done()

    def start(self) -> None:
        """Bind the socket and start receiving; call within the event loop."""
        remove_stale_sockets(self._path.parent)
        self._context = zmq.asyncio.Context()
        self._socket = receiver = self._context.socket(zmq.PULL)
        receiver.setsockopt(zmq.RCVHWM, 100_000)
        receiver.bind(self.address)
        self._path.chmod(0o600)
        self._task = asyncio.create_task(self._receive(receiver), name="entrostat-telemetry")

    async def stop(self) -> None:
        """Stop receiving and delete the socket file."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self._socket is not None:
            self._socket.close(linger=0)
        if self._context is not None:
            self._context.term()
        self._path.unlink(missing_ok=True)

    def open(self) -> TraceBuffer:
        """Open a trace."""
        trace = TraceBuffer(next(self._ids))
        self._open[trace.id] = trace
        return trace

    def close(self, trace: TraceBuffer) -> None:
        """Close a trace; later records for it are ignored."""
        self._open.pop(trace.id, None)

    async def _receive(self, receiver: zmq.asyncio.Socket) -> None:
        try:
            while True:
                self.handle_frame(await receiver.recv())
        except Exception:
            logger.exception("entrostat: the telemetry receiver stopped; /ready returns 503")
            raise

    def handle_frame(self, frame: bytes) -> None:
        """Process one frame; drop and count it if it is malformed."""
        try:
            self._distribute(frame)
        except Exception as error:  # a malformed frame must not stop the receiver
            observe.count_dropped_frame()
            logger.warning("entrostat: a telemetry frame was dropped: %s", error)

    def _distribute(self, frame: bytes) -> None:
        records = read_frame(frame)
        kind = records.dtype
        for identifier, choice, what, *values in records.tolist():
            if (trace := self._open.get(identifier)) is None:
                continue
            if kind == DECISION:
                probabilities, accuracy, tokens = (tuple(values[at : at + 3]) for at in (0, 3, 6))
                figures = (probabilities, accuracy, tokens, values[9])
                trace.store_decision(choice, Decision(Difficulty(what), *figures))
            elif kind == STATE:
                trace.store_state(choice, PromptState(what, *values))
            else:
                trace.put(choice, what, TracedToken._make(values))


def remove_stale_sockets(folder: Path) -> None:
    """Delete sockets of killed servers: old ones without a listener."""
    for path in folder.glob(f"{_PREFIX}*"):
        try:
            if path.is_socket() and time.time() - path.stat().st_mtime > _NEW and _is_dead(path):
                path.unlink()
        except OSError as error:  # already removed, or owned by another user
            logger.debug("entrostat: %s not removed: %s", path, error)


def _is_dead(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.settimeout(1.0)
            probe.connect(str(path))
        except ConnectionRefusedError:
            return True
    return False
