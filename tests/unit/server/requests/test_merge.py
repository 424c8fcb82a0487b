import asyncio
import json
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai import omit
from openai.lib.streaming.chat import ChatCompletionStreamState
from openai.types.chat import ChatCompletionChunk
from vllm.entrypoints.anthropic.protocol import AnthropicMessagesResponse
from vllm.sampling_params import RequestOutputKind

from probes.difficulty.strategies import Difficulty, Strategies
from server.planning.difficulty import DifficultyPlan
from server.requests.merge import add_reports
from server.requests.sse import parse
from server.requests.telemetry import Telemetry
from server.wire.request import Trace
from tests.unit.server.fake_engine import (
    DONE,
    ONE_BY_ONE,
    FakeEngine,
    Json,
    Step,
    chat_stream,
    completion_stream,
    data,
    envelope,
    messages_stream,
    params,
    piece,
    responses_stream,
)
from tests.unit.server.requests.generation_run import (
    Run,
    bodies,
    expected_tokens,
    fallbacks,
    summary,
    token_chunks,
)

# -- a chat stream -----------------------------------------------------------------------------


async def test_each_chunk_has_its_tokens_and_the_last_has_the_summary() -> None:
    run = Run([[(0, 1)], [(0, 2)], [(0, 1)]])
    events = await run.stream(chat_stream, params())
    assert events[-1] == DONE
    assert token_chunks(events, 0) == expected_tokens(1, 0, 4)
    role, one, two, three, usage = bodies(events)
    assert "entropy" not in role["choices"][0]
    assert [len(body["choices"][0]["entropy"]["tokens"]) for body in (one, two, three)] == [1, 2, 1]
    assert one["choices"][0]["delta"] == {"content": "é"}
    assert [set(body["choices"][0]["entropy"]) for body in (one, two)] == [{"tokens"}, {"tokens"}]
    assert usage["choices"] == []
    assert usage["usage"] == {"total_tokens": 9}
    summary = three["choices"][0]["entropy"]
    assert summary["tokens"] == expected_tokens(1, 0, 4)[3:]
    assert (summary["profile"], summary["law"]) == ("steady", "entropy_target")
    assert summary["entropy_mean"] == 1 + 1.5 / 64
    assert summary["num_tokens"] == 4
    assert summary["fallback"] is None


@pytest.mark.parametrize("trace", ["none", "summary", "tokens"])
async def test_reports_change_nothing_else_in_a_stream(trace: Trace) -> None:
    """Reports add no events, and no event follows the usage."""
    plain = FakeEngine(Telemetry(), ONE_BY_ONE)
    original = [event async for event in chat_stream(plain, params())]
    events = await Run(ONE_BY_ONE, trace=trace).stream(chat_stream, params())
    assert events[-2:] == original[-2:]
    found = bodies(events)
    for body in found:
        for choice in body["choices"]:
            choice.pop("entropy", None)
    assert found == bodies(original)


async def test_with_trace_summary_only_the_last_chunk_of_a_choice_has_a_report() -> None:
    events = await Run([[(0, 1), (1, 1)], [(0, 1)]], trace="summary").stream(
        chat_stream, params(n=2)
    )
    ends = {
        choice["index"]: choice["entropy"]["num_tokens"]
        for body in bodies(events)
        for choice in body["choices"]
        if "entropy" in choice
    }
    assert ends == {0: 2, 1: 1}
    assert all(
        choice["finish_reason"] == "stop"
        for body in bodies(events)
        for choice in body["choices"]
        if "entropy" in choice
    )


async def test_each_completion_of_a_request_has_its_own_tokens() -> None:
    run = Run([[(1, 2)], [(0, 1), (1, 1)], [(0, 3)], [(2, 1)]])
    events = await run.stream(chat_stream, params(n=3))
    for choice, count in enumerate([4, 3, 1]):
        assert token_chunks(events, choice) == expected_tokens(1, choice, count)
    assert [summary(events, choice)["num_tokens"] for choice in range(3)] == [4, 3, 1]


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
def test_the_chunks_contain_every_token_once_and_in_order(steps: list[Step]) -> None:
    async def stream() -> list[str]:
        return await Run(steps).stream(chat_stream, params(n=3))

    events = asyncio.run(stream())
    for choice in range(3):
        count = sum(new for step in steps for at, new in step if at == choice)
        assert token_chunks(events, choice) == expected_tokens(1, choice, count)


async def test_a_first_chunk_with_role_and_content_has_its_token() -> None:
    run = Run([[(0, 1)]])

    async def handler(engine: Any) -> AsyncIterator[str]:
        async for _ in engine.generate("p", params(), "r"):
            yield data(envelope([piece(0, {"role": "assistant", "content": "Hi"}, "stop")]))
        yield DONE

    assert token_chunks(await run.stream(handler), 0) == expected_tokens(1, 0, 1)


async def test_tokens_without_text_are_reported_with_the_next_chunk() -> None:
    run = Run(ONE_BY_ONE)

    async def handler(engine: Any) -> AsyncIterator[str]:
        async for _ in engine.generate("p", params(), "r"):
            pass  # a tool parser buffers the text
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
async def test_events_that_are_not_chunks_pass_unchanged(foreign: str) -> None:
    run = Run(ONE_BY_ONE)

    async def handler(engine: Any) -> AsyncIterator[str]:
        async for event in chat_stream(engine, params()):
            yield event
            yield foreign

    events = await run.stream(handler)
    assert events.count(foreign) == 6  # one after each of vLLM's own
    assert token_chunks([e for e in events if e != foreign], 0) == expected_tokens(1, 0, 3)


@pytest.mark.parametrize("end", ["\u2028", "\u2029", "\u0085"])
async def test_a_text_may_contain_line_separators_that_json_does_not_escape(end: str) -> None:
    text = json.dumps(envelope([piece(0, {"content": f"a{end}b"})]), ensure_ascii=False)

    async def handler(engine: Any, *_: Any) -> AsyncIterator[str]:
        async for _output in engine.generate("prompt", params(), "r"):
            pass
        yield f"data: {text}\n\n"
        yield DONE

    events = await Run(ONE_BY_ONE, trace="summary").stream(handler)
    assert events[0] == f"data: {text}\n\n"
    assert events[-1] == DONE


async def test_a_stream_that_fails_before_its_first_chunk_is_passed_through() -> None:
    run = Run(ONE_BY_ONE)
    error = 'data: {"error": {"message": "boom"}}\n\n'

    async def handler(engine: Any) -> AsyncIterator[str]:
        yield error
        yield DONE

    assert await run.stream(handler) == [error, DONE]


@pytest.mark.parametrize("trace", ["none", "summary", "tokens"])
async def test_a_trace_level_reports_no_more_than_requested(trace: Trace) -> None:
    run = Run(ONE_BY_ONE, trace=trace)
    events = await run.stream(chat_stream, params())
    assert (token_chunks(events, 0) != []) == (trace == "tokens")
    assert any("entropy" in event for event in events) == (trace != "none")
    assert run.generation.headers() == {"x-entropy-profile": "steady"}


@pytest.mark.parametrize(("handler", "most"), [(chat_stream, 2), (messages_stream, 3)])
async def test_a_summary_parses_no_event_but_those_that_it_needs(
    handler: Any, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    parsed: list[str] = []

    def counted(event: str) -> Any:
        parsed.append(event)
        return parse(event)

    monkeypatch.setattr("server.requests.merge.parse", counted)
    events = await Run([[(0, 1)]] * 50, trace="summary").stream(handler, params())
    assert len(events) > 50
    assert len(parsed) <= most


# -- other streams -----------------------------------------------------------------------------


async def test_choices_of_a_completion_are_numbered_across_its_prompts() -> None:
    run = Run([[(0, 1), (1, 2)]])
    events = await run.stream(completion_stream, params(n=2), 2)
    # Choice 3 is the second completion of the second prompt, whose trace is the second.
    for index, (trace, choice, count) in enumerate([(1, 0, 1), (1, 1, 2), (2, 0, 1), (2, 1, 2)]):
        assert token_chunks(events, index) == expected_tokens(trace, choice, count)
    assert [summary(events, index)["num_tokens"] for index in range(4)] == [1, 2, 1, 2]


async def test_the_completed_event_of_a_response_has_its_report() -> None:
    events = await Run(ONE_BY_ONE).stream(responses_stream, params())
    assert [event.type for event in events[-2:]] == [
        "response.output_text.delta",
        "response.completed",
    ]
    report = events[-1].response.entropy.model_dump()
    assert report["tokens"] == expected_tokens(1, 0, 3)
    assert not any(hasattr(event, "entropy") for event in events)


async def test_a_response_with_tool_calls_reports_its_last_turn() -> None:
    events = await Run(ONE_BY_ONE).stream(responses_stream, params(), 3)
    report = events[-1].response.entropy.model_dump()
    assert report["tokens"] == expected_tokens(3, 0, 3)


async def test_a_response_without_a_trace_is_unchanged() -> None:
    plain = FakeEngine(Telemetry(), ONE_BY_ONE)
    original = [event async for event in responses_stream(plain, params())]
    assert await Run(ONE_BY_ONE, trace="none").stream(responses_stream, params()) == original


async def test_the_message_delta_event_has_the_summary() -> None:
    events = await Run(ONE_BY_ONE).stream(messages_stream, params())
    parts: Json = {body["type"]: body.get("entropy") for body in bodies(events)}
    assert [body["type"] for body in bodies(events)][-2:] == ["message_delta", "message_stop"]
    assert parts["message_delta"]["num_tokens"] == 3
    assert parts["message_delta"]["law"] == "entropy_target"
    deltas = [body for body in bodies(events) if body["type"] == "content_block_delta"]
    tokens = [token for body in deltas for token in body["entropy"]["tokens"]]
    assert tokens == expected_tokens(1, 0, 3)
    others = {kind for kind, entropy in parts.items() if entropy is None}
    assert others == {"message_start", "content_block_start", "content_block_stop", "message_stop"}
    assert all(event.startswith("event: ") for event in events)


# -- non-streaming responses -------------------------------------------------------------------


@pytest.mark.parametrize("kind", [RequestOutputKind.FINAL_ONLY, RequestOutputKind.CUMULATIVE])
async def test_every_choice_has_its_report(kind: RequestOutputKind) -> None:
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


async def test_each_conversation_of_a_batch_has_its_report() -> None:
    body = {"choices": [{"index": 0}, {"index": 1}]}
    response = await Run(ONE_BY_ONE).answer(body, params(), params())
    tokens = [choice["entropy"]["tokens"] for choice in json.loads(bytes(response.body))["choices"]]
    assert tokens == [expected_tokens(1, 0, 3), expected_tokens(2, 0, 3)]


async def test_a_non_streaming_response_has_its_report() -> None:
    response = await Run(ONE_BY_ONE).answer({"id": "r", "output": []}, params())
    assert json.loads(bytes(response.body))["entropy"]["num_tokens"] == 3


async def test_feedback_on_an_answer_of_several_calls_is_about_the_report_that_was_sent() -> None:
    run = Run([[(0, 2)]])
    response = await run.answer({"id": "r", "output": []}, params(), params())
    (kept,) = run.kept
    assert kept[:2] == ("r", 0)
    sent = json.loads(bytes(response.body))["entropy"]
    assert kept[2].entropy_mean == sent["entropy_mean"]
    assert [token["entropy"] for token in sent["tokens"]] == [
        token["entropy"] for token in expected_tokens(2, 0, 2)
    ]


async def test_an_answer_without_a_trace_is_unchanged() -> None:
    body = {"choices": [{"index": 0, "text": "a"}]}
    response = await Run(ONE_BY_ONE, trace="none").answer(body, params())
    assert json.loads(bytes(response.body)) == body
    assert response.headers["x-entropy-profile"] == "steady"


async def test_a_non_streaming_message_has_its_report() -> None:
    message = AnthropicMessagesResponse(id="m", content=[], model="m", stop_reason="end_turn")
    run = Run(ONE_BY_ONE)

    async def handle() -> Any:
        async for _ in run.controlled.generate("p", params(), "r"):
            pass
        return message

    with run.generation.activate():
        found = await add_reports(handle)()
    assert isinstance(found, AnthropicMessagesResponse)  # else vLLM's route treats it as a stream
    body = found.model_dump(exclude_none=True)
    assert body["entropy"]["num_tokens"] == 3
    assert {**body, "entropy": None} == {**message.model_dump(exclude_none=True), "entropy": None}


async def test_a_class_without_a_trace_is_reported_without_waiting() -> None:
    """Without a trace, the worker records no tokens, so there is nothing to wait for."""
    run = Run(ONE_BY_ONE, trace="none", timeout=30)
    run.engine.renderer = SimpleNamespace(get_eos_token_id=lambda: 2)
    picked = DifficultyPlan("m/probe", Strategies(), False, Difficulty.EASY, True)
    run.generation.calls.plan = run.generation.plan._replace(difficulty=picked)
    lost = fallbacks("trace_lost")
    async with asyncio.timeout(10):
        response = await run.answer({"choices": [{"index": 0}]}, params())
    assert response.headers["x-entropy-difficulty"] == "easy"
    assert "x-entropy-fallback" not in response.headers
    assert json.loads(bytes(response.body)) == {"choices": [{"index": 0}]}
    assert fallbacks("trace_lost") == lost


async def test_an_error_of_vllm_passes_unchanged() -> None:
    run = Run(ONE_BY_ONE)
    response = await run.answer({"error": {"message": "too long"}}, status=400)
    assert response.status_code == 400
    assert json.loads(bytes(response.body))["error"]["message"] == "too long"


@pytest.mark.parametrize("trace", ["summary", "tokens"])
@pytest.mark.parametrize("choices", [1, 2])
async def test_the_stream_helper_of_openai_keeps_usage_and_finish_reason(
    trace: Trace, choices: int
) -> None:
    """The helper takes `usage` from the last chunk."""
    run = Run([[(choice, 1) for choice in range(choices)]] * 2, trace=trace)
    helper = ChatCompletionStreamState(input_tools=[], response_format=omit)
    for body in bodies(await run.stream(chat_stream, params(n=choices))):
        if body.get("usage"):
            body["usage"] = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
        helper.handle_chunk(ChatCompletionChunk.model_validate(body))
    final = helper.get_final_completion()
    assert final.usage is not None
    assert final.usage.completion_tokens == 2
    assert [choice.finish_reason for choice in final.choices] == ["stop"] * choices
