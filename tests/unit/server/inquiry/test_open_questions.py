"""Games with questions that the model proposes, against a scripted engine."""

import json
from pathlib import Path
from typing import Any

import pytest

from probes.inquiry.likelihood import UNKNOWN, YES
from probes.inquiry.prompts import proposal_prompt, proposal_schema, read_proposals
from probes.inquiry.task import Task
from server.errors import BadControl
from server.inquiry.conversation import Exchange, read_conversation
from server.inquiry.engine_reads import ReadError
from server.inquiry.open_questions import add_open_questions, propose
from tests.unit.server.inquiry.test_conversation import chat_of
from tests.unit.server.inquiry.test_turn import BARK, FakeReads, plan, turn

SINGS, FLIES = "Is it true that it sings?", "Is it true that it can fly?"


class Proposer(FakeReads):
    """Returns the given proposals; statements about dogs are likely, about fish unlikely."""

    def __init__(self, *proposals: list[str], broken: bool = False) -> None:
        super().__init__(broken)
        self.proposals = list(proposals)
        self.seeds: list[int] = []
        self.read: list[str] = []

    def after(self, text: str) -> list[int]:
        known = text in self.labels or text in (" yes", " no", " unknown")
        return super().after(text) if known else self.letters(text)

    async def sample(
        self, prompt: list[int], schema: dict[str, Any], temperature: float, seed: int
    ) -> str:
        if self.broken:
            raise ReadError("too long")
        self.prompts.append("".join(map(chr, prompt)))
        self.seeds.append(seed)
        self.forwards += 1
        return json.dumps({"endings": self.proposals.pop(0) if self.proposals else []})

    async def continuations(self, pairs: list[tuple[list[int], list[int]]]) -> list[float]:
        texts = ["".join(map(chr, [*before, *after])) for before, after in pairs]
        self.read += texts
        return [-5.0 - 5.0 * text.startswith("A fish") - len(text) / 100 for text in texts]


async def test_a_question_that_the_model_proposed_is_asked(tmp_path: Path) -> None:
    reads = Proposer(["sings", "can fly"])
    text, report, fallback = await turn(plan(tmp_path, queries="open"), reads=reads)
    assert (report.action, fallback) == ("ask", None)
    assert text == report.query
    assert text in (SINGS, FLIES)
    assert (report.queries, report.num_candidates) == ("open", 2)
    assert "A dog can fly." in reads.read
    assert report.calibrated  # no open question was asked yet


async def test_the_answer_to_an_open_question_updates_the_probabilities_and_unsets_calibrated(
    tmp_path: Path,
) -> None:
    wanted = plan(tmp_path, queries="open", confidence_level=0.98)
    _, report, _ = await turn(wanted, (SINGS, "no"), reads=Proposer(["can fly"]))
    assert max(report.probabilities, key=lambda name: report.probabilities[name]) == "fish"
    assert not report.calibrated
    assert report.query == FLIES
    assert report.turn == 2


async def test_unknown_as_a_reply_to_an_open_question_carries_no_information(
    tmp_path: Path,
) -> None:
    wanted = plan(tmp_path, queries="open")
    _, report, _ = await turn(wanted, (SINGS, "..."), reads=Proposer(["can fly"]))
    assert len({round(one, 6) for one in report.probabilities.values()}) == 1
    assert report.query == FLIES


async def test_no_question_is_asked_twice_closed_or_open(tmp_path: Path) -> None:
    inquiry = plan(tmp_path).inquiry
    reads: Any = Proposer(["Sings", "barks", "SINGS ", "can fly", "Can  fly", "..."])
    heard = [(SINGS, YES), (BARK, UNKNOWN)]
    fresh = await propose(inquiry, heard, 5, reads)
    assert [query.question for query in fresh] == [FLIES]
    assert BARK not in reads.prompts[0]  # unknown carries no information
    assert f"{SINGS} yes" in reads.prompts[0]


async def test_proposals_are_retried_with_another_seed_a_limited_number_of_times(
    tmp_path: Path,
) -> None:
    wanted, reads = plan(tmp_path, queries="open"), Proposer([], ["sings"], ["can fly"])
    _, report, fallback = await turn(wanted, (SINGS, "hm..."), reads=reads)
    assert (report.query, reads.seeds, fallback) == (FLIES, [0, 1, 2], None)
    reads = Proposer()
    _, report, fallback = await turn(wanted, reads=reads)
    assert (fallback, reads.seeds) == ("no_proposals", [0, 1, 2])
    assert report.query in wanted.inquiry.task.questions


async def test_max_candidates_limits_the_number_of_proposals(tmp_path: Path) -> None:
    wanted = plan(tmp_path, queries="open", max_candidates=2)
    asked: list[int] = []

    class Counting(Proposer):
        async def sample(self, prompt: Any, schema: Any, temperature: float, seed: int) -> str:
            asked.append(schema["properties"]["endings"]["maxItems"])
            return await super().sample(prompt, schema, temperature, seed)

    await turn(wanted, reads=Counting(["sings", "can fly"]))
    assert asked == [2]


async def test_a_finished_game_proposes_no_questions(tmp_path: Path) -> None:
    wanted = plan(tmp_path, queries="open", max_turns=1, confidence_level=0.98)
    reads = Proposer(["can fly"])
    _, report, _ = await turn(wanted, (SINGS, "no"), reads=reads)
    assert (report.action, report.reason, reads.seeds) == ("answer", "budget", [])


async def test_direct_predicts_after_open_questions(tmp_path: Path) -> None:
    reads = Proposer(["sings", "can fly"])
    wanted = plan(tmp_path, direct=True, predictor="direct", queries="open", confidence_level=0.98)
    _, report, fallback = await turn(wanted, reads=reads)
    assert (report.predictor, fallback) == ("direct", None)
    assert report.query in (SINGS, FLIES)
    assert any(f"{FLIES} no" in prompt for prompt in reads.prompts)


async def test_a_failing_engine_falls_back_to_the_questions_of_the_task(tmp_path: Path) -> None:
    wanted, reads = plan(tmp_path, queries="open"), Proposer(broken=True)
    _, report, fallback = await turn(wanted, (SINGS, "no"), reads=reads)
    assert fallback == "open_unavailable"
    assert report.query in wanted.inquiry.task.questions


async def test_open_questions_of_the_history_are_added_to_the_table(tmp_path: Path) -> None:
    inquiry = plan(tmp_path).inquiry
    heard = [(BARK, YES), (SINGS, YES), (SINGS, YES)]
    reads: Any = Proposer()
    grown = await add_open_questions(inquiry, heard, 0, reads)
    assert grown.inquiry.logprobs.shape == (4, 2, 3)
    assert grown.inquiry.task.questions[3] == SINGS
    assert grown.candidates is None


def test_open_questions_are_recognized_only_if_enabled(tmp_path: Path) -> None:
    inquiry = plan(tmp_path).inquiry
    messages = chat_of("hi", "  Is it true that  it can fly? ", "no")
    assert read_conversation(messages, inquiry, open_questions=True) == [Exchange(FLIES, "no")]
    with pytest.raises(Exception, match=r"messages\.1"):
        read_conversation(messages, inquiry)
    with pytest.raises(Exception, match=r"messages\.1"):
        read_conversation(chat_of("hi", "Is it true that it ?", "no"), inquiry, open_questions=True)


def test_the_number_of_open_questions_of_a_game_is_limited(tmp_path: Path) -> None:
    inquiry = plan(tmp_path).inquiry
    lines = [line for at in range(101) for line in (f"Is it true that it is {at}?", "no")]
    assert len(read_conversation(chat_of("hi", *lines[:-2]), inquiry, open_questions=True)) == 100
    with pytest.raises(Exception, match=r"messages\.201.*at most 100 open questions"):
        read_conversation(chat_of("hi", *lines), inquiry, open_questions=True)


def test_malformed_proposals_of_the_model_are_dropped(tmp_path: Path) -> None:
    assert read_proposals('{"endings": ["has  wings", "...", "can fly"]}') == [
        "has wings",
        "can fly",
    ]
    for broken in ('{"endings": ["has w', "[]", '{"x": 1}', "null", '{"endings": 3}'):
        assert read_proposals(broken) == []


def test_the_prompt_contains_the_format_and_the_history(tmp_path: Path) -> None:
    task = plan(tmp_path).inquiry.task
    prompt = proposal_prompt(task, [(BARK, YES)])
    assert "One pet of: cat, dog, fish." in prompt
    assert f"{BARK} yes\n" in prompt
    schema: Any = proposal_schema(4)
    assert schema["properties"]["endings"]["minItems"] == 4


async def test_too_many_statements_are_refused_before_the_first_is_read(tmp_path: Path) -> None:
    inquiry = plan(tmp_path).inquiry
    labels = [{"name": f"l{at}", "phrase": f"An l{at}"} for at in range(125)]
    task = Task.model_validate(
        {**inquiry.task.model_dump(), "labels": [*inquiry.task.model_dump()["labels"], *labels]}
    )
    wanted = plan(tmp_path, queries="open")
    wanted = wanted._replace(inquiry=wanted.inquiry._replace(task=task))
    reads = Proposer()
    with pytest.raises(BadControl, match="engine requests") as caught:
        await turn(
            wanted, *[(f"Is it true that it is {at}?", "no") for at in range(100)], reads=reads
        )
    assert caught.value.param == "messages"
    assert (reads.forwards, reads.read) == (0, [])
