from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.evaluation.estimators import at_equal, majority_at_k, pass_at_k


def majority_by_hand(right: int, wrong: list[int], k: int) -> float:
    """The same by looking at every subset of k answers."""
    answers = ["right"] * right + [str(n) for n, votes in enumerate(wrong) for _ in range(votes)]
    won = []
    for subset in combinations(answers, k):
        votes = {answer: subset.count(answer) for answer in subset}
        first = [answer for answer, count in votes.items() if count == max(votes.values())]
        won.append(("right" in first) / len(first))
    return float(np.mean(won))


def test_pass_at_k_has_its_golden_values() -> None:
    assert pass_at_k(0, 8, 4) == 0.0
    assert pass_at_k(8, 8, 1) == 1.0
    assert pass_at_k(1, 8, 1) == 0.125
    assert pass_at_k(2, 8, 4) == pytest.approx(1 - 15 / 70)


@given(st.integers(0, 6), st.integers(1, 6))
def test_pass_at_k_is_the_share_of_subsets_with_a_right_answer(right: int, k: int) -> None:
    answers = [True] * right + [False] * (6 - right)
    share = np.mean([any(subset) for subset in combinations(answers, k)])
    assert pass_at_k(right, 6, k) == pytest.approx(share)


@given(st.integers(0, 4), st.lists(st.integers(1, 3), max_size=4), st.data())
def test_majority_at_k_is_the_mean_over_all_subsets(
    right: int, wrong: list[int], data: st.DataObject
) -> None:
    total = right + sum(wrong)
    if total:
        k = data.draw(st.integers(1, total))
        assert majority_at_k(right, wrong, k) == pytest.approx(majority_by_hand(right, wrong, k))


def test_majority_of_one_is_accuracy() -> None:
    assert majority_at_k(3, [4, 1], 1) == pytest.approx(3 / 8)


def test_a_curve_is_read_between_its_points_in_any_order_and_is_flat_beyond_them() -> None:
    x, y = np.array([[3.0, 1.0]]), np.array([[30.0, 10.0]])
    assert at_equal(np.array([2.0]), x, y) == pytest.approx([20.0])
    assert at_equal(np.array([9.0]), x, y) == pytest.approx([30.0])
    assert at_equal(np.array([0.0]), x, y) == pytest.approx([10.0])
