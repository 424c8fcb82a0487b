import numpy as np
import pytest

from tests.unit.training.evaluation.worlds import coin, made_up
from training.common.metrics import resample_weights
from training.evaluation.laws import arm_figures, differences, most_accurate

QUESTIONS = 300
CURVE = ["T = 0.3", "T = 1"]


def world(law: float) -> dict[str, np.ndarray]:
    return {
        "T = 0.3": coin(0.5, QUESTIONS, 4, seed=1),
        "T = 1": coin(0.3, QUESTIONS, 4, seed=2),
        "shuffled": coin(0.4, QUESTIONS, 4, seed=3),
        "law": coin(law, QUESTIONS, 4, seed=4),
    }


def against(law: float) -> dict[str, tuple[bool, bool]]:
    answers = {name: made_up(right) for name, right in world(law).items()}
    found = differences("law", answers, {"shuffled": "shuffled"}, CURVE, k=4, seed=0)
    return {one.control: (one.is_above, one.is_below) for one in found}


def test_a_better_law_is_above_a_worse_one_below_and_an_equal_one_neither() -> None:
    assert against(0.6)["shuffled"] == (True, False)
    assert against(0.2)["shuffled"] == (False, True)
    assert against(0.4)["shuffled"] == (False, False)


def test_an_arm_on_the_curve_is_not_beyond_it() -> None:
    assert against(0.4)["fixed temperatures at equal accuracy"] == (False, False)


def test_answers_that_agree_less_at_the_same_accuracy_are_beyond_the_curve() -> None:
    same = np.repeat(coin(0.4, QUESTIONS, 1, seed=5), 4, axis=1)  # all four right, or none
    answers = {name: made_up(right) for name, right in world(0.4).items()}
    answers |= {name: made_up(same) for name in CURVE}
    beyond = differences("law", answers, {}, CURVE, k=4, seed=0)[-1]
    assert beyond.is_above


def test_the_smallest_difference_is_about_three_standard_errors() -> None:
    answers = {name: made_up(right) for name, right in world(0.4).items()}
    (one, _) = differences("law", answers, {"shuffled": "shuffled"}, CURVE, k=4, seed=0)
    gap = (answers["law"].right - answers["shuffled"].right).mean(1)
    assert one.smallest == pytest.approx(2.8 * gap.std() / np.sqrt(QUESTIONS), rel=0.1)


def test_figures_of_an_arm() -> None:
    right = np.array([[1.0, 0.0], [1.0, 1.0]])
    weights = resample_weights(2, seed=0)
    figures = arm_figures(made_up(right), made_up(right[::-1]), 2, weights)
    assert figures.accuracy.value == 0.75
    assert figures.pass_at_k.value == 1.0
    assert figures.majority_at_k.value == 0.75  # a tie is broken at random
    assert figures.distinct.value == 1.5
    assert figures.same == 0.5


def test_the_most_accurate_arm_is_the_first_of_equal_ones() -> None:
    answers = {name: made_up(np.ones((2, 2))) for name in ("a", "b")}
    assert most_accurate(answers, ["b", "a"]) == "b"
