"""Steered requests take turns where the engine has room for few kinds of steering."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import pytest

from server.planning.steering import SteeringPlan
from server.requests.admission import Admission
from server.requests.generation import ControlledEngine, Generation, current
from server.requests.telemetry import Telemetry
from server.worker.message import steering_control
from tests.unit.server.fake_engine import ONE_BY_ONE, FakeEngine, params, plan


@pytest.fixture(autouse=True)
def nobody_controls() -> None:
    current.set(None)


class SlowEngine(FakeEngine):
    """Takes a moment to hear that an answer is not wanted any more."""

    def __init__(self) -> None:
        super().__init__(Telemetry(), ONE_BY_ONE)
        self.running: list[int] = []
        """How many requests were running when each one came."""

    async def generate(self, *arguments: Any) -> AsyncGenerator[Any, None]:
        self.running.append(self.open_calls)
        async with aclosing(super().generate(*arguments)) as outputs:
            try:
                async for output in outputs:
                    yield output
            finally:
                for _ in range(4):
                    await asyncio.sleep(0)


class Queue:
    """Requests of a server that admits one kind of steering at a time."""

    def __init__(self) -> None:
        self.admission = Admission(1)
        self.engine = SlowEngine()

    def ask(self, kind: str | None) -> AsyncGenerator[Any, None]:
        steering = None
        if kind is not None:
            control = steering_control(key=kind, add=[], clamp=[], everywhere=True)
            steering = SteeringPlan(control, True, [])
        mine = plan("none")._replace(steering=steering)
        current.set(Generation(mine, self.engine.telemetry, 1.0, None, self.admission))
        prompt = {"prompt_token_ids": [1]}
        answer: AsyncGenerator[Any, None] = ControlledEngine(self.engine).generate(
            prompt, params(), "r"
        )
        return answer

    async def asked(self) -> int:
        """Requests that have reached the engine."""
        for _ in range(12):
            await asyncio.sleep(0)
        return len(self.engine.params)


async def test_the_engine_hears_of_another_kind_once_the_first_has_ended() -> None:
    queue = Queue()
    first, alike = queue.ask("a"), queue.ask("a")
    await anext(first)
    await anext(alike)
    waiting = asyncio.create_task(anext(queue.ask("b")))
    assert await queue.asked() == 2
    async for _ in first:
        pass
    assert await queue.asked() == 2
    async for _ in alike:
        pass
    await waiting
    assert await queue.asked() == 3


async def test_who_is_not_steered_waits_for_nobody() -> None:
    queue = Queue()
    first = queue.ask("a")
    await anext(first)
    await anext(queue.ask(None))
    assert await queue.asked() == 2


async def test_the_place_of_an_answer_that_nobody_reads_is_free_once_the_engine_knows() -> None:
    queue = Queue()
    first = queue.ask("a")
    await anext(first)
    waiting = asyncio.create_task(anext(queue.ask("b")))
    assert await queue.asked() == 1
    await first.aclose()
    await waiting
    assert queue.engine.running == [0, 0]


async def test_who_leaves_while_waiting_never_reaches_the_engine() -> None:
    queue = Queue()
    first = queue.ask("a")
    await anext(first)
    waiting = asyncio.create_task(anext(queue.ask("b")))
    await queue.asked()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await first.aclose()
    assert await queue.asked() == 1
    await anext(queue.ask("c"))
