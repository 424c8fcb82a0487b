"""Lost records, disconnected clients and failing streams leak no traces."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi.responses import StreamingResponse

from probes.difficulty.strategies import Difficulty, Strategies
from server.planning.difficulty import DifficultyPlan
from server.requests.merge import ClosingStream
from server.requests.telemetry import TraceBuffer
from server.wire.request import Trace
from tests.unit.server.fake_engine import (
    DONE,
    ONE_BY_ONE,
    Step,
    chat_stream,
    completion_stream,
    params,
    responses_stream,
)
from tests.unit.server.requests.generation_run import Run, Stream, fallbacks, summary, token_chunks
from tests.unit.server.support import frame


@pytest.fixture
def vain_waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long each wait for records was to last that ended at its deadline, seconds."""
    waits, wait = list[float](), TraceBuffer.wait

    async def counted(
        self: TraceBuffer, choice: int, start: int, stop: int, deadline: float
    ) -> bool:
        seconds = deadline - time.monotonic()
        arrived = await wait(self, choice, start, stop, deadline)
        if not arrived:
            waits.append(seconds)
        return arrived

    monkeypatch.setattr(TraceBuffer, "wait", counted)
    return waits


async def test_a_lost_record_is_reported_and_delays_the_answer_by_at_most_the_timeout(
    vain_waits: list[float],
) -> None:
    run = Run(ONE_BY_ONE, timeout=0.2, lost={(0, 1)})
    before = fallbacks("trace_lost")
    response = await run.answer({"choices": [{"index": 0}]}, params())
    assert len(vain_waits) == 1
    assert vain_waits[0] <= 0.2
    report = json.loads(bytes(response.body))["choices"][0]["entropy"]
    assert report["fallback"] == "trace_lost"
    assert report["num_tokens"] == 2
    assert response.headers["x-entropy-fallback"] == "trace_lost"
    assert fallbacks("trace_lost") == before + 1


async def test_a_stream_waits_for_lost_records_once_and_completes(
    vain_waits: list[float],
) -> None:
    script: list[Step] = [[(0, 1)]] * 30
    run = Run(script, timeout=0.2, lost={(0, index) for index in range(30)})
    events = await run.stream(chat_stream, params())
    assert len(vain_waits) == 1  # not thirty
    assert events[-1] == DONE
    report = summary(events, 0)
    assert report["fallback"] == "trace_lost"
    assert report["num_tokens"] == 0
    assert report["entropy_mean"] is None


async def test_a_late_record_is_awaited() -> None:
    run = Run([[(0, 1)]], timeout=5, lost={(0, 0)})
    answer = asyncio.create_task(run.answer({"choices": [{"index": 0}]}, params()))
    await asyncio.sleep(0.02)
    assert not answer.done()
    run.telemetry.handle_frame(frame((1, 0, 0, 2.0, 0.5)))
    report = json.loads(bytes((await answer).body))["choices"][0]["entropy"]
    assert (report["fallback"], report["entropy_mean"]) == (None, 2.0)


@pytest.mark.parametrize("ahead", [1, 5])
async def test_records_behind_the_end_of_an_answer_are_in_no_report(ahead: int) -> None:
    """The engine measures drafts, and a step on its way, before the scheduler ends the answer."""
    body = {"choices": [{"index": 0}]}
    plain, late = Run(ONE_BY_ONE), Run(ONE_BY_ONE, ahead=ahead)
    events = await late.stream(chat_stream, params())
    assert events == await plain.stream(chat_stream, params())
    assert summary(events, 0)["num_tokens"] == len(token_chunks(events, 0)) == len(ONE_BY_ONE)
    one, other = [
        json.loads(bytes((await Run(ONE_BY_ONE, ahead=count).answer(body, params())).body))
        for count in (0, ahead)
    ]
    assert one == other
    assert one["choices"][0]["entropy"]["num_tokens"] == len(ONE_BY_ONE)


async def test_a_failed_control_is_reported_and_the_answer_completes() -> None:
    run = Run(ONE_BY_ONE, failed={(0, 1)})
    before = fallbacks("control_failed")
    events = await run.stream(chat_stream, params())
    nothing = {"entropy": None, "temperature": None, "varentropy": None}
    assert token_chunks(events, 0)[1] == nothing
    assert summary(events, 0)["fallback"] == "control_failed"
    assert not any("NaN" in event for event in events)
    assert fallbacks("control_failed") == before + 1


async def test_the_header_lists_every_reason() -> None:
    run = Run([[(0, 1), (1, 1)]], lost={(0, 0)}, failed={(1, 0)})
    body = {"choices": [{"index": 0}, {"index": 1}]}
    response = await run.answer(body, params(n=2))
    assert response.headers["x-entropy-fallback"] == "control_failed,trace_lost"


# -- no trace stays open -----------------------------------------------------------------------


@pytest.mark.parametrize("trace", ["none", "summary", "tokens"])
@pytest.mark.parametrize("handler", [chat_stream, completion_stream])
async def test_a_finished_stream_leaves_no_trace_open(handler: Stream, trace: Trace) -> None:
    run = Run(ONE_BY_ONE, trace=trace)
    await run.stream(handler, params())
    assert run.telemetry.num_open == 0
    assert run.engine.open_calls == 0


@pytest.mark.parametrize(
    "trace",
    [
        "none",
        "summary",
        "tokens",
    ],
)
async def test_a_finished_responses_stream_leaves_no_trace_open(trace: Trace) -> None:
    run = Run(ONE_BY_ONE, trace=trace)
    await run.stream(responses_stream, params(), 2)
    assert run.telemetry.num_open == 0


@pytest.mark.parametrize("trace", ["none", "summary", "tokens"])
@pytest.mark.parametrize("status", [200, 400])
async def test_a_finished_answer_leaves_no_trace_open(trace: Trace, status: int) -> None:
    run = Run(ONE_BY_ONE, trace=trace)
    await run.answer({"choices": []}, params(), status=status)
    assert run.telemetry.num_open == 0
    assert run.engine.open_calls == 0


async def test_a_stream_with_a_class_and_without_a_trace_leaves_no_trace_open() -> None:
    run = Run(ONE_BY_ONE, trace="none")
    run.engine.renderer = SimpleNamespace(get_eos_token_id=lambda: 2)
    picked = DifficultyPlan("m/probe", Strategies(), False, Difficulty.EASY, True)
    run.generation.calls.plan = run.generation.plan._replace(difficulty=picked)
    events = await run.stream(chat_stream, params())
    assert not any("entropy" in event for event in events)
    assert run.telemetry.num_open == 0


async def test_a_client_that_disconnects_mid_stream_leaves_no_trace_open() -> None:
    run = Run(ONE_BY_ONE)
    stream = await run.events(chat_stream, params())
    await anext(stream)
    await anext(stream)
    assert run.telemetry.num_open
    await stream.aclose()
    run.generation.close()
    assert run.telemetry.num_open == 0


async def test_a_client_that_disconnects_during_a_wait_leaves_no_trace_open() -> None:
    run = Run(ONE_BY_ONE, timeout=60, lost={(0, 0)})
    reading = asyncio.create_task(run.stream(chat_stream, params()))
    await asyncio.sleep(0.05)
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)
    assert run.telemetry.num_open == 0


async def test_a_stream_that_never_starts_leaves_no_trace_open() -> None:
    """The client has disconnected before the headers are sent."""
    run = Run(ONE_BY_ONE)
    response = StreamingResponse(await run.events(chat_stream, params()))
    assert run.telemetry.num_open

    async def gone(*_: Any) -> Any:
        raise OSError("the client is gone")

    with suppress(Exception):
        await ClosingStream(response, run.generation)(
            {"type": "http", "asgi": {"spec_version": "2.4"}}, gone, gone
        )
    assert run.telemetry.num_open == 0


async def test_a_stream_that_raises_leaves_no_trace_open() -> None:
    run = Run(ONE_BY_ONE)

    async def handler(engine: Any) -> AsyncIterator[str]:
        async for event in chat_stream(engine, params()):
            yield event
            raise RuntimeError("boom")

    with pytest.raises(RuntimeError, match="boom"):
        await run.stream(handler)
    assert run.telemetry.num_open == 0
