"""The benchmark of asking before deciding: its cases, its stopping rule, its paired figures."""

from typing import Any

import pytest

from benchmarks.decisions import ask
from benchmarks.decisions.ask import (
    AT_ONCE,
    CHOSEN,
    RANDOM,
    WAYS,
    Case,
    Game,
    new_cases,
    page,
    play,
)
from benchmarks.machine import describe
from clients.decisions import DecidedAnswer
from training.datasets.tickets import tickets

CASE = Case("It broke.", "a", {"One?": "yes", "Two?": "no", "Three?": "yes"})


def test_tickets_are_none_that_a_calibration_has_seen() -> None:
    question, cases = new_cases("tickets", 60)
    assert len(cases) == 60
    assert {case.right for case in cases} == {one["value"] for one in question["choices"]}
    assert not {case.text for case in cases} & {one["input"] for one in tickets(720, 0)}


@pytest.mark.parametrize("task", ["tickets", "triage"])
def test_every_case_has_answers_to_six_questions(task: str) -> None:
    _, cases = new_cases(task, 24)
    assert {len(case.facts) for case in cases} == {6}
    assert {answer for case in cases for answer in case.facts.values()} == {"yes", "no"}


@pytest.mark.parametrize(("way", "asked"), [(AT_ONCE, 0), (RANDOM, 2), (CHOSEN, 2)])
def test_questions_end_at_the_limit_and_their_answers_are_the_cases(
    way: str, asked: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = []

    def decide(client: Any, text: str, questions: Any, ask: Any = (), **_: Any) -> Any:
        texts.append(text)
        answer = DecidedAnswer("a", 0.5, ("a", "b"), True, True, next(iter(ask), None))
        return {"q": answer}

    monkeypatch.setattr(ask, "decide", decide)
    monkeypatch.setattr("clients.decisions.decide", decide)
    client: Any = None
    assert play(client, {}, CASE, way, 2) == Game(right=True, left=2, asked=asked)
    said = [part.split("\n") for part in texts[-1].split("\n\n")[1:]]
    assert len(said) == asked
    assert all(CASE.facts[question] == answer for question, answer in said)


def test_the_page_pairs_the_ways_by_case() -> None:
    right = {AT_ONCE: True, RANDOM: False, CHOSEN: True}
    games = [{way: Game(right[way], number, number) for number, way in enumerate(WAYS)}] * 9
    text = page(describe("x"), games, "settings")
    (chosen,) = [line for line in text.splitlines() if line.startswith(f"| {CHOSEN}")]
    assert "| +0.000 (+0.000 to +0.000) | -1.000 (-1.000 to -1.000) | 2.00 |" in chosen
    assert "+1.00 (+1.00 to +1.00)" in chosen
