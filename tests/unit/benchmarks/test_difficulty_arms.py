import numpy as np
import pytest

from benchmarks.difficulty.arms import (
    Arm,
    all_arms,
    at_equal_tokens,
    at_random,
    chosen,
    compare,
    frequencies,
    oracle,
)

ACCURACY = np.array([[1.0, 0.0, 0.5], [1.0, 1.0, 0.5], [0.0, 0.0, 0.5]])
TOKENS = np.array([[2.0, 2.0, 9.0], [10.0, 20.0, 30.0], [5.0, 5.0, 5.0]])


def test_the_oracle_is_right_first_and_short_second() -> None:
    assert oracle(ACCURACY, TOKENS).tolist() == [0, 1, 2]


def test_an_arm_takes_each_question_by_its_own_strategy() -> None:
    arm = chosen("probe", ACCURACY, TOKENS, np.array([0, 1, 2]), extra=1)
    assert arm.accuracy.tolist() == [1.0, 1.0, 0.5]
    assert arm.tokens.tolist() == [3.0, 21.0, 6.0]


def test_random_is_the_mean_of_many_draws() -> None:
    shares = frequencies(np.array([0, 0, 1, 2]))
    chance = np.random.default_rng(0)
    draws = [chosen("", ACCURACY, TOKENS, chance.choice(3, 3, p=shares)) for _ in range(20_000)]
    arm = at_random("", ACCURACY, TOKENS, shares)
    assert arm.accuracy == pytest.approx(np.mean([d.accuracy for d in draws], 0), abs=0.02)
    assert arm.tokens == pytest.approx(np.mean([d.tokens for d in draws], 0), abs=0.3)


def test_intervals_hold_the_figure_and_shrink_with_more_questions() -> None:
    def widths(number: int) -> tuple[float, float]:
        chance = np.random.default_rng(1)
        normal = Arm("", chance.random(number), 10 + chance.random(number))
        other = Arm("", normal.accuracy - 0.1 * chance.random(number), 5 + chance.random(number))
        found = compare(other, normal)
        for value, low, high in found:
            assert low < value < high
        return found.accuracy[2] - found.accuracy[1], found.saved[2] - found.saved[1]

    few, many = widths(50), widths(800)
    assert all(4 * 0.7 < a / b < 4 * 1.4 for a, b in zip(few, many, strict=True))


def test_a_budget_of_equal_tokens_lies_between_its_neighbors() -> None:
    arms = [Arm("", np.array([a]), np.array([t])) for t, a in ((30.0, 0.9), (10.0, 0.2))]
    middle = at_equal_tokens(arms, 20.0)
    assert (middle.tokens[0], middle.accuracy[0]) == pytest.approx((20.0, 0.55))
    assert at_equal_tokens(arms, 99.0).accuracy[0] == 0.9


def test_all_arms_pay_for_the_prepass_where_a_class_is_asked_for() -> None:
    labels = np.array([0, 0, 2])
    arms = all_arms(ACCURACY, TOKENS, labels, [labels, labels[::-1]], prepass=1)
    assert arms["fixed easy"].tokens.tolist() == TOKENS[0].tolist()
    assert arms["probe"].tokens.tolist() == [3.0, 3.0, 6.0]
    assert arms["oracle"].tokens.mean() <= arms["fixed normal"].tokens.mean()
    assert arms["probe of shuffled labels"].tokens.tolist() == [4.5, 3.0, 8.0]
