import asyncio
import math
import os
import socket
import stat
import time
from collections.abc import AsyncIterator, Coroutine
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zmq
import zmq.asyncio
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import REGISTRY

from probes.selective.state import PromptState
from server.requests.telemetry import Telemetry, TraceBuffer, TracedToken, remove_stale_sockets
from server.worker.records import DECISION, STATE, TOKEN, read_frame, write_frame
from tests.unit.server.support import frame


@pytest.fixture(autouse=True)
async def contexts(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[list[zmq.asyncio.Context]]:
    """ZeroMQ contexts created in a test, terminated after it."""
    made: list[zmq.asyncio.Context] = []

    class Recorded(zmq.asyncio.Context):
        def __init__(self) -> None:
            super().__init__()
            made.append(self)

    monkeypatch.setattr(zmq.asyncio, "Context", Recorded)
    yield made
    for context in made:
        context.destroy(linger=0)


@pytest.fixture
async def telemetry() -> AsyncIterator[Telemetry]:
    """A bound receiver."""
    receiver = Telemetry()
    receiver.start()
    yield receiver
    await receiver.stop()


def soon(seconds: float = 5.0) -> float:
    return time.monotonic() + seconds


def token(entropy: float, temperature: float) -> TracedToken:
    """The token that `frame` packs."""
    return TracedToken(entropy, temperature, entropy / 2, -entropy, 2 * entropy, 3 * entropy, 0.5)


def socket_of(telemetry: Telemetry) -> Path:
    return Path(telemetry.address.removeprefix("ipc://"))


async def push(address: str, *frames: bytes) -> None:
    """Push frames like a worker."""
    with zmq.asyncio.Context() as context, context.socket(zmq.PUSH) as socket:
        socket.connect(address)
        for content in frames:
            await socket.send(content)
        socket.close(linger=1000)


# -- a frame -----------------------------------------------------------------------------------


def test_a_frame_is_a_packed_array_of_records() -> None:
    (record,) = read_frame(frame((2**64 - 1, 2**32 - 1, 7, 0.5, math.nan))).tolist()
    trace, choice, index, entropy, temperature, sampled_entropy, logprob, varentropy, *_ = record
    assert (logprob, varentropy) == (-0.5, 1.0)
    assert (trace, choice, index) == (2**64 - 1, 2**32 - 1, 7)
    assert (entropy, sampled_entropy) == (0.5, 0.25)
    assert math.isnan(temperature)
    assert TOKEN.itemsize == 44


@pytest.mark.parametrize("content", [b"", b"x", b"x" * 24])
def test_a_frame_of_an_unknown_kind_is_refused(content: bytes) -> None:
    with pytest.raises(ValueError, match="no known kind"):
        read_frame(content)


@pytest.mark.parametrize("content", [b"tx", b"t" + b"x" * 23, b"t" + b"x" * 29, b"d" + b"x" * 24])
def test_a_frame_with_a_partial_record_is_refused(content: bytes) -> None:
    with pytest.raises(ValueError, match="buffer size"):
        read_frame(content)


# -- one trace ---------------------------------------------------------------------------------


@given(order=st.permutations(range(8)))
def test_tokens_are_returned_in_order_for_any_order_of_arrival(order: list[int]) -> None:
    trace = TraceBuffer(1)
    for index in order:
        trace.put(0, index, token(index / 10, 1.0))
    assert trace.get(0, 2, 6) == [token(index / 10, 1.0) for index in range(2, 6)]
    assert trace.has(0, 0, 8)
    assert not trace.has(0, 0, 9)


def test_a_later_record_of_a_token_replaces_an_earlier_one() -> None:
    trace = TraceBuffer(1)
    trace.put(0, 0, token(1.0, 1.0))
    trace.put(0, 0, token(2.0, 0.5))
    assert trace.get(0, 0, 1) == [token(2.0, 0.5)]


def test_records_of_completions_are_kept_separate() -> None:
    trace = TraceBuffer(1)
    trace.put(0, 0, token(1.0, 1.0))
    trace.put(2, 0, token(2.0, 1.0))
    assert [trace.get(choice, 0, 1) for choice in range(3)] == [
        [token(1.0, 1.0)],
        [],
        [token(2.0, 1.0)],
    ]
    assert [trace.has(choice, 0, 1) for choice in range(3)] == [True, False, True]


def test_missing_tokens_are_left_out() -> None:
    trace = TraceBuffer(1)
    trace.put(0, 1, token(1.0, 1.0))
    assert trace.get(0, 0, 3) == [token(1.0, 1.0)]
    assert not trace.has(0, 0, 2)


async def test_waiting_for_a_complete_trace_returns_immediately_even_past_the_deadline() -> None:
    trace = TraceBuffer(1)
    trace.put(0, 0, token(1.0, 1.0))
    assert await trace.wait(0, 0, 1, deadline=time.monotonic() - 1)
    assert await trace.wait(0, 0, 0, deadline=time.monotonic() - 1)


async def test_a_wait_ends_as_soon_as_the_last_record_arrives() -> None:
    trace = TraceBuffer(1)
    waiting = asyncio.create_task(trace.wait(0, 0, 2, soon(60)))
    await asyncio.sleep(0)
    trace.put(0, 1, token(1.0, 1.0))
    await asyncio.sleep(0.01)
    assert not waiting.done()
    trace.put(0, 0, token(1.0, 1.0))
    assert await asyncio.wait_for(waiting, 5)


async def test_a_wait_ends_at_its_deadline_while_other_records_keep_arriving() -> None:
    trace = TraceBuffer(1)

    async def chatter() -> None:
        for index in range(1, 1000):
            trace.put(0, index, token(1.0, 1.0))
            await asyncio.sleep(0.005)

    noise = asyncio.create_task(chatter())
    assert not await trace.wait(0, 0, 2, soon(0.1))
    assert not noise.done()
    noise.cancel()


async def test_two_waits_on_one_trace_both_end() -> None:
    trace = TraceBuffer(1)
    waits = [asyncio.create_task(trace.wait(choice, 0, 1, soon())) for choice in (0, 1)]
    await asyncio.sleep(0)
    trace.put(0, 0, token(1.0, 1.0))
    trace.put(1, 0, token(1.0, 1.0))
    assert await asyncio.gather(*waits) == [True, True]


# -- the receiver, fed directly ----------------------------------------------------------------


def test_every_trace_receives_only_its_own_records() -> None:
    telemetry = Telemetry()
    one, two = telemetry.open(), telemetry.open()
    assert one.id != two.id
    assert 0 not in (one.id, two.id)  # 0 disables the trace in the worker
    telemetry.handle_frame(frame((two.id, 0, 0, 2.0, 0.5), (one.id, 0, 0, 1.0, 1.0)))
    assert (one.get(0, 0, 1), two.get(0, 0, 1)) == ([token(1.0, 1.0)], [token(2.0, 0.5)])


def test_the_completions_of_one_call_are_distinguished() -> None:
    telemetry = Telemetry()
    trace = telemetry.open()
    telemetry.handle_frame(frame(*((trace.id, choice, 0, choice / 4, 1.0) for choice in (2, 0, 1))))
    assert [trace.get(choice, 0, 1) for choice in range(3)] == [
        [token(0.0, 1.0)],
        [token(0.25, 1.0)],
        [token(0.5, 1.0)],
    ]


def test_a_record_for_a_closed_or_unknown_trace_is_dropped() -> None:
    telemetry = Telemetry()
    trace = telemetry.open()
    telemetry.close(trace)
    telemetry.close(trace)
    telemetry.handle_frame(frame((trace.id, 0, 0, 1.0, 1.0), (999, 0, 0, 1.0, 1.0)))
    assert not trace.has(0, 0, 1)
    assert telemetry.num_open == 0


@pytest.mark.parametrize("content", [b"", b"x", b"not a frame at all, in any way"])
def test_a_malformed_frame_is_dropped_and_the_next_one_is_processed(content: bytes) -> None:
    telemetry = Telemetry()
    trace = telemetry.open()
    telemetry.handle_frame(content)
    telemetry.handle_frame(frame((trace.id, 0, 0, 1.0, 1.0)))
    assert trace.get(0, 0, 1) == [token(1.0, 1.0)]


# -- the receiver, over a real socket ----------------------------------------------------------


async def pushed_records_arrive() -> None:
    telemetry = Telemetry()
    telemetry.start()
    try:
        trace = telemetry.open()
        steps = [frame((trace.id, 0, index, index / 2, 1.0)) for index in range(50)]
        pushing = asyncio.create_task(push(telemetry.address, b"junk", *steps))
        assert await trace.wait(0, 0, 50, soon())
        await pushing
        assert trace.get(0, 0, 50) == [token(index / 2, 1.0) for index in range(50)]
    finally:
        await telemetry.stop()


async def test_pushed_records_arrive_on_the_asyncio_event_loop() -> None:
    await pushed_records_arrive()


def test_pushed_records_arrive_on_the_event_loop_of_vllm() -> None:
    uvloop = pytest.importorskip("uvloop")

    def run(main: Coroutine[Any, Any, None]) -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(main)

    run(pushed_records_arrive())


async def test_two_receivers_have_different_addresses(telemetry: Telemetry) -> None:
    other = Telemetry()
    other.start()
    try:
        assert other.address != telemetry.address
        mine, theirs = telemetry.open(), other.open()
        assert mine.id == theirs.id  # only the address differs
        await push(other.address, frame((theirs.id, 0, 0, 1.0, 1.0)))
        assert await theirs.wait(0, 0, 1, soon())
        assert not mine.has(0, 0, 1)
    finally:
        await other.stop()


async def test_only_the_owner_can_write_and_the_socket_file_is_deleted() -> None:
    telemetry = Telemetry()
    telemetry.start()
    await asyncio.sleep(0.01)
    path = socket_of(telemetry)
    assert len(str(path)) < 100
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    await telemetry.stop()
    assert not path.exists()


async def test_stopping_a_receiver_that_never_started_has_no_effect() -> None:
    await Telemetry().stop()


@pytest.mark.parametrize("pause", [0.0, 0.01])
async def test_a_stopped_receiver_holds_no_socket_and_no_context(
    contexts: list[zmq.asyncio.Context], pause: float
) -> None:
    telemetry = Telemetry()
    telemetry.start()
    if pause:
        await asyncio.sleep(pause)
    await telemetry.stop()
    assert [context.closed for context in contexts] == [True]


# -- malformed frames, stopped receivers, stale sockets -------------------------------------------


def decision(trace: int, difficulty: int) -> bytes:
    record = np.array([(trace, 0, difficulty, *[0.1] * 10)], dtype=DECISION)
    return write_frame(record)


@pytest.mark.parametrize("content", [b"", b"x", b"t1", b"d" + bytes(7), decision(1, 7)])
async def test_a_malformed_frame_is_counted_and_the_next_one_is_received(
    telemetry: Telemetry, content: bytes
) -> None:
    trace = telemetry.open()
    dropped = REGISTRY.get_sample_value("entrostat_telemetry_dropped_frames_total") or 0.0
    await push(telemetry.address, content, frame((trace.id, 0, 0, 1.0, 1.0)))
    assert await trace.wait(0, 0, 1, soon())
    assert telemetry.is_running
    after = REGISTRY.get_sample_value("entrostat_telemetry_dropped_frames_total")
    assert after == dropped + 1


async def test_a_stopped_receiver_is_reported() -> None:
    telemetry = Telemetry()
    found = [telemetry.is_running]
    telemetry.start()
    found.append(telemetry.is_running)
    await telemetry.stop()
    assert [*found, telemetry.is_running] == [False, True, False]


def test_only_sockets_of_killed_servers_are_removed(tmp_path: Path) -> None:
    dead, young, alive = (tmp_path / f"entrostat-{name}" for name in ("dead", "young", "alive"))
    listening = socket.socket(socket.AF_UNIX)
    for path in (dead, young):
        with socket.socket(socket.AF_UNIX) as ended:
            ended.bind(str(path))
    listening.bind(str(alive))
    listening.listen()
    (tmp_path / "entrostat-notes").write_text("no socket")
    for path in (dead, alive):
        os.utime(path, (time.time() - 3600,) * 2)
    remove_stale_sockets(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        "entrostat-young",
        "entrostat-alive",
        "entrostat-notes",
    }
    listening.close()


@pytest.mark.parametrize("count", [1_000, 10_000])
def test_checking_a_trace_for_completeness_takes_constant_time(count: int) -> None:
    """The check runs once per chunk and once per frame."""

    class Counted(dict[int, Any]):
        looked = 0

        def __contains__(self, key: object) -> bool:
            self.looked += 1
            return super().__contains__(key)

    trace = TraceBuffer(1)
    tokens = trace.tokens[0]
    tokens.by_index = found = Counted()
    for index in range(count):
        trace.put(0, index, token(1.0, 1.0))
        assert trace.has(0, 0, index + 1)
    assert found.looked <= 4 * count


def test_the_state_of_a_prompt_reaches_its_completion() -> None:
    telemetry = Telemetry()
    trace = telemetry.open()
    records = np.array([(trace.id, 1, 0.25, 4.0), (99, 0, 1.0, 1.0)], dtype=STATE)
    telemetry.handle_frame(write_frame(records))
    assert trace.states == {1: PromptState(0.25, 4.0)}
