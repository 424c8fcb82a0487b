"""Votes and semantic samples on a scripted engine: winner, usage, early ends, errors."""

import asyncio
import math
from collections.abc import AsyncGenerator
from types import SimpleNamespace
from typing import Any

import pytest
from vllm.sampling_params import RequestOutputKind, SamplingParams

from server.requests.generation import ControlledEngine, Generation
from server.requests.merge import add_reports
from server.requests.telemetry import Telemetry
from server.wire.report import VoteReport
from server.wire.request import SemanticControl, VoteControl
from server.worker.message import KEY
from tests.unit.server.fake_engine import plan
from tests.unit.server.requests.generation_run import Body


class Choir:
    """Answers `texts[k]` to sample k, one token for each word; a text of None never ends."""

    def __init__(
        self, texts: list[str | None], error: Exception | None = None, fails: int = 1
    ) -> None:
        self.texts, self.error, self.fails = texts, error, fails
        self.begun: list[int] = []
        self.aborted: list[int] = []
        self.seeds: list[int | None] = []
        self.params: list[SamplingParams] = []
        self.renderer: Any = SimpleNamespace(get_eos_token_id=lambda: 9)

    async def generate(
        self, prompt: Any, params: SamplingParams, request_id: str
    ) -> AsyncGenerator[Any, None]:
        number = int(request_id.rpartition("-")[2])
        self.begun.append(number)
        self.seeds.append(params.seed)
        self.params.append(params)
        assert params.output_kind is RequestOutputKind.CUMULATIVE
        text = self.texts[number]
        try:
            for step in range(1, 1000):
                await asyncio.sleep(0)
                words = ["..."] * step if text is None else text.split()[:step]
                ends = text is not None and step >= len(text.split())
                if self.error is not None and number == self.fails:
                    raise self.error
                yield self._output(" ".join(words), len(words), request_id, ends)
                if ends:
                    return
                if text is None and step > 50:
                    await asyncio.Event().wait()
        except (GeneratorExit, asyncio.CancelledError):
            self.aborted.append(number)
            raise

    @staticmethod
    def _output(text: str, count: int, request_id: str, ends: bool) -> Any:
        one = SimpleNamespace(
            index=0, text=text, token_ids=[7] * count, finish_reason="stop" if ends else None
        )
        cached = 0 if request_id.endswith("-0") else 16  # of the prompt of the first sample
        return SimpleNamespace(
            outputs=[one], request_id=request_id, finished=ends, num_cached_tokens=cached
        )


def generation(stop: Any = "none", n: int = 5, **control: Any) -> Generation:
    made = plan("none")._replace(vote=VoteControl(n=n, stop=stop, **control))
    return Generation(made, Telemetry(), 0.01)


async def run(
    choir: Choir, one: Generation, kind: Any = RequestOutputKind.DELTA, **sampling: Any
) -> list[Any]:
    with one.activate():
        engine = ControlledEngine(choir)
        params = SamplingParams(seed=3, output_kind=kind, **sampling)
        outputs = engine.generate("prompt", params, "chat-1")
        return [output async for output in outputs]


def voted(one: Generation) -> VoteReport:
    assert one.sampled is not None
    assert one.sampled.vote is not None
    return one.sampled.vote


async def test_the_most_frequent_answer_is_the_only_output() -> None:
    choir = Choir(["It is 4", "Sure. It is 5", "5", "The answer is 4.", "5"])
    one = generation()
    (output,) = await run(choir, one)
    assert output.outputs[0].text == "Sure. It is 5"  # the first of the winners
    assert output.request_id == "chat-1"
    assert choir.begun[0] == 0
    assert choir.seeds == [3, 4, 5, 6, 7]
    report = voted(one)
    assert (report.answer, report.finished, report.agreement) == ("5", 5, 0.6)
    assert [(row.answer, row.votes) for row in report.table] == [("5", 3), ("4", 2)]
    assert report.tokens == 3 + 4 + 1 + 4 + 1
    assert report.cached_tokens == 4 * 16
    assert len(one.choices) == 1
    assert one.choices[0].call.produced == [4]


async def test_weights_decide_and_the_heaviest_of_the_winners_is_sent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def measured(self: Any, numbers: Any) -> list[float]:
        return [-2.0, -3.0, -0.5, -0.1, -4.0]

    monkeypatch.setattr("server.requests.samples.Samples.mean_logprobs", measured)
    one = generation(weight="probability")
    (output,) = await run(Choir(["It is 4", "4", "Sure. It is 5", "5", "4"]), one)
    assert output.outputs[0].text == "5"
    report = voted(one)
    assert (report.answer, report.weight, report.agreement) == ("5", "probability", 0.4)
    assert [(row.answer, row.votes) for row in report.table] == [("5", 2), ("4", 3)]
    weights = [math.exp(-0.5) + math.exp(-0.1), math.exp(-2) + math.exp(-3) + math.exp(-4)]
    assert [row.weight for row in report.table] == pytest.approx(weights)


async def test_without_measurements_all_votes_weigh_the_same() -> None:
    one = generation(weight="probability", n=3)
    (output,) = await run(Choir(["It is 4", "5", "5"]), one)
    assert output.outputs[0].text == "5"
    assert voted(one).weight == "none"
    assert [row.weight for row in voted(one).table] == [2, 1]


CERTAINTIES = {0: [5.0, 5.0], 1: [4.0, 4.0], 2: [9.0, 1.0, 1.0], 3: [9.0, 9.0], 4: [1.0, 9.0]}


def measure(patch: pytest.MonkeyPatch, certainties: dict[int, list[float]]) -> None:
    """Let the samples have these certainties."""

    async def measured(self: Any, numbers: Any, field: str) -> list[list[float] | None]:
        assert field == "self_certainty"
        return [certainties.get(number) for number in numbers]

    patch.setattr("server.requests.samples.Samples.measured", measured)


@pytest.mark.parametrize("sampling", [{}, {"ignore_eos": True}, {"min_tokens": 1}])
async def test_samples_below_the_warmup_are_ended_and_have_no_vote(
    sampling: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    measure(monkeypatch, CERTAINTIES)
    choir = Choir(["It is 4", "5", "5", "4", "5"])
    one = generation(percentile=10, warmup=2, window=2)
    (output,) = await run(choir, one, **sampling)
    assert output.outputs[0].text == "It is 4"
    report = voted(one)
    assert report.threshold == pytest.approx(4.1)  # between the lowest windows of the first two
    assert (report.weak, report.finished, report.no_answer) == (2, 5, 0)
    assert [(row.answer, row.votes) for row in report.table] == [("4", 2), ("5", 1)]
    assert report.agreement == pytest.approx(2 / 3)
    assert choir.begun == [0, 1, 2, 3, 4]
    messages = [params.extra_args[KEY] for params in choir.params]
    assert all(message["confidence"] for message in messages)
    rule = None if sampling else {"window": 2, "threshold": pytest.approx(4.1), "stop": 9}
    assert [message["weak"] for message in messages] == [None, None, rule, rule, rule]


async def test_without_measurements_of_the_warmup_no_sample_is_weak() -> None:
    choir, one = Choir(["4", "5", "5"]), generation(percentile=50, warmup=2, n=3)
    (output,) = await run(choir, one)
    assert output.outputs[0].text == "5"
    assert (voted(one).threshold, voted(one).weak) == (None, 0)
    assert choir.params[2].extra_args[KEY]["weak"] is None


async def test_a_vote_decided_in_the_warmup_begins_no_other_sample() -> None:
    choir = Choir(["4", "4", "4", "4", None])
    one = generation("consensus", percentile=10)
    await run(choir, one)
    assert choir.begun == [0, 1, 2, 3]
    assert (voted(one).stopped, voted(one).finished) == ("consensus", 4)


@pytest.mark.parametrize(
    ("weight", "sums"),
    [
        ("self_certainty", [5 + 11 / 3 + 9, 4 + 5]),
        ("tail", [5 + 1 + 9, 4 + 5]),
        ("lowest", [5 + 1 + 9, 4 + 5]),
    ],
)
async def test_votes_weigh_by_the_certainty_of_their_tokens(
    weight: str, sums: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    measure(monkeypatch, CERTAINTIES)
    one = generation(weight=weight, window=2)
    (output,) = await run(Choir(["4", "5", "4", "So 4", "5"]), one)
    assert output.outputs[0].text == "So 4"
    assert voted(one).weight == weight
    assert [row.weight for row in voted(one).table] == pytest.approx(sums)


async def test_the_rest_is_aborted_when_the_lead_is_safe_and_its_tokens_count() -> None:
    choir = Choir(["7", "7", "7", None, None])
    one = generation("lead")
    (output,) = await run(choir, one)
    assert output.outputs[0].text == "7"
    assert (voted(one).stopped, voted(one).finished) == ("lead", 3)
    assert sorted(choir.aborted) == [3, 4]
    assert voted(one).tokens > 3


async def test_without_an_answer_the_first_sample_is_sent() -> None:
    one = generation(answer="boxed", n=2)
    (output,) = await run(Choir(["no box", "none here"]), one)
    assert output.outputs[0].text == "no box"
    assert (voted(one).answer, voted(one).no_answer) == (None, 2)


async def test_an_error_of_a_sample_is_the_requests_and_aborts_the_others() -> None:
    choir = Choir(["1", "2", None], ValueError("too long"))
    with pytest.raises(ValueError, match="too long"):
        await run(choir, generation(n=3))
    assert 2 in choir.aborted


async def test_an_error_of_the_first_sample_starts_no_other() -> None:
    choir = Choir(["1", "2", "3"], ValueError("too long"), fails=0)
    with pytest.raises(ValueError, match="too long"):
        await run(choir, generation(n=3))
    assert choir.begun == [0]


@pytest.mark.parametrize(("reply", "sent"), [("answer", 3), ("largest", 1)])
async def test_the_answer_of_semantic_samples_has_the_log_probabilities_asked_for(
    reply: Any, sent: int
) -> None:
    choir = Choir(["5", "It is 4", "4", "6"])
    made = plan("none")._replace(semantic=SemanticControl(n=3, reply=reply))
    one = Generation(made, Telemetry(), 0.01)
    with one.activate():
        asked = SamplingParams(seed=3, logprobs=2, output_kind=RequestOutputKind.FINAL_ONLY)
        async for _ in ControlledEngine(choir).generate("prompt", asked, "chat-1"):
            pass
    assert choir.begun[sent] == sent
    assert choir.params[sent].logprobs == 2


async def test_a_client_that_leaves_aborts_all_samples() -> None:
    choir, one = Choir([None] * 3), generation(n=3)
    task = asyncio.create_task(run(choir, one))
    while len(choir.begun) < 3:
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert sorted(choir.aborted) == [0, 1, 2]


async def test_semantic_samples_do_not_change_the_answer() -> None:
    choir = Choir(["It is 4", "4", "5", "It is 6"])
    made = plan("none")._replace(semantic=SemanticControl(n=3, temperature=1.5, top_k=7))
    one = Generation(made, Telemetry(), 0.01)
    (output,) = await run(choir, one)
    assert output.outputs[0].text == "It is 6"  # the last call, by the request's own parameters
    assert choir.seeds == [4, 5, 6, 3]
    assert [(p.temperature, p.top_k) for p in choir.params] == [(1.5, 7)] * 3 + [(1.0, 0)]
    assert one.sampled is not None
    report = one.sampled.semantic
    assert report is not None
    assert report.entropy == pytest.approx(0.636514, abs=1e-6)
    assert [cluster.answer for cluster in report.clusters] == ["4", "5"]
    assert (report.agreement, report.saturated) == (2 / 3, False)
    assert report.tokens == 3 + 1 + 1 + 3
    assert report.cached_tokens == 3 * 16


async def test_the_largest_cluster_can_be_the_answer() -> None:
    made = plan("none")._replace(
        semantic=SemanticControl(n=3, reply="largest", estimator="likelihood")
    )
    one = Generation(made, Telemetry(), 0.01)
    (output,) = await run(Choir(["5", "It is 4", "4"]), one)
    assert output.outputs[0].text == "It is 4"
    assert one.sampled is not None
    assert one.sampled.semantic is not None
    assert one.sampled.semantic.entropy is None  # the choir measures nothing


async def test_usage_counts_every_sample_and_the_report_has_the_vote() -> None:
    one = generation(n=3)
    one.calls.plan = one.plan._replace(trace="summary")
    choir = Choir(["4", "It is 4", "It is 5"])

    async def handle() -> Any:
        outputs = await run(choir, one, RequestOutputKind.FINAL_ONLY)
        tokens = len(outputs[0].outputs[0].token_ids)
        usage = SimpleNamespace(prompt_tokens=9, completion_tokens=tokens, total_tokens=9 + tokens)
        return Body(choices=[{"index": 0}], usage=usage)

    with one.activate():
        result = await add_reports(handle)()
    assert (result.usage.completion_tokens, result.usage.total_tokens) == (7, 16)
    (choice,) = result.choices
    assert choice.entropy.vote.answer == "4"
    assert choice.entropy.fallback == "trace_lost"  # the choir measures nothing
