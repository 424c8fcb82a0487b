"""Calls to the workers of every engine, and the task that watches their status."""

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


def after_each_call(engine: Any, check: Callable[[], Awaitable[Any]]) -> None:
    """Check the workers after every call that somebody else makes to them.

    vLLM's routes that update weights, and any worker extension, go through `collective_rpc`.
    """
    call = engine.collective_rpc

    async def call_and_check(method: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            return await call(method, *args, **kwargs)
        finally:
            if not str(method).startswith(_OURS):
                await _quietly(check)

    engine.collective_rpc = call_and_check


async def watch(check: Callable[[], Awaitable[Any]]) -> None:
    """Check the workers until cancelled: another API server may have updated the weights."""
    while True:
        await asyncio.sleep(STATUS_SECONDS)
        await _quietly(check)


async def _quietly(check: Callable[[], Awaitable[Any]]) -> None:
    try:
        await check()
    except Exception as error:  # `/ready` reports an engine that does not answer
        logger.debug("entrostat: the workers did not tell their status: %s", error)
