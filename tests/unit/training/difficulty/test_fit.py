import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score

from probes.difficulty.strategies import Difficulty
from training.common.errors import TrainingError
from training.difficulty.baselines import compare_with_baselines
from training.difficulty.config import HeadKind
from training.difficulty.fit import (
    Data,
    calibrate,
    candidates,
    export_head,
    fit_difficulty,
)
from training.difficulty.metrics import difference, expected_calibration_error, macro_f1
from training.difficulty.report import curve_shape

FEATURES = 12


def planted(number: int = 300, seed: int = 0, gap: float = 4.0) -> Data:
    """Three classes that lie apart along one direction each; `gap` 0 says nothing about them."""
    chance = np.random.default_rng(seed)
    labels = np.arange(number) % 3
    features = chance.normal(size=(number, FEATURES))
    features[np.arange(number), labels] += gap
    tasks = np.array(["one", "two"])[chance.integers(0, 2, number)]
    return Data(features * 3 + 7, labels, tasks, chance.integers(5, 50, number))


def test_a_planted_class_is_found_and_beats_every_baseline() -> None:
    data = planted()
    assert fit_difficulty(data, "linear", seed=0).macro_f1.value > 0.95
    comparison = compare_with_baselines(data, "linear", seed=0, repeats=1)
    assert comparison.questions.probe.low > 0.95
    assert len(comparison.questions.baselines) == 5
    assert comparison.tasks is not None
    assert set(comparison.by_task) == {"one", "two"}
    for baseline in (
        *comparison.questions.baselines.values(),
        *comparison.tasks.baselines.values(),
    ):
        assert baseline.difference.low > 0.3
    assert all(own > 0.9 > majority for own, majority in comparison.by_task.values())


@pytest.mark.parametrize("kind", ["linear", "mlp"])
@pytest.mark.parametrize("counts", [(17, 17, 16), (20, 20, 20), (10, 10, 30), (10, 40, 10)])
def test_the_smallest_runs_that_are_accepted_are_fitted(
    kind: HeadKind, counts: tuple[int, int, int]
) -> None:
    labels = np.repeat(np.arange(3), counts)
    features = np.random.default_rng(0).normal(size=(len(labels), FEATURES))
    features[np.arange(len(labels)), labels] += 4.0
    tasks = np.array(["one", "two"])[np.arange(len(labels)) % 2]
    data = Data(features, labels, tasks, np.ones(len(labels), dtype=np.int64))
    fit = fit_difficulty(data, kind, seed=0)
    assert fit.num_calibrated >= 10
    assert len(fit.test) >= 10
    assert fit.probabilities.sum(1) == pytest.approx(1.0)
    if kind == "linear":
        assert compare_with_baselines(data, kind, seed=0, repeats=1).questions.probe.value > 0.5


def test_a_class_below_the_minimum_is_named() -> None:
    labels = np.repeat(np.arange(3), (9, 30, 30))
    features = np.random.default_rng(0).normal(size=(len(labels), FEATURES))
    data = Data(features, labels, np.array(["one"] * 69), np.ones(69, dtype=np.int64))
    with pytest.raises(TrainingError, match="9 of 69 questions are easy, 10 are needed"):
        fit_difficulty(data, "linear", seed=0)


def test_features_that_say_nothing_are_at_chance() -> None:
    data = planted(gap=0.0)
    assert fit_difficulty(data, "linear", seed=0).macro_f1.value < 0.55
    baseline = compare_with_baselines(data, "linear", 0, repeats=1).questions.baselines
    assert baseline["the state with shuffled labels"].difference.low < 0.05


def test_a_probe_that_reads_only_the_task_fails_without_it() -> None:
    """Two tasks a class; the state holds the task and nothing else."""
    chance = np.random.default_rng(1)
    tasks = np.arange(300) % 6
    labels = np.where(chance.random(300) < 0.8, tasks // 2, chance.integers(0, 3, 300))
    features = chance.normal(size=(300, FEATURES))
    features[np.arange(300), tasks] += 30
    data = Data(features, labels, tasks.astype(str), chance.integers(5, 50, 300))
    comparison = compare_with_baselines(data, "linear", seed=0, repeats=1)
    assert comparison.questions.probe.value > 0.8
    assert comparison.questions.baselines["task of the question"].difference.high < 0.05
    assert comparison.tasks is not None
    assert comparison.tasks.probe.value < 0.45


@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_the_exported_head_gives_scikit_learns_probabilities(kind: HeadKind) -> None:
    data = planted(gap=1.0)
    train, rest = data.subset(np.arange(200)), data.subset(np.arange(200, 300))
    model = next(iter(candidates(kind, 0).values())).fit(train.features, train.labels)
    calibrated = calibrate(model, rest.features, rest.labels)
    expected = calibrated.predict_proba(data.features)
    head = export_head(calibrated)
    got = head.probabilities(torch.from_numpy(data.features)).numpy()
    assert np.abs(got - expected).max() < 1e-5
    assert float(head.temperature) != 1.0


def test_macro_f1_is_scikit_learns() -> None:
    chance = np.random.default_rng(0)
    truth, guesses = chance.integers(0, 3, (2, 200))
    truth[truth == 2] = 0  # a class that is guessed and never true
    interval = macro_f1(truth, guesses, seed=0)
    expected = f1_score(truth, guesses, labels=[0, 1, 2], average="macro", zero_division=0)
    assert interval.value == pytest.approx(expected, abs=1e-12)
    assert interval.low < interval.value < interval.high
    draws = chance.integers(0, 200, (2000, 200))
    own = [f1_score(truth[d], guesses[d], labels=[0, 1, 2], average="macro") for d in draws[:300]]
    assert interval.low == pytest.approx(np.quantile(own, 0.025), abs=0.02)


def test_a_lead_is_paired_and_is_the_mean_over_repeats() -> None:
    chance = np.random.default_rng(0)
    truth, guesses, others = chance.integers(0, 3, (3, 200))
    assert difference(truth, guesses, guesses, 0) == (0, 0, 0)
    both = difference(truth, np.stack([guesses, others]), others, 0)
    assert both.value == pytest.approx(difference(truth, guesses, others, 0).value / 2)
    apart = macro_f1(truth, guesses, 0).value - macro_f1(truth, others, 0).value
    assert difference(truth, guesses, others, 0).value == pytest.approx(apart)


def test_a_missing_class_is_named() -> None:
    data = planted()
    few = data.labels.copy()
    few[few == Difficulty.NORMAL] = Difficulty.EASY
    with pytest.raises(TrainingError, match="0 of 300 questions are normal, 10 are needed"):
        fit_difficulty(data._replace(labels=few), "linear", seed=0)


def test_calibration_error_is_the_gap_between_confidence_and_accuracy() -> None:
    sure = np.tile([0.95, 0.05, 0.0], (10, 1))
    assert expected_calibration_error(np.zeros(10, int), sure) == pytest.approx(0.05)
    assert expected_calibration_error(np.ones(10, int), sure) == pytest.approx(0.95)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([2.0, 1.0, 2.0], "a U"),
        ([1.0, 2.0, 3.0], "no U; it rises by 1.000"),
        ([3.0, 2.0, 1.0], "no U; it falls"),
        ([1.0, 0.98, 1.0], "no U"),
        ([1.0, 2.0], "too few grades"),
    ],
)
def test_a_u_is_claimed_only_where_the_middle_is_lower(values: list[float], expected: str) -> None:
    assert curve_shape(values).startswith(expected)
