"""Weighted votes: the winner, and a comparison in which one weight knows the answer."""

import numpy as np

from benchmarks.machine import describe
from benchmarks.votes import NONE, RANDOM, compare, compare_rules, page, winner
from training.selective.rows import GradedAnswer, GradedAnswers


def test_the_heaviest_group_wins_and_of_equal_ones_the_earliest() -> None:
    keys = ["a", "b", "a", None, "b"]
    assert winner(keys, [1, 1, 1, 9, 1]) == 0
    assert winner(keys, [1, 1, 1, 9, 2]) == 1
    assert winner([None, None], [1, 2]) == 0


def answers(questions: int = 60, samples: int = 8) -> GradedAnswers:
    """The right answer is likelier than each of three wrong ones, which are equal at random."""
    draw, rows = np.random.default_rng(0), []
    for question in range(questions):
        for _ in range(samples):
            right = bool(draw.uniform() < 0.45)
            answer = "right" if right else f"wrong {draw.integers(3)}"
            scores = {
                "logprob_mean": -0.1 if right else -3.0,
                "logprob_sum": float(-draw.uniform()),
                "self_certainty_mean": 5.0,
                "self_certainty_window_min": float(draw.uniform()),
                "num_tokens": 10.0,
            }
            rows.append(GradedAnswer(f"question {question}", "", right, scores, answer))
    return GradedAnswers(rows, 0.7, None)


def test_only_a_weight_that_knows_beats_the_majority() -> None:
    found = compare(answers(), 4)
    assert found["probability of a token"].ahead.low > 0
    assert found["self-certainty, mean"].ahead == (0.0, 0.0, 0.0)  # equal weights: the majority
    assert found[RANDOM].ahead.value < 0
    assert found["surer half by probability"].ahead.low > 0
    assert found["random half"].ahead.value < 0
    assert found[NONE].accuracy.value > 0.45
    text = page("a task", answers(), describe("benchmarks.votes"))
    assert "60 questions with 8 samples each at T = 0.7" in text
    assert text.count("| none (majority) |") == 3
    assert "| consensus |" in text


def test_rules_draw_fewer_samples_and_a_safe_lead_costs_nothing() -> None:
    found = compare_rules(answers(), 8)
    assert (found["none"].drawn, found["none"].tokens) == (8.0, 1.0)
    assert found["lead"].ahead == (0.0, 0.0, 0.0)
    assert found["lead"].drawn < 8
    assert found["beta"].drawn <= found["consensus"].drawn
    assert abs(found["beta"].tokens - found["beta"].drawn / 8) < 1e-9
