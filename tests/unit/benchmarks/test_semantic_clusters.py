"""The benchmark of ways to group samples: what is read, kept, grouped and compared."""

import json
from pathlib import Path
from typing import Any

from benchmarks.machine import describe
from benchmarks.semantic.clusters import Question, drawn, groupings, load, model_groups
from benchmarks.semantic.page import joined, page
from benchmarks.semantic.reads import PairRead, PairReads
from probes.selective.pairs import DirectedAnswer, pair_question
from training.common.server_pool import RolloutRecord
from training.datasets.problem import Problem

PARIS = ["Paris.", "It is Paris.", "The city of Paris", "paris."]
TEXTS = [*PARIS, "Rome.", "It is Rome."]


def question(number: int) -> Question:
    """The first answer to every other question is wrong."""
    problem = Problem(task="t", prompt=f"Where? {number}", answer="Paris", grader="contains")
    records = [
        RolloutRecord(
            number=place,
            messages=[],
            seed=0,
            text=text,
            finish_reason="stop",
            entropies=[1.0],
            temperatures=[1.0],
            scores={"logprob_mean": -1.0 - place, "entropy_mean": 1.0, "num_tokens": 3.0},
        )
        for place, text in enumerate(["Rome" if number % 2 else "Paris", *TEXTS])
    ]
    return Question(problem.prompt, drawn(problem, records), TEXTS)


def says(content: str) -> DirectedAnswer:
    same = content.count("Paris") + content.count("paris") != 1
    return DirectedAnswer(0.9, 0.1) if same else DirectedAnswer(0.1, 0.9)


class Model:
    """Knows which answers name the same city."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def ask(self, content: str) -> PairRead:
        self.asked.append(content)
        return PairRead(says(content), 7)


async def test_a_judge_that_knows_joins_equal_answers_and_no_others(
    tmp_path: Path,
) -> None:
    model = Model()
    questions = [question(number) for number in range(20)]
    found = await model_groups(questions, PairReads(tmp_path / "pairs.jsonl", model.ask, 1, 4))
    ways = {one.name: one for one in await groupings(questions, list(found.values()))}
    answers = [one.drawn for one in questions]
    for how in ("judge", "entailment"):
        assert ways[how].ids == [[[0, 0, 0, 0, 1, 1]]] * 20
        assert joined(answers, ways[how], both_right=True) == 1
        assert joined(answers, ways[how], both_right=False) == 0
        assert ways[how].agreement == 1
    # Five texts in other words than the first, and Rome in other words: six pairs in both orders.
    assert (ways["judge"].pairs, ways["judge"].tokens) == (5, 70)
    assert joined(answers, ways["answer, exact"], both_right=True) < 1
    first = pair_question("judge", "Paris.", "It is Paris.")
    assert f"Where? 0\n\n{first}" in model.asked
    text = page("t", describe("x"), answers, list(ways.values()))
    assert "20 questions; 0.500 of the graded answers are right. 6 other answers" in text


async def test_a_pair_is_asked_about_once_and_then_read_from_the_file(
    tmp_path: Path,
) -> None:
    model = Model()
    path = tmp_path / "pairs.jsonl"
    first = await model_groups([question(0)], PairReads(path, model.ask, 1, 4))
    count = len(model.asked)
    assert count == len(set(model.asked)) == len(path.read_text().splitlines())
    assert await model_groups([question(0)], PairReads(path, None, 1, 4)) == first
    assert len(model.asked) == count


async def test_without_time_only_questions_that_were_read_are_kept(tmp_path: Path) -> None:
    reads = PairReads(tmp_path / "pairs.jsonl", Model().ask, -1, 4)
    assert await model_groups([question(0)], reads) == {}
    same = question(1)._replace(texts=["Paris."] * 6)  # no pair to ask about
    found = await model_groups([question(0), same], reads)
    assert list(found) == [1]
    assert found[1]["judge"].ids == [0] * 6


def test_questions_without_all_their_answers_are_left_out(tmp_path: Path) -> None:
    problems = [Problem(task="t", prompt=f"{n}?", answer="1", grader="numeric") for n in range(2)]
    settings: dict[str, Any] = {"samples": 3, "instruction": "Be brief."}
    settings["problems"] = [one.model_dump() for one in problems]
    (tmp_path / "settings.json").write_text(json.dumps(settings))
    record = RolloutRecord(
        number=0,
        messages=[],
        seed=0,
        text="1",
        finish_reason="stop",
        entropies=[1.0],
        temperatures=[1.0],
        scores={"logprob_mean": -1.0},
    )
    lines = [record.model_copy(update={"number": n}).model_dump_json() for n in range(5)]
    (tmp_path / "traces.jsonl").write_text("\n".join(lines) + "\n")
    (found,) = load(tmp_path)
    assert found.prompt == "0?\n\nBe brief."
    assert (found.texts, found.drawn.right, found.drawn.others_right) == (
        ["1"] * 2,
        True,
        [True] * 2,
    )
