import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from training.common.metrics import (
    calibration_error,
    chance_calibration_error,
    resample_weights,
)
from training.common.selective import (
    accuracy_at_coverages,
    aurc,
    auroc,
    error_by_coverage,
    excess_aurc,
)

GOLDEN_SCORE = 1 - np.array([0.9, 0.8, 0.7, 0.6, 0.5])
GOLDEN_WRONG = np.array([0.0, 0.0, 1.0, 0.0, 1.0])


def grid(seed: int, questions: int = 12, answers: int = 3) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(seed)
    score = draw.integers(0, 6, (questions, answers)).astype(float)  # with ties
    wrong = (draw.random((questions, answers)) < 0.5).astype(float)
    wrong[0, :2] = 0.0, 1.0  # both classes are there
    return score, wrong


def test_figures_have_the_golden_values_of_five_answers() -> None:
    score, wrong = GOLDEN_SCORE[:, None], GOLDEN_WRONG[:, None]
    weights = np.full((1, 5), 0.2)
    assert auroc(score, wrong, weights)[0] == pytest.approx(0.833333, abs=1e-6)
    assert aurc(GOLDEN_SCORE, GOLDEN_WRONG) == pytest.approx(0.196667, abs=1e-6)
    assert excess_aurc(GOLDEN_SCORE, GOLDEN_WRONG) == pytest.approx(0.066667, abs=1e-6)
    assert accuracy_at_coverages(score, wrong, (0.4,), weights)[0, 0] == pytest.approx(1.0)
    assert accuracy_at_coverages(score, wrong, (0.6,), weights)[0, 0] == pytest.approx(2 / 3)


@given(st.integers(0, 50))
def test_auroc_is_that_of_scikit_learn(seed: int) -> None:
    score, wrong = grid(seed)
    weights = np.full((1, len(score)), 1 / len(score))
    expected = roc_auc_score(wrong.ravel(), score.ravel())
    assert auroc(score, wrong, weights)[0] == pytest.approx(expected)


def test_a_resample_weights_whole_questions() -> None:
    score, wrong = grid(3)
    weights = resample_weights(len(score), seed=1, resamples=20)
    found = auroc(score, wrong, weights)
    (covered,) = accuracy_at_coverages(score, wrong, (1.0,), weights)
    for row, value, accuracy in zip(weights, found, covered, strict=True):
        times = np.round(row * len(score)).astype(int)
        drawn = np.repeat(np.arange(len(score)), times)
        assert value == pytest.approx(roc_auc_score(wrong[drawn].ravel(), score[drawn].ravel()))
        assert accuracy == pytest.approx(1 - wrong[drawn].mean())


def test_auroc_is_not_a_number_where_there_is_nothing_to_tell_apart() -> None:
    assert np.isnan(auroc(np.ones((3, 2)), np.zeros((3, 2)), np.full((1, 3), 1 / 3))).all()


def test_equal_scores_count_as_a_random_order() -> None:
    wrong = np.array([1.0, 0.0, 0.0, 1.0])
    assert error_by_coverage(np.zeros(4), wrong) == pytest.approx([0.5] * 4)
    assert aurc(np.zeros(4), wrong) == pytest.approx(0.5)


def test_calibration_error_is_the_gap_between_promise_and_truth() -> None:
    confidence, right = np.full(10, 0.75), np.array([1.0] * 5 + [0.0] * 5)
    assert calibration_error(confidence, right) == pytest.approx(0.25)


@pytest.mark.parametrize("number", [50, 1000])
def test_chance_gives_an_exact_confidence_the_calibration_error_that_is_computed(
    number: int,
) -> None:
    draw = np.random.default_rng(number)
    confidence = draw.random(number)
    seen = [
        calibration_error(confidence, (draw.random(number) < confidence).astype(float))
        for _ in range(300)
    ]
    expected = chance_calibration_error(confidence)
    assert expected == pytest.approx(float(np.mean(seen)), rel=0.1)
    assert expected > 0.2 / number**0.5
