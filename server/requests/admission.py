"""FIFO admission of steered requests: caps the number of distinct steering configs in flight."""

import asyncio
import time
from collections import Counter, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from server.metrics import observe

RETRY_AFTER = 1
"""Seconds until a refused client may retry: about the duration of a short answer."""


class QueueFull(Exception):
    """The queue is full; the client may retry after `RETRY_AFTER` seconds."""

    def __init__(self, waiting: int) -> None:
        super().__init__(
            f"{waiting} steered requests are already waiting: retry later, or start the server "
            "with a larger --max-steering-vectors"
        )


class Admission:
    """Admits requests in FIFO order while at most `capacity` steering configs are in flight.

    Requests with the same config share one slot. The order is strict: a request whose config is in
    flight still waits behind earlier requests, so that a popular config cannot starve the others.
    """

    def __init__(self, capacity: int, max_waiting: int = 1024) -> None:
        """Create an empty queue.

        Args:
            capacity: Maximum number of distinct configs in flight, at least one.
            max_waiting: Maximum number of waiting requests; further ones are refused.
        """
        assert capacity > 0
        self._capacity = capacity
        self._max_waiting = max_waiting
        self._users = Counter[str]()
        self._queue = deque[tuple[str, asyncio.Future[None]]]()
        self._waiting = 0
        observe.set_steering_slots(capacity)

    def reserve(self, config: str) -> "Reservation":
        """Register a request before its first engine call.

        Args:
            config: The key of a steering config.

        Raises:
            QueueFull: The request would have to wait and the queue is full.
        """
        if self._waiting >= self._max_waiting and not self._has_room(config):
            raise QueueFull(self._waiting)
        self._waiting += 1
        return Reservation(self, config)

    def withdraw(self) -> None:
        """Remove one reservation from the waiting count."""
        self._waiting -= 1

    def _has_room(self, config: str) -> bool:
        return not self._queue and (config in self._users or len(self._users) < self._capacity)

    @asynccontextmanager
    async def admit(self, config: str) -> AsyncIterator[None]:
        """Wait for a slot and hold it while the block runs.

        Args:
            config: The key of a steering config.
        """
        turn = asyncio.get_running_loop().create_future()
        self._queue.append((config, turn))
        start = time.perf_counter()
        self._call_next()
        try:
            await turn
            observe.observe_steering_wait(time.perf_counter() - start)
            yield
        finally:
            if not turn.cancel() and not turn.cancelled():  # it was admitted
                self._leave(config)
            self._call_next()

    def _leave(self, config: str) -> None:
        self._users[config] -= 1
        if not self._users[config]:
            del self._users[config]

    def _call_next(self) -> None:
        self._admit_waiting()
        observe.set_steering_slots_used(len(self._users))

    def _admit_waiting(self) -> None:
        while self._queue:
            config, turn = self._queue[0]
            if not turn.cancelled():
                if config not in self._users and len(self._users) == self._capacity:
                    return
                self._users[config] += 1
                turn.set_result(None)
            self._queue.popleft()


class Reservation:
    """An HTTP request that counts as waiting until its first engine call is admitted."""

    def __init__(self, admission: Admission, config: str) -> None:
        self._admission = admission
        self._config = config
        self._open = True

    @asynccontextmanager
    async def admit(self) -> AsyncIterator[None]:
        """Wait for a slot for one engine call and hold it while the block runs."""
        async with self._admission.admit(self._config):
            self.release()
            yield

    def release(self) -> None:
        """Stop counting as waiting."""
        if self._open:
            self._open = False
            self._admission.withdraw()
