"""Which question a decision names before it is certain."""

import math
import operator
from pathlib import Path
from typing import Any

import pytest

from tests.unit.server.decisions.support import CharacterEngine, post
from tests.unit.server.decisions.test_decisions import BODY, TEAM
from tests.unit.server.support import artifacts, save_inquiry, save_statistics


def test_a_follow_up_is_named_only_where_an_answer_abstains() -> None:
    asks = {"ask": [{"question": "Is it big?"}, {"question": "Where?", "answers": ["in", "out"]}]}
    sure = post(CharacterEngine(), BODY | {"entropy": asks}).json()["answers"]
    assert [one["entropy"]["next_question"] for one in sure] == [None] * 3
    unsure = {**asks, "abstain": {"min_probability": 0.99}}
    found = post(CharacterEngine(), BODY | {"entropy": unsure}).json()["answers"]
    named = {one["entropy"]["next_question"] for one in found}
    assert named <= {"Is it big?", "Where?"}
    assert named


def test_the_follow_up_is_the_one_whose_answers_leave_the_least_entropy() -> None:
    """Computed again from decisions on the input with each answer, weighted by the model."""
    asks = {"Is it big?": ["yes", "no"], "Where?": ["in", "out", "up"], "Who?": ["me", "you"]}

    def decided(text: str, question: Any) -> list[float]:
        body = {"model": "m", "input": text, "questions": [question], "entropy": {"prior": False}}
        found: list[float] = post(CharacterEngine(), body).json()["answers"][0]["entropy"]["raw"]
        return found

    named = set()
    for text in ("a", "b", "c", "d", "e", "f"):
        expected = {}
        for question, answers in asks.items():
            choices = [{"value": one} for one in answers]
            follow_up = {"type": "choice", "instructions": question, "choices": choices}
            after = [decided(f"{text}\n\n{question}\n{one}", TEAM) for one in answers]
            left = [-math.fsum(p * math.log(p) for p in one) for one in after]
            expected[question] = math.fsum(map(operator.mul, decided(text, follow_up), left))
        control = {
            "prior": False,
            "abstain": {"min_probability": 0.99},
            "ask": [{"question": one, "answers": answers} for one, answers in asks.items()],
        }
        body = {"model": "m", "input": text, "questions": [TEAM], "entropy": control}
        answer = post(CharacterEngine(), body).json()["answers"][0]["entropy"]
        assert answer["next_question"] == min(expected, key=expected.__getitem__)
        named.add(answer["next_question"])
    assert len(named) > 1


def test_a_task_stands_for_its_questions_that_the_input_does_not_have(tmp_path: Path) -> None:
    save_inquiry(tmp_path)
    known = artifacts(tmp_path)
    questions = ["Does it bark?", "Can it swim?", "Is it nice?"]

    def named(text: str, ask: Any) -> Any:
        control = {"abstain": {"min_probability": 0.99}, "ask": ask}
        body = {"model": "m", "input": text, "questions": [TEAM], "entropy": control}
        return post(CharacterEngine(), body, known=known).json()["answers"][0]["entropy"][
            "next_question"
        ]

    text, found = "a", list[str]()
    while (question := named(text, {"task": "m/pets"})) is not None:
        left = [one for one in questions if one not in found]
        assert question == named(text, [{"question": one} for one in left])
        found.append(question)
        text = f"{text}\n\n{question}\nyes"
    assert len(found) > 1
    assert set(found) <= set(questions)


@pytest.mark.parametrize(
    ("ask", "param"),
    [
        ({"task": "m/none"}, "entropy.ask.task"),
        ({"task": "m/statistics"}, "entropy.ask.task"),
        ({"task": 3}, "entropy.ask.task"),
        ({"tasks": "m/pets"}, "entropy.ask.tasks"),
        ({}, "entropy.ask.task"),
        (True, "entropy.ask"),
        ([{"question": ""}], "entropy.ask.0.question"),
        ([{"question": "Why?", "answer": ["a", "b"]}], "entropy.ask.0.answer"),
    ],
)
def test_what_cannot_be_asked_is_refused_by_name(tmp_path: Path, ask: Any, param: str) -> None:
    save_inquiry(tmp_path)
    save_statistics(tmp_path, "m/statistics")
    answer = post(CharacterEngine(), BODY | {"entropy": {"ask": ask}}, known=artifacts(tmp_path))
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
