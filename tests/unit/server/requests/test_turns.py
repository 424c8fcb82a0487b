"""Steered requests are queued if the engine has few steering slots."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import pytest

from server.planning.steering import SteeringPlan
from server.requests.admission import Admission, QueueFull
from server.requests.generation import ControlledEngine, Generation
from server.requests.telemetry import Telemetry
from server.worker.message import steering_control
from tests.unit.server.fake_engine import ONE_BY_ONE, FakeEngine, params, plan


class GatedEngine(FakeEngine):
    """Ends an answer on a signal, and processes an abort with a delay."""

    def __init__(self) -> None:
        super().__init__(Telemetry(), ONE_BY_ONE)
        self.running: list[int] = []
        """Number of running requests at the arrival of each one."""
        self.gates: list[asyncio.Event] = []
        self.broken = False

    async def generate(self, *arguments: Any) -> AsyncGenerator[Any, None]:
        if self.broken:
            raise ValueError("boom")
        self.running.append(self.open_calls)
        gate = asyncio.Event()
        self.gates.append(gate)
        async with aclosing(super().generate(*arguments)) as outputs:
            try:
                async for output in outputs:
                    yield output
                    await gate.wait()
            finally:
                for _ in range(4):
                    await asyncio.sleep(0)


class Queue:
    """Requests to a server that admits one steering config at a time."""

    def __init__(self, max_waiting: int = 10) -> None:
        self.admission = Admission(1, max_waiting)
        self.engine = GatedEngine()
        self.generations: list[Generation] = []

    def ask(self, config: str | None) -> AsyncGenerator[Any, None]:
        steering = None
        if config is not None:
            control = steering_control(key=config, add=[], clamp=[], everywhere=True)
            steering = SteeringPlan(control, True, [])
        mine = plan("none")._replace(steering=steering)
        generation = Generation(mine, self.engine.telemetry, 1.0, None, self.admission)
        self.generations.append(generation)
        prompt = {"prompt_token_ids": [1]}
        with generation.activate():
            answer: AsyncGenerator[Any, None] = ControlledEngine(self.engine).generate(
                prompt, params(), "r"
            )
        return answer

    async def asked(self) -> int:
        """Number of requests that have reached the engine."""
        for _ in range(20):
            await asyncio.sleep(0)
        return len(self.engine.params)


async def test_the_next_config_is_sent_once_the_engine_finishes_the_first() -> None:
    queue = Queue()
    first, alike = queue.ask("a"), queue.ask("a")
    await anext(first)
    await anext(alike)
    waiting = asyncio.create_task(anext(queue.ask("b")))
    assert await queue.asked() == 2
    queue.engine.gates[0].set()
    assert await queue.asked() == 2
    queue.engine.gates[1].set()
    await waiting
    assert await queue.asked() == 3


async def test_a_client_that_stops_reading_holds_no_slot() -> None:
    queue = Queue()
    unread = queue.ask("a")
    await anext(unread)
    queue.engine.gates[0].set()  # the engine finishes; the client reads no further
    await asyncio.wait_for(anext(queue.ask("b")), 5)
    assert [len(output.outputs) async for output in unread] == [1, 1]  # nothing is lost


async def test_a_request_without_steering_does_not_wait() -> None:
    queue = Queue()
    first = queue.ask("a")
    await anext(first)
    await anext(queue.ask(None))
    assert await queue.asked() == 2


async def test_the_slot_of_an_aborted_answer_is_freed_once_the_engine_has_aborted_it() -> None:
    queue = Queue()
    first = queue.ask("a")
    await anext(first)
    waiting = asyncio.create_task(anext(queue.ask("b")))
    assert await queue.asked() == 1
    await first.aclose()
    await waiting
    assert queue.engine.running == [0, 0]


async def test_a_request_whose_client_disconnects_while_waiting_never_reaches_the_engine() -> None:
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


async def test_an_engine_error_reaches_the_reader_and_frees_the_slot() -> None:
    queue = Queue()

    queue.engine.broken = True
    with pytest.raises(ValueError, match="boom"):
        await anext(queue.ask("a"))
    queue.engine.broken = False
    await asyncio.wait_for(anext(queue.ask("b")), 5)


async def test_a_full_queue_refuses_before_the_response_starts() -> None:
    queue = Queue(max_waiting=2)
    first = queue.ask("a")
    await anext(first)
    waiting = [asyncio.create_task(anext(queue.ask(config))) for config in "bc"]
    await queue.asked()
    with pytest.raises(QueueFull, match="2 steered requests are already waiting"):
        queue.ask("d")
    queue.engine.gates[0].set()
    await waiting[0]
    refused = asyncio.create_task(anext(queue.ask("d")))  # b holds the slot, c and d wait
    await queue.asked()
    await stop(first, *waiting, refused)


async def test_a_batch_of_prompts_counts_as_one_request() -> None:
    queue = Queue(max_waiting=2)
    first = queue.ask("a")
    await anext(first)
    batch = queue.ask("b")
    generation = queue.generations[-1]
    with generation.activate():
        engine = ControlledEngine(queue.engine)
        more = [engine.generate({"prompt_token_ids": [1]}, params(), str(i)) for i in range(50)]
    tasks = [asyncio.create_task(anext(one)) for one in (batch, *more)]
    await queue.asked()
    other = asyncio.create_task(anext(queue.ask("c")))
    await queue.asked()
    with pytest.raises(QueueFull):
        queue.ask("d")
    await stop(first, *tasks, other)


async def test_a_request_that_ends_before_its_first_engine_call_stops_waiting() -> None:
    queue = Queue(max_waiting=1)
    first = queue.ask("a")
    await anext(first)
    queue.ask("b")
    with pytest.raises(QueueFull):
        queue.ask("c")
    queue.generations[1].close()
    queue.ask("c")
    await first.aclose()


async def stop(first: AsyncGenerator[Any, None], *tasks: asyncio.Task[Any]) -> None:
    """Cancel the tasks that a test left waiting."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await first.aclose()
