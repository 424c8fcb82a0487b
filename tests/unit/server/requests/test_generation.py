import asyncio
import json
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from vllm.sampling_params import RequestOutputKind

from probes.difficulty.strategies import Difficulty, Strategies
from probes.laws import EntropyTargetLaw
from server.planning.plan import DifficultyPlan
from server.requests.generation import ControlledEngine, Generation, current
from server.requests.telemetry import Telemetry
from server.worker.message import KEY, EngineControl
from tests.unit.server.fake_engine import (
    DONE,
    ONE_BY_ONE,
    FakeEngine,
    Step,
    chat_stream,
    completion_stream,
    data,
    envelope,
    params,
    piece,
    plan,
    responses_stream,
)
from tests.unit.server.requests.generation_run import (
    Run,
    bodies,
    expected_tokens,
    fallbacks,
    token_chunks,
)


@pytest.fixture(autouse=True)
def nobody_controls() -> None:
    current.set(None)


# -- below vLLM's handlers ---------------------------------------------------------------------


async def test_a_request_without_controls_reaches_the_engine_as_it_was() -> None:
    engine = FakeEngine(Telemetry(), ONE_BY_ONE)
    own = params()
    async for _ in ControlledEngine(engine).generate("p", own, "r"):
        pass
    assert engine.params == [own]
    assert own.extra_args is None
    assert not engine.telemetry._open


async def test_every_call_carries_its_control_and_keeps_its_other_arguments() -> None:
    run = Run(ONE_BY_ONE)
    own = params(n=1)
    own.extra_args = {"other": 1}
    async for _ in run.controlled.generate("p", own, "r"):
        pass
    extra = run.engine.params[0].extra_args
    assert extra["other"] == 1
    assert isinstance(extra[KEY], EngineControl)
    assert extra[KEY] == {
        "law": EntropyTargetLaw.tag,
        "parameters": list(plan().parameters),
        "trace": 1,
        "address": run.telemetry.address,
        "choices": 1,
        "difficulty": None,
        "steering": None,
    }


async def test_who_wants_no_trace_asks_the_worker_for_none() -> None:
    run = Run(ONE_BY_ONE, trace="none")
    await run.answer({"choices": []}, params())
    assert run.engine.params[0].extra_args[KEY]["trace"] == 0
    assert run.engine.params[0].extra_args[KEY]["law"] == EntropyTargetLaw.tag


async def test_everything_but_generate_is_the_engines_own() -> None:
    assert Run(ONE_BY_ONE).controlled.name == "the fake"


async def test_requests_side_by_side_do_not_see_each_others_plan() -> None:
    async def request(controlled: bool) -> bool:
        engine = FakeEngine(Telemetry(), ONE_BY_ONE)
        if controlled:
            current.set(Generation(plan(), engine.telemetry, 1.0))
        await asyncio.sleep(0)
        async for _ in ControlledEngine(engine).generate("p", params(), "r"):
            await asyncio.sleep(0)
        return engine.params[0].extra_args is not None

    wanted = [True, False] * 4
    assert await asyncio.gather(*(request(controlled) for controlled in wanted)) == wanted


# -- a chat stream -----------------------------------------------------------------------------


async def test_each_chunk_carries_its_tokens_and_the_last_the_summary() -> None:
    run = Run([[(0, 1)], [(0, 2)], [(0, 1)]])
    events = await run.stream(chat_stream, params())
    assert events[-1] == DONE
    assert token_chunks(events, 0) == expected_tokens(1, 0, 4)
    role, one, two, three, usage, summary = bodies(events)
    assert "entropy" not in role["choices"][0]
    assert [len(body["choices"][0]["entropy"]["tokens"]) for body in (one, two, three)] == [1, 2, 1]
    assert one["choices"][0]["delta"] == {"content": "é"}
    assert usage["choices"] == []
    assert usage["usage"] == {"total_tokens": 9}
    assert summary == envelope(
        [
            {
                **piece(0, {}),
                "entropy": {
                    "profile": "steady",
                    "law": "entropy_target",
                    "entropy_mean": 1 + 1.5 / 64,
                    "entropy_max": 1 + 3 / 64,
                    "temperature_mean": 0.5,
                    "num_tokens": 4,
                    "num_clamped": 4,
                    "tokens": None,
                    "difficulty": None,
                    "steering": None,
                    "inquiry": None,
                    "fallback": None,
                },
            }
        ]
    )


async def test_a_stream_is_otherwise_what_vllm_sent_byte_for_byte() -> None:
    plain = FakeEngine(Telemetry(), ONE_BY_ONE)
    original = [event async for event in chat_stream(plain, params())]
    current.set(None)
    summary = await Run(ONE_BY_ONE, trace="summary").stream(chat_stream, params())
    assert [*summary[:-2], summary[-1]] == original
    tokens = bodies(await Run(ONE_BY_ONE).stream(chat_stream, params()))[:-1]
    for body in tokens:
        for choice in body["choices"]:
            choice.pop("entropy", None)
    assert tokens == bodies(original)


async def test_completions_of_one_request_keep_their_own_tokens() -> None:
    run = Run([[(1, 2)], [(0, 1), (1, 1)], [(0, 3)], [(2, 1)]])
    events = await run.stream(chat_stream, params(n=3))
    for choice, count in enumerate([4, 3, 1]):
        assert token_chunks(events, choice) == expected_tokens(1, choice, count)
    summary = bodies(events)[-1]["choices"]
    assert [(c["index"], c["entropy"]["num_tokens"]) for c in summary] == [(0, 4), (1, 3), (2, 1)]


@given(
    steps=st.lists(
        st.lists(
            st.tuples(st.integers(0, 2), st.integers(1, 4)),
            min_size=1,
            max_size=3,
            unique_by=lambda step: step[0],
        ),
        min_size=1,
        max_size=12,
    )
)
@settings(deadline=None, max_examples=40)
def test_chunks_together_carry_every_token_once_and_in_order(steps: list[Step]) -> None:
    async def stream() -> list[str]:
        return await Run(steps).stream(chat_stream, params(n=3))

    events = asyncio.run(stream())
    for choice in range(3):
        count = sum(new for step in steps for at, new in step if at == choice)
        assert token_chunks(events, choice) == expected_tokens(1, choice, count)


async def test_a_chunk_that_opens_and_speaks_at_once_carries_its_token() -> None:
    run = Run([[(0, 1)]])

    async def handler(engine: Any) -> AsyncIterator[str]:
        async for _ in engine.generate("p", params(), "r"):
            yield data(envelope([piece(0, {"role": "assistant", "content": "Hi"}, "stop")]))
        yield DONE

    assert token_chunks(await run.stream(handler), 0) == expected_tokens(1, 0, 1)


async def test_tokens_without_text_of_their_own_go_out_with_the_next_chunk() -> None:
    run = Run(ONE_BY_ONE)

    async def handler(engine: Any) -> AsyncIterator[str]:
        async for _ in engine.generate("p", params(), "r"):
            pass  # a tool parser holds everything back
        yield data(envelope([piece(0, {"tool_calls": []}, "tool_calls")]))
        yield DONE

    assert token_chunks(await run.stream(handler), 0) == expected_tokens(1, 0, 3)


@pytest.mark.parametrize(
    "foreign",
    [
        ": keep-alive\n\n",
        'data: {"error": {"message": "boom", "code": 500}}\n\n',
        'event: error\ndata: {"error": {"message": "boom"}}\n\n',
        "\n",
    ],
)
async def test_what_is_no_chunk_passes_untouched(foreign: str) -> None:
    run = Run(ONE_BY_ONE)

    async def handler(engine: Any) -> AsyncIterator[str]:
        async for event in chat_stream(engine, params()):
            yield event
            yield foreign

    events = await run.stream(handler)
    assert events.count(foreign) == 6  # one after each of vLLM's own
    assert token_chunks([e for e in events if e != foreign], 0) == expected_tokens(1, 0, 3)


@pytest.mark.parametrize("end", ["\u2028", "\u2029", "\u0085"])
async def test_a_text_may_hold_line_ends_that_json_leaves_as_they_are(end: str) -> None:
    text = json.dumps(envelope([piece(0, {"content": f"a{end}b"})]), ensure_ascii=False)

    async def handler(engine: Any, *_: Any) -> AsyncIterator[str]:
        async for _output in engine.generate("prompt", params(), "r"):
            pass
        yield f"data: {text}\n\n"
        yield DONE

    events = await Run(ONE_BY_ONE, trace="summary").stream(handler)
    assert events[0] == f"data: {text}\n\n"
    assert events[-1] == DONE


async def test_a_stream_that_failed_before_its_first_chunk_ends_as_vllm_ended_it() -> None:
    run = Run(ONE_BY_ONE)
    error = 'data: {"error": {"message": "boom"}}\n\n'

    async def handler(engine: Any) -> AsyncIterator[str]:
        yield error
        yield DONE

    assert await run.stream(handler) == [error, DONE]


@pytest.mark.parametrize(("trace", "extra"), [("none", 0), ("summary", 1), ("tokens", 1)])
async def test_who_asks_for_less_gets_less(trace: str, extra: int) -> None:
    plain = [e async for e in chat_stream(FakeEngine(Telemetry(), ONE_BY_ONE), params())]
    run = Run(ONE_BY_ONE, trace=trace)
    events = await run.stream(chat_stream, params())
    assert len(events) == len(plain) + extra
    assert (token_chunks(events, 0) != []) == (trace == "tokens")
    assert run.response.headers["x-entropy-profile"] == "steady"


# -- other streams -----------------------------------------------------------------------------


async def test_choices_of_a_completion_count_through_its_prompts() -> None:
    run = Run([[(0, 1), (1, 2)]])
    events = await run.stream(completion_stream, params(n=2), 2)
    # Choice 3 is the second completion of the second prompt, whose trace is the second.
    for index, (trace, choice, count) in enumerate([(1, 0, 1), (1, 1, 2), (2, 0, 1), (2, 1, 2)]):
        assert token_chunks(events, index) == expected_tokens(trace, choice, count)
    summary = bodies(events)[-1]
    assert [choice["text"] for choice in summary["choices"]] == [""] * 4
    assert [choice["entropy"]["num_tokens"] for choice in summary["choices"]] == [1, 2, 1, 2]


async def test_a_response_carries_its_report_in_the_completed_event() -> None:
    events = await Run(ONE_BY_ONE).stream(responses_stream, params())
    assert len(events) == 5
    assert events[-1].startswith("event: response.completed\ndata: ")
    (completed,) = bodies(events[-1:])
    assert completed["type"] == "response.completed"
    assert completed["response"]["id"] == "r"
    assert completed["response"]["entropy"]["tokens"] == expected_tokens(1, 0, 3)
    assert not any("entropy" in event for event in events[:-1])


async def test_a_response_with_tool_calls_reports_its_last_turn() -> None:
    events = await Run(ONE_BY_ONE).stream(responses_stream, params(), 3)
    report = bodies(events[-1:])[0]["response"]["entropy"]
    assert report["tokens"] == expected_tokens(3, 0, 3)


async def test_a_response_without_trace_is_vllms_own() -> None:
    plain = FakeEngine(Telemetry(), ONE_BY_ONE)
    original = [event async for event in responses_stream(plain, params())]
    assert await Run(ONE_BY_ONE, trace="none").stream(responses_stream, params()) == original


# -- answers in one piece ----------------------------------------------------------------------


@pytest.mark.parametrize("kind", [RequestOutputKind.FINAL_ONLY, RequestOutputKind.CUMULATIVE])
async def test_every_choice_carries_its_report(kind: RequestOutputKind) -> None:
    run = Run([[(0, 1), (1, 2)], [(0, 1)]])
    body = {"id": "x", "choices": [{"index": 1, "text": "b"}, {"index": 0, "text": "a"}]}
    response = await run.answer(body, params(2, kind))
    merged = json.loads(bytes(response.body))
    reports = {choice["index"]: choice.pop("entropy") for choice in merged["choices"]}
    assert merged == body
    assert reports[0]["tokens"] == expected_tokens(1, 0, 2)
    assert reports[1]["tokens"] == expected_tokens(1, 1, 2)
    assert response.headers["x-entropy-profile"] == "steady"
    assert response.headers["x-request-id"] == "7"
    assert int(response.headers["content-length"]) == len(response.body)
    assert "x-entropy-fallback" not in response.headers


async def test_a_batch_of_conversations_reports_each() -> None:
    body = {"choices": [{"index": 0}, {"index": 1}]}
    response = await Run(ONE_BY_ONE).answer(body, params(), params())
    tokens = [choice["entropy"]["tokens"] for choice in json.loads(bytes(response.body))["choices"]]
    assert tokens == [expected_tokens(1, 0, 3), expected_tokens(2, 0, 3)]


async def test_a_response_in_one_piece_carries_its_report() -> None:
    response = await Run(ONE_BY_ONE).answer({"id": "r", "output": []}, params())
    assert json.loads(bytes(response.body))["entropy"]["num_tokens"] == 3


async def test_an_answer_without_trace_is_vllms_own() -> None:
    body = {"choices": [{"index": 0, "text": "a"}]}
    response = await Run(ONE_BY_ONE, trace="none").answer(body, params())
    assert json.loads(bytes(response.body)) == body
    assert response.headers["x-entropy-profile"] == "steady"


async def test_a_class_without_a_trace_is_told_at_once() -> None:
    """The worker records no tokens then, so there are none to wait for."""
    run = Run(ONE_BY_ONE, trace="none", timeout=30)
    run.engine.renderer = SimpleNamespace(get_eos_token_id=lambda: 2)
    picked = DifficultyPlan("m/probe", Strategies(), False, Difficulty.EASY, True)
    run.generation.plan = run.generation.plan._replace(difficulty=picked)
    lost = fallbacks("trace_lost")
    async with asyncio.timeout(10):
        response = await run.answer({"choices": [{"index": 0}]}, params())
    assert response.headers["x-entropy-difficulty"] == "easy"
    assert "x-entropy-fallback" not in response.headers
    assert json.loads(bytes(response.body)) == {"choices": [{"index": 0}]}
    assert fallbacks("trace_lost") == lost


async def test_an_error_of_vllm_passes_untouched() -> None:
    run = Run(ONE_BY_ONE)
    response = await run.answer({"error": {"message": "too long"}}, status=400)
    assert response.status_code == 400
    assert json.loads(bytes(response.body)) == {"error": {"message": "too long"}}
