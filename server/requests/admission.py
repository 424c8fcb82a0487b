"""Who may be steered now: a few kinds of steering at once, first come, first served."""

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Admission:
    """Lets requests in while the kinds of steering among them are few enough.

    Requests of one kind share its place. Nobody overtakes: one whose kind is in already still waits
    behind those that came before it, or a popular kind would keep the others out for ever.
    """

    def __init__(self, capacity: int) -> None:
        """Start empty.

        Args:
            capacity: Kinds at once, at least one.
        """
        assert capacity > 0
        self._capacity = capacity
        self._users = Counter[str]()
        self._queue = deque[tuple[str, asyncio.Future[None]]]()

    @asynccontextmanager
    async def admit(self, kind: str) -> AsyncIterator[None]:
        """Wait for one's turn and keep the place while the block runs.

        Args:
            kind: The key of a steering.
        """
        turn = asyncio.get_running_loop().create_future()
        self._queue.append((kind, turn))
        self._call_next()
        try:
            await turn
            yield
        finally:
            if not turn.cancel() and not turn.cancelled():  # its turn had come
                self._leave(kind)
            self._call_next()

    def _leave(self, kind: str) -> None:
        self._users[kind] -= 1
        if not self._users[kind]:
            del self._users[kind]

    def _call_next(self) -> None:
        while self._queue:
            kind, turn = self._queue[0]
            if not turn.cancelled():
                if kind not in self._users and len(self._users) == self._capacity:
                    return
                self._users[kind] += 1
                turn.set_result(None)
            self._queue.popleft()
