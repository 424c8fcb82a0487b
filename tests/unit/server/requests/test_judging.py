"""Semantic samples that the served model compares in pairs, on a scripted engine."""

import math
from types import SimpleNamespace
from typing import Any

import pytest
from vllm.sampling_params import RequestOutputKind, SamplingParams

from probes.selective.pairs import DirectedAnswer, agree, is_same
from server.errors import BadControl
from server.planning.plan import Plan
from server.planning.refusals import RequestParams
from server.planning.sampled import plan_semantic
from server.requests.generation import ControlledEngine, Generation
from server.requests.telemetry import Telemetry
from server.wire.report import SemanticReport
from server.wire.request import MAX_JUDGED, Control, SemanticControl
from tests.unit.server.fake_engine import plan
from tests.unit.server.requests.test_vote import Choir

QUESTION = {"role": "user", "content": "?"}
PARAMS = RequestParams(supports_inquiry=True, max_samples=64, last_message=QUESTION)
CITY = {"Paris", "It is Paris.", "paris", "The city of Paris", "It is  paris."}


class Judge(Choir):
    """A choir that also answers reads: yes, if both answers of a pair name the same city."""

    model_config = SimpleNamespace(max_model_len=10_000)
    yes = 0.9

    def __init__(self, texts: list[str | None]) -> None:
        super().__init__(texts)
        self.renderer = self
        self.asked: list[tuple[str, str]] = []
        self.shown: list[str] = []

    async def tokenize_prompts_async(self, prompts: Any, params: Any) -> list[Any]:
        return [{"prompt_token_ids": [ord(one["prompt"][0])]} for one in prompts]

    async def extend(self, text: str) -> Any:
        self.shown.append(text)
        return {"prompt_token_ids": list(map(ord, text))}

    async def generate(self, prompt: Any, params: Any, request_id: str, **further: Any) -> Any:
        if params.logprob_token_ids is None:
            async for output in super().generate(prompt, params, request_id):
                yield output
            return
        text = "".join(map(chr, prompt["prompt_token_ids"]))
        pair = tuple(part.partition(": ")[2] for part in text.split("\n\n")[:2])
        self.asked.append((pair[0], pair[1]))
        yes = self.says(*pair)
        row = {ord("Y"): SimpleNamespace(logprob=math.log(yes))}
        row[ord("N")] = SimpleNamespace(logprob=math.log(0.95 - yes))
        one = SimpleNamespace(logprobs=[row], finish_reason="length", token_ids=[0])
        yield SimpleNamespace(outputs=[one], num_cached_tokens=0)

    def says(self, first: str, second: str) -> float:
        return self.yes if (first in CITY) == (second in CITY) else 0.05


async def run(engine: Choir, extend: Any, **control: Any) -> tuple[SemanticReport, Generation]:
    wanted = SemanticControl(n=len(engine.texts), reply="largest", **control)
    one = Generation(plan("none")._replace(semantic=wanted), Telemetry(), 0.01, extend)
    with one.activate():
        params = SamplingParams(seed=3, output_kind=RequestOutputKind.DELTA)
        async for _ in ControlledEngine(engine).generate({"prompt_token_ids": [1]}, params, "chat"):
            pass
    assert one.sampled is not None
    assert one.sampled.semantic is not None
    return one.sampled.semantic, one


@pytest.mark.parametrize("how", ["judge", "entailment"])
async def test_answers_in_other_words_are_one_group_if_the_model_says_so(how: Any) -> None:
    judge = Judge(["It is Paris.", "Rome", "Paris", "It is  paris.", "The city of Paris"])
    found, one = await run(judge, judge.extend, cluster=how)
    assert [(row.answer, row.share) for row in found.clusters] == [
        ("It is Paris.", 0.8),
        ("Rome", pytest.approx(0.2)),
    ]
    assert found.entropy == pytest.approx(-0.8 * math.log(0.8) - 0.2 * math.log(0.2))
    assert (found.cluster, found.pairs, found.judge_agreement) == (how, 3, 1.0)
    pairs = [("It is Paris.", other) for other in ("Rome", "Paris", "The city of Paris")]
    assert sorted(judge.asked) == sorted(pairs + [pair[::-1] for pair in pairs])
    assert found.tokens == 3 + 1 + 1 + 3 + 4 + 6  # the samples, and one for each read
    assert one.sampled is not None
    assert one.sampled.fallback is None


async def test_each_sample_joins_the_first_group_whose_first_sample_says_the_same() -> None:
    judge = Judge(["a", "b", "c", "d"])
    same = {("a", "c"), ("b", "c"), ("b", "d")}
    judge.says = lambda *pair: 0.9 if {pair, pair[::-1]} & same else 0.05  # type: ignore[method-assign]
    found, _ = await run(judge, judge.extend, cluster="judge")
    assert [row.answer for row in found.clusters] == ["a", "b"]
    assert [row.share for row in found.clusters] == [0.5, 0.5]  # a and c; b and d
    assert found.pairs == 3 + 1


async def test_a_sample_without_words_is_a_group_of_its_own_and_not_compared() -> None:
    judge = Judge(["Paris", "\u200a", "paris"])
    found, _ = await run(judge, judge.extend, cluster="judge")
    assert found.pairs == 0
    assert found.judge_agreement is None
    assert sorted(row.share for row in found.clusters) == pytest.approx([1 / 3, 2 / 3])


async def test_a_reply_that_is_neither_yes_nor_no_separates() -> None:
    judge = Judge(["Paris", "It is Paris."])
    judge.says = lambda *_: 0.8  # type: ignore[method-assign]
    assert (await run(judge, judge.extend, cluster="judge"))[0].entropy == 0
    assert DirectedAnswer(0.19, 0.01).share == 0
    assert DirectedAnswer(0.3, 0.1).share == pytest.approx(0.75)
    assert DirectedAnswer(math.nan, math.nan).share == 0


def test_entailment_wants_both_orders_and_a_judge_the_mean() -> None:
    sure, unsure, no = DirectedAnswer(0.9, 0.1), DirectedAnswer(0.4, 0.6), DirectedAnswer(0.05, 0.9)
    assert is_same("judge", sure, unsure)
    assert not is_same("entailment", sure, unsure)
    assert not is_same("judge", sure, no)
    assert is_same("entailment", sure, sure)
    assert agree(no, unsure)
    assert not agree(sure, unsure)


async def test_where_a_pair_is_too_long_the_answers_are_compared() -> None:
    async def too_long(_: str) -> Any:
        return None

    found, one = await run(Judge(["5", "It is 5", "6"]), too_long, cluster="judge")
    assert (found.cluster, found.pairs) == ("answer", None)
    assert [row.share for row in found.clusters] == pytest.approx([2 / 3, 1 / 3])
    assert one.sampled is not None
    assert one.sampled.fallback == "judge_failed"


async def test_long_answers_are_shown_in_part() -> None:
    judge = Judge(["x" * 5000, "y" * 5000])
    await run(judge, judge.extend, cluster="judge")
    assert all(len(text) < 4300 for text in judge.shown)


def test_more_samples_than_can_be_compared_are_refused() -> None:
    def planned(n: int, cluster: Any) -> Any:
        control = Control(semantic=SemanticControl(n=n, cluster=cluster))
        return plan_semantic(control, PARAMS)

    assert planned(MAX_JUDGED, "judge").n == MAX_JUDGED
    assert planned(MAX_JUDGED + 1, "answer").n == MAX_JUDGED + 1
    with pytest.raises(BadControl, match="at most 16") as caught:
        planned(MAX_JUDGED + 1, "entailment")
    assert caught.value.param == "entropy.semantic.n"


def test_only_a_judge_renders_the_conversation_again() -> None:
    def extends(**control: Any) -> bool:
        made: Plan = plan("none")._replace(semantic=SemanticControl(n=2, **control))
        return made.extends_prompt

    assert not extends()
    assert extends(cluster="judge")
