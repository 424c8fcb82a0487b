import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score

from probes.strategies import Difficulty
from training.difficulty_fit import (
    Data,
    HeadKind,
    calibrate,
    expected_calibration_error,
    export,
    fit_difficulty,
    macro_f1,
)
from training.difficulty_report import shape_of
from training.errors import TrainingError

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
    fit = fit_difficulty(planted(), "linear", seed=0)
    assert fit.macro_f1.value > 0.95
    assert fit.macro_f1.low > max(baseline.high for baseline in fit.baselines.values())
    assert set(fit.held_out_tasks) == {"one", "two"}
    assert all(own > 0.9 > majority for own, majority in fit.held_out_tasks.values())


def test_features_that_say_nothing_are_at_chance() -> None:
    fit = fit_difficulty(planted(gap=0.0), "linear", seed=0)
    shuffled = next(b for name, b in fit.baselines.items() if name.startswith("shuffled"))
    assert fit.macro_f1.low < shuffled.high
    assert fit.macro_f1.value < 0.55


@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_the_exported_head_gives_scikit_learns_probabilities(kind: HeadKind) -> None:
    from training.difficulty_fit import _candidates

    data = planted(gap=1.0)
    train, rest = data.take(np.arange(200)), data.take(np.arange(200, 300))
    model = next(iter(_candidates(kind, 0).values())).fit(train.features, train.labels)
    calibrated = calibrate(model, rest.features, rest.labels)
    expected = calibrated.predict_proba(data.features)
    head = export(calibrated)
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
    ("values", "said"),
    [
        ([2.0, 1.0, 2.0], "a U"),
        ([1.0, 2.0, 3.0], "no U; it rises by 1.000"),
        ([3.0, 2.0, 1.0], "no U; it falls"),
        ([1.0, 0.98, 1.0], "no U"),
        ([1.0, 2.0], "too few grades"),
    ],
)
def test_a_u_is_claimed_only_where_the_middle_is_lower(values: list[float], said: str) -> None:
    assert shape_of(values).startswith(said)
