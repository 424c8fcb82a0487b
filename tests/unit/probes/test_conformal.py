import math
import warnings
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from mapie.classification import SplitConformalClassifier
from sklearn.base import BaseEstimator, ClassifierMixin
from torch import Tensor

from probes.conformal import (
    Calibration,
    Coverage,
    CoverageMonitor,
    Score,
    calibrate,
    conformal_rank,
    conformal_threshold,
    conformity_scores,
    prediction_sets,
)

INF = math.inf
SHARP = torch.tensor([[0.5, 0.3, 0.15, 0.05]], dtype=torch.float64)
FLAT = torch.full((1, 4), 0.25, dtype=torch.float64)

quickly = settings(deadline=None, max_examples=50)
both_scores = pytest.mark.parametrize("score", ["lac", "aps"])
LEVELS = st.integers(1, 99).map(lambda percent: percent / 100)


@st.composite
def distributions(draw: st.DrawFn) -> Tensor:
    """Rows over some labels, with ties and masked labels, none of them empty."""
    shape = (draw(st.integers(1, 5)), draw(st.integers(2, 12)))
    parts = draw(hnp.arrays(np.int64, shape, elements=st.integers(0, 6)))
    parts[:, 0] += 1
    return torch.from_numpy(parts / parts.sum(-1, keepdims=True))


def simulated(rng: np.random.Generator, num: int, labels: int = 8) -> tuple[Tensor, Tensor]:
    """Predictions that are right about as often as a noisy model, and the true labels."""
    truth = torch.from_numpy(rng.integers(0, labels, num))
    logits = torch.from_numpy(rng.normal(size=(num, labels)))
    logits[torch.arange(num), truth] += 1.5
    return torch.softmax(logits, -1), truth


# -- rank and threshold --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("num", "level", "rank"),
    [
        (100, 0.9, 91),
        (99, 0.9, 90),
        (99, 0.07, 7),  # 100 * 0.07 is 7.000000000000001
        (19, 0.95, 19),
        (18, 0.95, 19),  # one more than there is
        (9, 0.9, 9),
        (8, 0.9, 9),
        (1, 0.5, 1),
        (0, 0.5, 1),
    ],
)
def test_the_rank_is_the_textbook_one(num: int, level: float, rank: int) -> None:
    assert conformal_rank(num, level) == rank


@given(num=st.integers(0, 300), percent=st.integers(1, 99))
def test_the_rank_is_the_least_that_keeps_the_promise(num: int, percent: int) -> None:
    rank, level = conformal_rank(num, percent / 100), Fraction(percent, 100)
    assert Fraction(rank, num + 1) >= level > Fraction(rank - 1, num + 1)


@pytest.mark.parametrize("level", [0.0, 1.0, -0.1, 1.5, math.nan, INF])
def test_a_level_outside_0_and_1_is_refused(level: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        conformal_threshold(torch.zeros(10), level)


@pytest.mark.parametrize(
    ("num", "level", "enough"),
    [(9, 0.9, True), (8, 0.9, False), (99, 0.99, True), (98, 0.99, False), (0, 0.01, False)],
)
def test_too_few_samples_warn_and_make_full_sets(num: int, level: float, enough: bool) -> None:
    scores = torch.linspace(-1, 0, num, dtype=torch.float64).expand(2, num)
    if enough:
        assert bool(conformal_threshold(scores, level).isfinite().all())
        return
    with pytest.warns(UserWarning, match=f"{num} calibration samples are too few"):
        thresholds = conformal_threshold(scores, level)
    assert thresholds.tolist() == [INF, INF]
    assert bool(prediction_sets(SHARP, thresholds[0], empty="raw").all())


def test_a_score_that_is_no_number_is_refused() -> None:
    with pytest.raises(ValueError, match="not a number"):
        conformal_threshold(torch.tensor([0.1, math.nan, 0.3]), 0.5)


@given(scores=hnp.arrays(np.float64, st.integers(1, 60), elements=st.floats(-1, 0)), level=LEVELS)
@quickly
def test_the_threshold_is_the_least_score_that_enough_samples_do_not_exceed(
    scores: np.ndarray, level: float
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        got = float(conformal_threshold(torch.from_numpy(scores), level))
    wanted = Fraction(str(level)) * (len(scores) + 1)
    enough = [s for s in [*scores, INF] if (scores <= s).sum() + (s == INF) >= wanted]
    assert got == min(enough)


# -- scores and sets -----------------------------------------------------------------------------


def test_scores_of_a_known_distribution() -> None:
    assert conformity_scores(SHARP, "lac").tolist() == [[-0.5, -0.3, -0.15, -0.05]]
    assert conformity_scores(SHARP, "aps")[0].tolist() == pytest.approx([0.0, 0.5, 0.8, 0.95])


def test_labels_of_equal_probability_score_alike() -> None:
    tied = torch.tensor([0.2, 0.4, 0.2, 0.2], dtype=torch.float64)
    assert conformity_scores(tied, "aps").tolist() == [0.4, 0.0, 0.4, 0.4]
    assert conformity_scores(FLAT, "aps").tolist() == [[0.0] * 4]


@given(probabilities=distributions())
@quickly
def test_aps_is_the_mass_of_the_more_probable_labels(probabilities: Tensor) -> None:
    above = probabilities.unsqueeze(-2) > probabilities.unsqueeze(-1)
    expected = (above * probabilities.unsqueeze(-2)).sum(-1)
    torch.testing.assert_close(conformity_scores(probabilities, "aps"), expected)


@both_scores
@given(probabilities=distributions(), threshold=st.floats(-1, 1), data=st.data())
@quickly
def test_sets_do_not_depend_on_the_order_of_the_labels(
    score: Score, probabilities: Tensor, threshold: float, data: st.DataObject
) -> None:
    order = data.draw(st.permutations(range(probabilities.shape[-1])))
    before = prediction_sets(probabilities, threshold, score)
    after = prediction_sets(probabilities[:, order], threshold, score)
    assert torch.equal(after, before[:, order])


@both_scores
@given(seed=st.integers(0, 1000), num=st.integers(1, 60), levels=st.tuples(LEVELS, LEVELS))
@quickly
@pytest.mark.filterwarnings("ignore:.*too few:UserWarning")
def test_sets_grow_with_the_level(
    score: Score, seed: int, num: int, levels: tuple[float, float]
) -> None:
    rng = np.random.default_rng(seed)
    probabilities, truth = simulated(rng, num)
    test, _ = simulated(rng, 20)
    low, high = (
        calibrate(probabilities[None], truth[None], level, score).sets(test, 0, "raw")
        for level in sorted(levels)
    )
    assert bool((high | ~low).all())


def test_a_label_at_the_threshold_belongs_to_the_set() -> None:
    assert prediction_sets(SHARP, -0.3, empty="raw").tolist() == [[True, True, False, False]]
    assert prediction_sets(SHARP, 0.5, "aps").tolist() == [[True, True, False, False]]


def test_a_flat_prediction_has_an_empty_lac_set_or_a_full_one() -> None:
    both = torch.cat([FLAT, SHARP])
    assert prediction_sets(both, -0.3, empty="raw").sum(-1).tolist() == [0, 2]
    assert prediction_sets(both, -0.3).sum(-1).tolist() == [4, 2]


@given(probabilities=distributions(), threshold=st.floats(0, 1))
@quickly
def test_an_aps_set_is_never_empty(probabilities: Tensor, threshold: float) -> None:
    sets = prediction_sets(probabilities, threshold, "aps", "raw")
    assert bool(sets.gather(-1, probabilities.argmax(-1, keepdim=True)).all())


def test_a_masked_label_belongs_only_to_a_set_that_takes_all() -> None:
    masked = torch.tensor([0.6, 0.4, 0.0], dtype=torch.float64)
    assert prediction_sets(masked, -1e-12).tolist() == [True, True, False]
    assert prediction_sets(masked, 0.0).tolist() == [True, True, True]
    assert prediction_sets(masked, 0.9, "aps").tolist() == [True, True, False]


def test_each_row_can_have_its_own_threshold() -> None:
    sets = prediction_sets(SHARP.expand(3, 4), torch.tensor([-0.4, -0.1, INF]))
    assert sets.sum(-1).tolist() == [1, 3, 4]


# -- one threshold per length --------------------------------------------------------------------


def test_each_length_has_the_threshold_of_its_own_samples() -> None:
    rng = np.random.default_rng(0)
    drawn = [simulated(rng, 50) for _ in range(3)]
    probabilities, truth = (torch.stack(x) for x in zip(*drawn, strict=True))
    calibration = calibrate(probabilities, truth, 0.8, "aps")
    assert calibration[1:] == (50, 0.8, "aps")
    for length in range(3):
        alone = calibrate(
            probabilities[length : length + 1], truth[length : length + 1], 0.8, "aps"
        )
        assert calibration.thresholds[length] == alone.thresholds[0]


def test_past_the_last_calibrated_length_its_threshold_is_used_and_said() -> None:
    thresholds = torch.tensor([-0.4, -0.2], dtype=torch.float64)
    calibration = Calibration(thresholds, 50, 0.9, "lac")
    sizes = [int(calibration.sets(SHARP, length).sum()) for length in (0, 1, 2, 9)]
    assert sizes == [1, 2, 2, 2]
    assert [calibration.is_calibrated(length) for length in (0, 1, 2, 9)] == [True] * 2 + [
        False
    ] * 2


def test_a_calibration_without_lengths_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one history length"):
        calibrate(torch.empty(0, 5, 3), torch.empty(0, 5, dtype=torch.int64), 0.9)


# -- coverage ------------------------------------------------------------------------------------


@both_scores
@pytest.mark.parametrize(("num", "level"), [(19, 0.9), (50, 0.8), (100, 0.9)])
def test_coverage_of_exchangeable_histories_is_what_was_promised(
    score: Score, num: int, level: float
) -> None:
    repeats, tests = 1000, 20
    rng = np.random.default_rng(num)
    probabilities, truth = simulated(rng, repeats * (num + tests))
    probabilities = probabilities.view(repeats, num + tests, -1)
    truth = truth.view(repeats, num + tests)
    calibration = calibrate(probabilities[:, :num], truth[:, :num], level, score)
    limits = calibration.thresholds.unsqueeze(-1)
    sets = prediction_sets(probabilities[:, num:], limits, score, "raw")
    covered = sets.gather(-1, truth[:, num:, None]).double().mean((1, 2))
    error = 2 * float(covered.std()) / math.sqrt(repeats)
    assert level - error <= float(covered.mean()) <= level + 1 / (num + 1) + error


def test_a_monitor_counts_each_length_for_itself() -> None:
    monitor = CoverageMonitor()
    assert monitor.by_length() == {}
    for length, covered in [(3, True), (0, False), (3, False), (3, True)]:
        monitor.observe(length, covered)
    assert monitor.by_length() == {0: Coverage(1, 0), 3: Coverage(3, 2)}
    assert list(monitor.by_length()) == [0, 3]
    assert monitor.by_length()[3].rate == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("num", "covered", "low", "high"),
    [(10, 9, 0.595850, 0.982124), (10, 10, 0.722467, 1.0), (10, 0, 0.0, 0.277533)],
)
def test_the_interval_is_wilsons(num: int, covered: int, low: float, high: float) -> None:
    assert Coverage(num, covered).interval() == pytest.approx((low, high), abs=1e-6)


def test_nothing_observed_says_nothing() -> None:
    assert Coverage(200, 190).interval(independent=20) == Coverage(20, 19).interval()
    assert Coverage(5, 4).interval(independent=20) == Coverage(5, 4).interval()
    assert math.isnan(Coverage(0, 0).rate)
    assert Coverage(0, 0).interval() == (0.0, 1.0)


# -- beside MAPIE --------------------------------------------------------------------------------


class Prefit(ClassifierMixin, BaseEstimator):
    """A model whose input are its own predictions."""

    def fit(self, x: np.ndarray, y: np.ndarray) -> "Prefit":
        self.classes_ = np.arange(x.shape[1])
        self.is_fitted_ = True
        return self

    def predict(self, x: np.ndarray) -> np.ndarray:
        predicted: np.ndarray = x.argmax(1)
        return predicted

    def predict_proba(self, x: np.ndarray) -> np.ndarray:
        return x


class Ones(np.random.RandomState):
    """Takes the randomness out of APS: the score is then what lies strictly above a label."""

    def uniform(self, low: Any = 0.0, high: Any = 1.0, size: Any = None) -> Any:
        return np.ones(size)


@both_scores
@pytest.mark.parametrize("level", [0.6, 0.8, 0.9, 0.95])
@pytest.mark.parametrize("num", [40, 63, 100])
def test_mapie_makes_the_same_sets(score: Score, level: float, num: int) -> None:
    rng = np.random.default_rng(num)
    probabilities, truth = simulated(rng, num)
    test, _ = simulated(rng, 200)
    model = Prefit().fit(probabilities.numpy(), truth.numpy())
    mapie = SplitConformalClassifier(
        model, confidence_level=level, conformity_score=score, prefit=True, random_state=Ones()
    )
    mapie.conformalize(probabilities.numpy(), truth.numpy())
    _, expected = mapie.predict_set(test.numpy())
    got = calibrate(probabilities[None], truth[None], level, score).sets(test, 0, "raw")
    assert np.array_equal(got.numpy(), expected[..., 0])
