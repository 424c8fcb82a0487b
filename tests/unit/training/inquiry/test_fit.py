import math

import pytest
import torch

from probes.conformal import Coverage
from probes.inquiry.likelihood import AnswerModel
from probes.inquiry.task import load_task
from probes.inquiry.turn import Rule
from training.inquiry.fit import (
    calibrate_at,
    calibration_scores,
    exchangeable_coverage,
    fit_half,
    likelihood_logprobs,
    play_games,
    split_labels,
)
from training.inquiry.job import rank_predictors
from training.inquiry.report import pool_lengths, separation
from training.inquiry.simulate import predictions, random_histories, true_answers

LEVEL, GAMES = 0.9, 500
ANSWERS = load_task("animals").answer_table()


@pytest.fixture(scope="module")
def table() -> torch.Tensor:
    """Log-likelihoods that know a little about the answers."""
    noise = torch.randn(ANSWERS.shape, generator=torch.Generator().manual_seed(1))
    return (ANSWERS.nan_to_num(0.5) - 0.5 + noise - 20).double()


@pytest.fixture(scope="module")
def logprobs(table: torch.Tensor) -> torch.Tensor:
    return likelihood_logprobs(table, fit_half(table, ANSWERS, split_labels(20, 0).fitted, 1.0))


def test_no_label_is_both_fitted_and_calibrated() -> None:
    split = split_labels(21, seed=3)
    assert sorted(split.fitted + split.calibrated) == list(range(21))
    assert split_labels(21, seed=3) == split != split_labels(21, seed=4)


def test_answers_of_the_labels_kept_for_calibration_teach_nothing(table: torch.Tensor) -> None:
    fitted = split_labels(20, 0).fitted
    changed = 1 - ANSWERS
    changed[fitted] = ANSWERS[fitted]
    first, second = (fit_half(table, one, fitted, 1.0) for one in (ANSWERS, changed))
    assert torch.equal(first.slope, second.slope)
    assert torch.equal(first.bias, second.bias)


def test_a_history_has_distinct_questions_and_true_answers() -> None:
    draw = torch.Generator().manual_seed(0)
    found = random_histories(ANSWERS, [2, 5], 10, 50, draw)
    assert set(found.labels.tolist()) == {2, 5}
    for sample in range(50):
        pairs = found.pairs(sample)
        assert len({question for question, _ in pairs}) == 10
        for question, answer in pairs:
            known = float(ANSWERS[found.labels[sample], question])
            assert math.isnan(known) or known == (1 - answer)


def test_what_varies_is_answered_by_a_coin() -> None:
    draw = torch.Generator().manual_seed(0)
    coins = torch.stack([true_answers(ANSWERS, draw)[ANSWERS.isnan()] for _ in range(50)])
    assert 0.45 < float(coins.double().mean()) < 0.55


def test_no_answers_leave_the_labels_alike(logprobs: torch.Tensor) -> None:
    histories = random_histories(ANSWERS, [0], 0, 3, torch.Generator())
    torch.testing.assert_close(
        predictions(logprobs, histories), torch.full((3, 20), 0.05, dtype=torch.float64)
    )


def test_coverage_is_what_is_promised_over_500_games(logprobs: torch.Tensor) -> None:
    """Histories alike to those of the calibration, at each length."""
    samples, labels = 2000, split_labels(20, 0).calibrated
    scores = calibration_scores(logprobs, ANSWERS, labels, 13, samples, seed=0)
    assert all(bool((row[1:] >= row[:-1]).all()) for row in scores)
    found = exchangeable_coverage(logprobs, ANSWERS, labels, calibrate_at(scores, LEVEL), GAMES)
    error = math.sqrt(LEVEL * (1 - LEVEL) / (GAMES * 12))
    whole = pool_lengths(
        found[length] for length in range(1, 13)
    )  # without answers every set is full
    assert LEVEL - 4 * error <= whole.rate <= LEVEL + 1 / (samples + 1) + 4 * error
    assert found[0].rate == 1


def test_games_end_surer_than_they_begin_and_good_questions_beat_random_ones(
    logprobs: torch.Tensor,
) -> None:
    labels = split_labels(20, 0).calibrated
    scores = calibration_scores(logprobs, ANSWERS, labels, 13, 500, seed=0)
    calibration = calibrate_at(scores, LEVEL)
    curves = {
        policy: play_games(
            policy, logprobs, ANSWERS, labels, calibration, Rule(policy, budget=12), 60
        )
        for policy in ("entropy", "random")
    }
    asked = curves["entropy"]
    assert asked.size(0) == 20
    assert asked.size(12) < 15
    assert asked.size(12) < curves["random"].size(12)
    assert set(asked.coverage()) == set(range(13))


def test_separation_is_the_auc() -> None:
    answers = torch.tensor([[1.0, 1.0], [0.0, 0.0], [0.0, torch.nan]])
    table = torch.tensor([[2.0, 1.0], [1.0, 1.0], [3.0, 9.0]])
    assert separation(table, answers) == pytest.approx((0.5 + 0.5) / 2)


def test_the_surer_predictor_comes_first() -> None:
    sure, unsure = torch.full((3, 5), -0.8), torch.full((2, 5), -0.1)
    assert rank_predictors({"likelihood": unsure, "direct": sure}) == ("direct", "likelihood")
    assert rank_predictors({"likelihood": sure, "direct": unsure}) == ("likelihood", "direct")


def test_what_is_served_is_what_was_calibrated(table: torch.Tensor) -> None:
    """Stored numbers are float32, so calibration uses them rounded."""
    model = AnswerModel(torch.full((72,), 1 / 3), torch.full((72,), 0.1), torch.full((2,), 0.2))
    rounded = AnswerModel(*(one.float() for one in model))
    first, second = likelihood_logprobs(table, model), likelihood_logprobs(table.float(), rounded)
    assert torch.equal(first, second)


def test_pooled_coverage_counts_sets() -> None:
    assert pool_lengths([Coverage(10, 9), Coverage(30, 15)]) == Coverage(40, 24)


@pytest.mark.parametrize("seed", range(20))
def test_separation_is_the_share_of_ordered_pairs(seed: int) -> None:
    """Equal to the formula: the share of pairs in order, ties counting half."""
    draw = torch.Generator().manual_seed(seed)
    table = torch.randint(-5, 0, (12, 1), generator=draw).double()
    answers = (torch.arange(12) % 3 == 0).double().unsqueeze(1)
    yes, no = table[answers == 1].unsqueeze(1), table[answers == 0]
    expected = float(((yes > no).double() + (yes == no).double() / 2).mean())
    assert separation(table, answers) == pytest.approx(expected, abs=1e-12)
