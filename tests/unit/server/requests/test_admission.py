"""FIFO admission: at most `capacity` distinct steering configs are in flight."""

import asyncio
from contextlib import suppress
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.requests.admission import Admission
from tests.unit.server.metrics.support import value


class Guests:
    """Requests that arrive, run and end under control of the test."""

    def __init__(self, capacity: int) -> None:
        self.admission = Admission(capacity)
        self.inside: list[str] = []
        self.may_leave: dict[str, asyncio.Event] = {}
        self.tasks: dict[str, asyncio.Task[None]] = {}

    async def come(self, name: str) -> None:
        """`a1` and `a2` have the config `a`."""
        self.may_leave[name] = asyncio.Event()
        self.tasks[name] = asyncio.create_task(self.stay(name))
        await self.wait_for_all()

    async def stay(self, name: str) -> None:
        async with self.admission.admit(name[0]):
            self.inside.append(name)
            try:
                await self.may_leave[name].wait()
            finally:
                self.inside.remove(name)

    async def leave(self, name: str) -> None:
        self.may_leave[name].set()
        await self.wait_for_all()

    async def cancel(self, name: str) -> None:
        self.tasks[name].cancel()
        with suppress(asyncio.CancelledError):
            await self.tasks[name]
        await self.wait_for_all()

    @staticmethod
    async def wait_for_all() -> None:
        for _ in range(6):
            await asyncio.sleep(0)


async def test_a_config_waits_until_another_has_no_request_in_flight() -> None:
    guests = Guests(2)
    for name in ("a1", "b1", "a2", "c1"):
        await guests.come(name)
    assert guests.inside == ["a1", "b1", "a2"]
    await guests.leave("a1")
    assert "c1" not in guests.inside
    await guests.leave("a2")
    assert guests.inside == ["b1", "c1"]


async def test_no_request_overtakes_even_if_its_config_is_in_flight() -> None:
    guests = Guests(1)
    for name in ("a1", "b1", "a2", "b2"):
        await guests.come(name)
    assert guests.inside == ["a1"]
    await guests.leave("a1")
    assert guests.inside == ["b1"]
    await guests.leave("b1")
    assert guests.inside == ["a2"]


async def test_a_cancelled_waiting_request_blocks_no_other() -> None:
    guests = Guests(1)
    for name in ("a1", "b1", "a2"):
        await guests.come(name)
    await guests.cancel("b1")
    assert guests.inside == ["a1", "a2"]


async def test_an_aborted_request_frees_its_slot() -> None:
    guests = Guests(1)
    await guests.come("a1")
    await guests.come("b1")
    await guests.cancel("a1")
    assert guests.inside == ["b1"]


async def test_a_slot_granted_to_a_request_that_is_cancelled_at_the_same_time_is_freed() -> None:
    guests = Guests(1)
    for name in ("a1", "b1", "c1"):
        await guests.come(name)
    guests.may_leave["a1"].set()
    while guests.inside:  # a1 has ended, b1 is admitted and has not run yet
        await asyncio.sleep(0)
    guests.tasks["b1"].cancel()
    await guests.wait_for_all()
    assert guests.inside == ["c1"]


@given(
    capacity=st.integers(1, 3),
    moves=st.lists(st.sampled_from(["a", "b", "c", "d", "leave", "cancel"]), max_size=30),
    chance=st.randoms(use_true_random=False),
)
@settings(deadline=None, max_examples=50)
def test_the_capacity_is_never_exceeded_and_every_request_is_eventually_admitted(
    capacity: int, moves: list[str], chance: Random
) -> None:
    async def play() -> None:
        guests, present = Guests(capacity), list[str]()
        for number, move in enumerate(moves):
            if move in "abcd":
                present.append(f"{move}{number}")
                await guests.come(present[-1])
            elif present:
                name = present.pop(chance.randrange(len(present)))
                await getattr(guests, move)(name)
            assert len({one[0] for one in guests.inside}) <= capacity
            assert guests.inside or all(task.done() for task in guests.tasks.values())
        for name in present:
            guests.may_leave[name].set()
        await asyncio.wait_for(asyncio.gather(*guests.tasks.values(), return_exceptions=True), 2)
        assert guests.inside == []
        for name in "wxyz"[:capacity]:  # every slot is free again
            await guests.come(name)
        assert len(guests.inside) == capacity
        for name in "wxyz"[:capacity]:
            await guests.leave(name)

    asyncio.run(play())


def test_a_capacity_of_zero_is_rejected() -> None:
    with pytest.raises(AssertionError):
        Admission(0)


async def test_slots_in_use_and_waits_are_metrics() -> None:
    admission = Admission(2)
    waits = value("entrostat_steering_wait_seconds_count")
    async with admission.admit("a"), admission.admit("b"), admission.admit("a"):
        assert value("entrostat_steering_slots") == 2
        assert value("entrostat_steering_slots_used") == 2
        assert value("entrostat_steering_wait_seconds_count") == waits + 3
    assert value("entrostat_steering_slots_used") == 0
