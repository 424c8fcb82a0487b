"""Rows of decisions that come with the package: right, different, and the same for a seed."""

import re
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from probes.inquiry.task import load_task
from training.common.errors import TrainingError
from training.datasets.choices import LETTERS, comparisons, quiz_choices
from training.datasets.loaders import load_problems
from training.datasets.tickets import dialogues, tickets
from training.datasets.triage import consultations, patients
from training.decisions.rows import BUILT_IN, load_rows

TRIAGE = load_task("triage")


@pytest.mark.parametrize("make", [comparisons, quiz_choices])
def test_rows_follow_from_the_seed_and_are_all_different(
    make: Callable[[int, int], Iterator[dict[str, Any]]],
) -> None:
    once, again, other = (list(make(200, seed)) for seed in (0, 0, 1))
    assert once == again
    assert once != other
    assert len({one["input"] for one in once}) == 200


def test_half_of_the_comparisons_are_true_and_all_are_right() -> None:
    rows = list(comparisons(400, 3))
    assert Counter(one["value"] for one in rows) == {True: 200, False: 200}
    for one in rows:
        first, second, third, fourth = map(int, re.findall(r"\d+", one["input"]))
        assert (first + second > third + fourth) == one["value"]


def test_one_option_of_every_quiz_row_is_right() -> None:
    """Over every question that has options: no wrong option contains the right one."""
    answers = {one.prompt: one.answer for one in load_problems(["quiz"], 10_000, 0)}
    rows = list(quiz_choices(2000, 0))
    for one in rows:
        prompt, *options = one["input"].rsplit("\n", len(LETTERS))
        texts = dict(option.split(") ", 1) for option in options)
        assert tuple(texts) == LETTERS
        assert texts.pop(one["value"]) == answers[prompt]
        assert not any(answers[prompt].lower() in wrong.lower() for wrong in texts.values())
    counts = Counter(one["value"] for one in rows)
    assert all(400 < counts[letter] < 600 for letter in LETTERS)
    with pytest.raises(TrainingError, match="the quiz has"):
        list(quiz_choices(100_000, 0))


def test_dialogues_are_tickets_with_answers_of_their_customers() -> None:
    for ticket, one in zip(tickets(80, 0), dialogues(80, 0), strict=True):
        text, *said = one["input"].split("\n\n")
        assert text == ticket["input"]
        assert all(ticket["facts"][q] == a for q, a in (one.split("\n") for one in said))


def test_consultations_are_patients_with_answers_by_the_table() -> None:
    for patient, one in zip(patients(120, 0), consultations(120, 0), strict=True):
        text, *said = one["input"].split("\n\n")
        assert text == patient["input"]
        assert len(patient["facts"]) == 6
        for question, answer in (one.split("\n") for one in said):
            (query,) = [one for one in TRIAGE.queries if one.question == question]
            known = {name: "yes" if name in (query.yes or ()) else "no" for name in TRIAGE.names}
            varies = patient["condition"] in query.varies
            assert patient["facts"][question] == answer
            assert varies or answer == known[patient["condition"]]


@pytest.mark.parametrize(("make", "value"), [(dialogues, "team"), (consultations, "condition")])
def test_the_number_of_answers_says_nothing_about_the_right_value(make: Any, value: str) -> None:
    rows = list(make(240, 0))
    assert [one["input"] for one in rows] == [one["input"] for one in make(240, 0)]
    found = Counter((one[value], one["input"].count("\n\n")) for one in rows)
    assert len(found) == 4 * len({one[value] for one in rows})
    assert len(set(found.values())) == 1


@pytest.mark.parametrize("name", BUILT_IN)
def test_rows_that_come_with_the_package_have_one_question(name: str) -> None:
    rows = load_rows(name, None, 60, 0)
    assert len(rows) == 60
    assert len({one.question for one in rows}) == 1
