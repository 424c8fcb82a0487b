"""Calls to the workers of every engine, and the checks of their status."""

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from server.worker.message import WorkerStatus

logger = logging.getLogger("vllm.entrostat")

STATUS_SECONDS = 15.0
"""Interval of the status checks."""
_OURS = "entrostat_"
"""Prefix of the methods that our plugin adds to a worker."""


async def on_all_workers(engine: Any, method: str, *arguments: Any) -> list[Any]:
    """Call a method of every worker of every engine.

    With data parallelism, vLLM's `collective_rpc` returns the results of the first engine only.

    Args:
        engine: vLLM's engine client.
        method: Name of the method.
        *arguments: Of the method.
    """
    everywhere = getattr(getattr(engine, "engine_core", None), "call_utility_all_async", None)
    if everywhere is None:
        found: list[Any] = await engine.collective_rpc(method, args=arguments)
        return found
    by_engine = await everywhere("collective_rpc", method, None, arguments, None)
    return [answer for answers in by_engine for answer in answers]


def merge_status(answers: Sequence[WorkerStatus]) -> WorkerStatus:
    """Merge the status of the workers: most steps and updates, sums of what went wrong."""
    return {
        "steps": max(answer["steps"] for answer in answers),
        "failures": sum(answer["failures"] for answer in answers),
        "lost": dict(sum((Counter(answer["lost"]) for answer in answers), Counter[str]())),
        "weight_updates": max(answer["weight_updates"] for answer in answers),
    }


class WorkerWatch:
    """Checks the workers at intervals, and after every call that somebody else makes to them.

    An idle worker of vLLM sleeps; a call wakes the reader of its messages, which then spins for a
    second. So a check at an interval is left out while nothing can have changed: no request and no
    call since the last answer. Behind several API servers the others' are not known here.
    """

    def __init__(self, engine: Any, check: Callable[[], Awaitable[Any]], *, alone: bool) -> None:
        """Wrap the engine client; vLLM's routes that update weights go through `collective_rpc`.

        Args:
            engine: vLLM's engine client.
            check: Asks the workers.
            alone: Whether this is the engine's only API server.
        """
        self._engine, self._check, self._alone = engine, check, alone
        self._uses = 0
        """Requests and calls so far."""
        add_request, call = engine.add_request, engine.collective_rpc

        async def add_and_count(*args: Any, **kwargs: Any) -> Any:
            self._uses += 1
            return await add_request(*args, **kwargs)

        async def call_and_check(method: Any, *args: Any, **kwargs: Any) -> Any:
            if str(method).startswith(_OURS):
                return await call(method, *args, **kwargs)
            self._uses += 1
            try:
                return await call(method, *args, **kwargs)
            finally:
                await self._quietly()

        engine.add_request, engine.collective_rpc = add_and_count, call_and_check

    async def run(self) -> None:
        """Check the workers until cancelled."""
        answered: int | None = None
        while True:
            await asyncio.sleep(STATUS_SECONDS)
            uses = self._settled()
            if uses is None or uses != answered:
                answered = uses if await self._quietly() else None

    def _settled(self) -> int | None:
        """Number of uses that have all ended; None if one goes on, or if others are not known."""
        is_settled = self._alone and self._engine.get_num_unfinished_requests() == 0
        return self._uses if is_settled else None

    async def _quietly(self) -> bool:
        """Check; returns whether the workers answered."""
        try:
            await self._check()
        except Exception as error:  # `/ready` reports an engine that does not answer
            logger.debug("entrostat: the workers did not tell their status: %s", error)
            return False
        return True
