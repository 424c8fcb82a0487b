"""FIFO admission of steered requests: caps the number of distinct steering configs in flight."""

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

RETRY_AFTER = 1
"""Seconds after which a refused client may ask again: about the length of a short answer."""


class QueueFull(Exception):
    """Too many requests wait already; the client may ask again after `RETRY_AFTER` seconds."""

    def __init__(self, waiting: int) -> None:
        super().__init__(
            f"{waiting} steered requests wait already: try again later, or start the server with a "
            "larger --max-steering-vectors"
        )


class Admission:
    """Admits requests in their order while their distinct steering configs are few enough.

    Requests with the same config share its place. No request overtakes: one whose config is in
    flight waits behind those that came before it, else a popular config starves the others.
    """

    def __init__(self, capacity: int, max_waiting: int = 1024) -> None:
        """Admit nobody yet.

        Args:
            capacity: Distinct configs at once, at least one.
            max_waiting: Requests that may wait; further ones are refused.
        """
        assert capacity > 0
        self._capacity = capacity
        self._max_waiting = max_waiting
        self._users = Counter[str]()
        self._queue = deque[tuple[str, asyncio.Future[None]]]()
        self._waiting = 0

    def reserve(self, config: str) -> "Reservation":
        """Announce a request before its first engine call.

        Args:
            config: The key of a steering config.

        Raises:
            QueueFull: It would have to wait, and too many do.
        """
        if self._waiting >= self._max_waiting and not self._has_room(config):
            raise QueueFull(self._waiting)
        self._waiting += 1
        return Reservation(self, config)

    def withdraw(self) -> None:
        """Take back one reservation."""
        self._waiting -= 1

    def _has_room(self, config: str) -> bool:
        return not self._queue and (config in self._users or len(self._users) < self._capacity)

    @asynccontextmanager
    async def admit(self, config: str) -> AsyncIterator[None]:
        """Wait for a place and keep it while the block runs.

        Args:
            config: The key of a steering config.
        """
        turn = asyncio.get_running_loop().create_future()
        self._queue.append((config, turn))
        self._call_next()
        try:
            await turn
            yield
        finally:
            if not turn.cancel() and not turn.cancelled():  # its turn had come
                self._leave(config)
            self._call_next()

    def _leave(self, config: str) -> None:
        self._users[config] -= 1
        if not self._users[config]:
            del self._users[config]

    def _call_next(self) -> None:
        while self._queue:
            config, turn = self._queue[0]
            if not turn.cancelled():
                if config not in self._users and len(self._users) == self._capacity:
                    return
                self._users[config] += 1
                turn.set_result(None)
            self._queue.popleft()


class Reservation:
    """One HTTP request; it counts as waiting until its first engine call is admitted."""

    def __init__(self, admission: Admission, config: str) -> None:
        self._admission = admission
        self._config = config
        self._open = True

    @asynccontextmanager
    async def admit(self) -> AsyncIterator[None]:
        """Wait for a place for one engine call and keep it while the block runs."""
        async with self._admission.admit(self._config):
            self.release()
            yield

    def release(self) -> None:
        """Count as waiting no longer."""
        if self._open:
            self._open = False
            self._admission.withdraw()
