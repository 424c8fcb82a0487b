"""The benchmark of asking before deciding: its cases, its stopping rule, its paired figures."""

from typing import Any

import pytest

from benchmarks.decisions import ask, ask_table
from benchmarks.decisions.ask import (
    AT_ONCE,
    CHOSEN,
    MATCHED,
    RANDOM,
    WAYS,
    Case,
    Game,
    by_way,
    new_cases,
    page,
    play,
)
from benchmarks.machine import describe
from clients.decisions import DecidedAnswer
from probes.inquiry.table import table_logprobs
from probes.inquiry.task import load_task
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


def test_questions_end_at_the_limit_and_their_answers_are_the_cases(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    texts = []

    def decide(client: Any, text: str, questions: Any, ask: Any = (), **_: Any) -> Any:
        texts.append(text)
        answer = DecidedAnswer("a", 0.5, ("a", "b"), True, True, next(iter(ask), None))
        return {"q": answer}

    monkeypatch.setattr(ask, "decide", decide)
    monkeypatch.setattr("clients.decisions.decide", decide)
    client: Any = None
    found = play(client, {}, CASE, 2)
    asked = {AT_ONCE: 0, MATCHED: 2, RANDOM: 2, CHOSEN: 2}
    assert found == {way: Game(True, True, 2, number) for way, number in asked.items()}
    for text in texts:
        said = [part.split("\n") for part in text.split("\n\n")[1:]]
        assert all(CASE.facts[question] == answer for question, answer in said)
    assert [text.count("?") for text in texts] == [0, 1, 2] * 2


def test_as_many_questions_in_random_order_as_were_chosen() -> None:
    in_order = [Game(True, True, 3 - number, number) for number in range(3)]
    for number in range(3):
        found = by_way(in_order, Game(True, True, 1, number))
        assert found[MATCHED] == in_order[number]
    assert by_way(in_order[:2], Game(True, True, 1, 2))[MATCHED] == in_order[1]
    assert (found[AT_ONCE], found[RANDOM]) == (in_order[0], in_order[-1])


def test_the_page_pairs_the_ways_by_case() -> None:
    right = {AT_ONCE: True, MATCHED: False, RANDOM: False, CHOSEN: True}
    games = [
        {way: Game(right[way], way == CHOSEN, number, number) for number, way in enumerate(WAYS)}
    ] * 9
    text = page(describe("x"), games, "settings")
    (chosen,) = [line for line in text.splitlines() if line.startswith(f"| {CHOSEN}")]
    gaps = ["+0.000 (+0.000 to +0.000)", *["-1.000 (-1.000 to -1.000)"] * 2]
    assert " | ".join([*gaps, "1.000 (1.000 to 1.000)", "3.00", "+2.00 (+2.00 to +2.00)"]) in chosen
    (random,) = [line for line in text.splitlines() if line.startswith(f"| {RANDOM} |")]
    assert "| +1.000 (+1.000 to +1.000) |  |  | 0.000 (0.000 to 0.000) | 2.00 |  |" in random


def test_by_the_table_chosen_questions_leave_smaller_sets_than_as_many_random_ones() -> None:
    table = table_logprobs(load_task("triage"))
    assert table is not None
    found = [ask_table.play(case, 0.8, 3, table) for case in new_cases("triage", 48)[1]]
    left = {way: sum(one[way].left for one in found) for way in WAYS}
    assert left[CHOSEN] < left[MATCHED] < left[AT_ONCE]
    assert sum(one[CHOSEN].right for one in found) > sum(one[AT_ONCE].right for one in found)
    assert all(one[MATCHED].asked <= one[CHOSEN].asked <= 3 for one in found)
