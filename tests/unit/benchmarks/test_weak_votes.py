"""Votes that end weak samples: the controls are majorities of random subsets."""

import pytest

from benchmarks.machine import describe
from benchmarks.weak_votes import PERCENTILES, VoteResult, page, subset_accuracy

SPLIT = VoteResult(True, 800, 0, [(True, 5), (False, 3)])


def test_a_subset_of_one_is_right_as_often_as_a_sample() -> None:
    assert subset_accuracy(SPLIT, 8, 1, seed=0) == pytest.approx(5 / 8, abs=0.1)
    assert subset_accuracy(SPLIT, 8, 8, seed=0) == 1  # all of them: the plain vote
    assert subset_accuracy(SPLIT._replace(answers=[(False, 8)]), 8, 3, seed=0) == 0


def test_samples_without_an_answer_win_nothing() -> None:
    one_answer = SPLIT._replace(answers=[(True, 1)])
    assert subset_accuracy(one_answer, 8, 8, seed=0) == 1
    assert subset_accuracy(one_answer, 8, 1, seed=0) == pytest.approx(1 / 8, abs=0.08)


def test_a_size_between_two_numbers_is_interpolated() -> None:
    one_answer = SPLIT._replace(answers=[(True, 1)])  # of two samples: half right, both always
    assert subset_accuracy(one_answer, 2, 1.5, seed=0) == pytest.approx(0.75, abs=0.06)


def test_a_vote_that_keeps_the_right_half_is_above_its_controls() -> None:
    even = VoteResult(False, 800, 0, [(True, 4), (False, 4)])
    kept = VoteResult(True, 600, 4, [(True, 4)])
    ended = [dict.fromkeys(PERCENTILES, kept) | {0: even} for _ in range(20)]
    text = page(describe("x"), ended, 8, "a line")
    row = next(line for line in text.splitlines() if line.startswith("| 90 "))
    plain, tokens, votes = [cell.strip() for cell in row.split("|")[5:8]]
    assert plain.startswith("+1.000")
    assert float(tokens.split()[0]) > 0.2
    assert float(votes.split()[0]) > 0.2
