"""Withheld answers: responses, streams, several choices, answers without a score."""

import asyncio
import json
import math
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client import REGISTRY
from vllm.entrypoints.openai.chat_completion.protocol import (
    ChatCompletionResponseChoice,
    ChatMessage,
)

from probes.selective.confidence import ConfidenceProbe, ConfidenceSpec
from probes.selective.state import PromptState, StateSpec
from server.planning.plan import Plan
from server.planning.selective import AbstentionPlan, ConfidencePlan
from server.requests import merge
from server.requests.report import summarize
from server.requests.selective import replace_answer
from server.wire.request import AbstentionControl
from tests.selective_artifacts import state_reader
from tests.unit.server.fake_engine import DONE, ONE_BY_ONE, chat_stream, params, plan
from tests.unit.server.requests.generation_run import Run, bodies, fallbacks
from tests.unit.server.requests.test_telemetry import token

TEXT = "I don't know."


def abstaining(threshold: float | None, **control: Any) -> Plan:
    asked = {"calibration": "m/a", "promise": "joint", "alpha": 0.1, **control}
    control_ = AbstentionControl.model_validate(asked)
    return plan("summary")._replace(abstain=AbstentionPlan(control_, "entropy_mean", threshold, 99))


def run(made: Plan, script: Any = ONE_BY_ONE, **faults: Any) -> Run:
    one = Run(script, **faults)
    one.generation.calls.plan = made
    return one


def texts(events: list[str], index: int = 0) -> str:
    parts = [part for body in bodies(events) for part in body["choices"] if part["index"] == index]
    return "".join(part["delta"].get("content") or "" for part in parts)


def verdict(events: list[str], index: int = 0) -> Any:
    parts = [part for body in bodies(events) for part in body["choices"] if part["index"] == index]
    return parts[-1]["entropy"]["abstain"]


async def test_a_stream_waits_for_the_verdict_and_then_has_the_same_events() -> None:
    plain = await run(plan("summary")).stream(chat_stream, params())
    events = await run(abstaining(2.0)).stream(chat_stream, params())
    assert texts(events) == texts(plain) == "ééé"
    assert verdict(events)["abstained"] is False
    found = bodies(events)
    del found[-2]["choices"][0]["entropy"]["abstain"]
    ours = bodies(plain)
    del ours[-2]["choices"][0]["entropy"]["abstain"]
    assert found == ours


async def test_a_withheld_stream_has_the_text_and_nothing_of_the_answer() -> None:
    events = await run(abstaining(1.0)).stream(chat_stream, params())
    assert texts(events) == TEXT
    assert "é" not in "".join(events)
    assert events[-1] == DONE
    role, last, usage = bodies(events)
    assert role["choices"][0]["delta"]["role"] == "assistant"
    assert last["choices"][0]["finish_reason"] == "stop"
    assert usage["usage"] == {"total_tokens": 9}
    found = verdict(events)
    assert found["abstained"] is True
    assert found["uncertainty"] == pytest.approx(1 + 1 / 64)
    assert (found["threshold"], found["questions"], found["answer"]) == (1.0, 99, None)
    shown = await run(abstaining(1.0, withhold=False, text="?")).stream(chat_stream, params())
    assert (texts(shown), verdict(shown)["answer"]) == ("?", "ééé")


async def test_each_choice_of_a_stream_has_its_own_verdict() -> None:
    script = [[(0, 1), (1, 1)]] * 3
    events = await run(abstaining(1.1), script).stream(chat_stream, params(2))
    assert [texts(events, index) for index in (0, 1)] == ["ééé", TEXT]


async def test_an_answer_without_a_score_is_withheld() -> None:
    before = fallbacks("uncalibrated")
    lost = run(abstaining(9.0), lost={(0, 1)})
    events = await lost.stream(chat_stream, params())
    assert texts(events) == TEXT
    assert verdict(events)["uncertainty"] is None
    assert fallbacks("uncalibrated") == before + 1
    nothing = await run(abstaining(None)).stream(chat_stream, params())
    assert texts(nothing) == TEXT


def test_a_withheld_choice_keeps_nothing_of_the_answer() -> None:
    said = "secret"
    for threshold, shown in ((0.5, TEXT), (2.0, said)):
        made = abstaining(threshold)
        report = summarize(made, [token(1.0, 0.5)], 1)
        choice = ChatCompletionResponseChoice(
            index=0,
            message=ChatMessage(role="assistant", content=said, reasoning=said),
            finish_reason="length",
            stop_reason=said,
            token_ids=[7],
        )
        assert made.abstain is not None
        replace_answer(choice, report, made.abstain)
        assert choice.message.content == shown
        assert (said in json.dumps(choice.model_dump())) is (threshold == 2.0)
        completion = SimpleNamespace(text=said, logprobs=1, finish_reason="length")
        replace_answer(completion, report, made.abstain)
        assert completion.text == shown
    assert made.abstain is not None
    unmeasured = SimpleNamespace(text=said, logprobs=1, finish_reason="length")
    replace_answer(unmeasured, None, made.abstain)
    assert unmeasured.text == TEXT


def test_the_probability_is_in_the_report_and_in_the_header() -> None:
    spec = ConfidenceSpec(features=("entropy_mean",), calibrator="platt", rows=9)
    probe = ConfidenceProbe(spec, [0.0], [1.0], [-1.0], [1.0, 0.0], [0.0], [2.0])
    made = plan("summary")._replace(confidence=ConfidencePlan(8, "m/c", probe, "h"))
    report = summarize(made, [token(3.0, 0.5)], 1)
    assert report.confidence is not None
    assert report.confidence.probability == pytest.approx(0.047426, abs=1e-6)
    assert report.confidence.outside == ["entropy_mean"]
    one = run(made)
    one.generation.reports = [report]
    assert one.generation.headers()["x-entropy-confidence"] == "0.0474"
    lost = summarize(made, [token(1.0, 0.5)], 2)
    assert lost.confidence is not None
    assert lost.confidence.probability is None
    assert lost.fallback == "trace_lost,uncalibrated"
    declined = summarize(abstaining(0.5), [token(1.0, 0.5)], 1)
    one.generation.reports = [declined]
    assert one.generation.headers()["x-entropy-abstained"] == "true"


def flagged(value: str) -> float:
    found = REGISTRY.get_sample_value(
        "entrostat_prompt_states_total", {"out_of_distribution": value}
    )
    assert found is not None
    return found


def test_the_state_of_the_prompt_is_used_and_a_far_one_is_flagged_and_counted() -> None:
    state = StateSpec(features=4, axes=2, threshold=3.0, quantile=0.99, questions=9)
    spec = ConfidenceSpec(
        predicts="high_entropy", features=(), calibrator="platt", rows=9, state=state
    )
    probe = ConfidenceProbe(spec, [], [], [], [1.0, 0.0], [], [], state_reader(4, 2))
    made = plan("summary")._replace(confidence=ConfidencePlan(8, "m/c", probe, "h"))
    assert made.confidence is not None
    assert made.confidence.state == "m/c"
    before = flagged("true"), flagged("false")
    for distance, far in ((2.9, False), (3.1, True)):
        read = PromptState(0.0, distance)
        found = summarize(made, [token(1.0, 0.5)], 1, state=read).confidence
        assert found is not None
        assert (found.high_entropy, found.probability) == (0.5, None)
        assert (found.state_distance, found.out_of_distribution) == (distance, far)
    assert (flagged("true"), flagged("false")) == (before[0] + 1, before[1] + 1)
    for lost in (None, PromptState(math.nan, math.nan)):
        report = summarize(made, [token(1.0, 0.5)], 1, state=lost)
        assert report.confidence is not None
        assert report.confidence.high_entropy is None
        assert report.confidence.out_of_distribution is None
        assert report.fallback == "uncalibrated"


async def test_a_report_waits_for_the_state_and_reports_its_loss() -> None:
    state = StateSpec(features=4, axes=2, threshold=3.0, quantile=0.99, questions=9)
    spec = ConfidenceSpec(features=(), calibrator="platt", rows=9, state=state)
    probe = ConfidenceProbe(spec, [], [], [], [1.0, 0.0], [], [], state_reader(4, 2))
    made = plan("summary")._replace(confidence=ConfidencePlan(8, "m/c", probe, "h"))
    lost = run(made)
    events = await lost.stream(chat_stream, params())
    report = bodies(events)[-2]["choices"][0]["entropy"]
    assert report["confidence"]["probability"] is None
    assert report["fallback"] == "uncalibrated"
    assert texts(events) == "ééé"


async def test_a_held_stream_sends_comments_while_it_is_silent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(merge, "KEEP_ALIVE_SECONDS", 0.01)
    commented = asyncio.Event()

    async def silent(*arguments: Any) -> AsyncIterator[Any]:
        async for event in chat_stream(*arguments):
            await commented.wait()
            yield event

    async def short(*arguments: Any) -> AsyncIterator[Any]:
        async for event in chat_stream(*arguments):
            await asyncio.sleep(0.05)
            yield event

    held, events = run(abstaining(2.0)), list[str]()
    async for event in await held.events(silent, params()):
        if event.startswith(":"):
            commented.set()
        events.append(event)
    comments = [event for event in events if event.startswith(":")]
    assert set(comments) == {": keep-alive\n\n"}
    assert texts([event for event in events if event not in comments]) == "ééé"
    plain = [event async for event in await run(plan("summary")).events(short, params())]
    assert not any(event.startswith(":") for event in plain)
