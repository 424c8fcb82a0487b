"""The probability of a confidence probe: bounds, monotonicity, missing features, damage."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from probes.selective.confidence import ConfidenceProbe, ConfidenceSpec


def probe(calibrator: Any = "platt", curve: tuple[float, ...] = (2.0, 1.0)) -> ConfidenceProbe:
    knots = len(curve) // 2 if calibrator == "isotonic" else 0
    spec = ConfidenceSpec(
        features=("logprob_mean", "num_tokens"), calibrator=calibrator, rows=5, knots=knots
    )
    return ConfidenceProbe(
        spec, [-1.0, 4.0], [0.5, 2.0], [1.0, -1.0], list(curve), [-3.0, 1.0], [0.0, 9.0]
    )


def test_the_probability_is_the_curve_of_the_weighted_sum() -> None:
    scores = {"logprob_mean": -0.5, "num_tokens": 6}  # both one scale above the mean: sum 0
    assert probe().probability(scores) == pytest.approx(1 / (1 + math.exp(-1)))
    curve = (-1.0, 0.0, 2.0, 0.1, 0.5, 0.9)
    stepped = probe("isotonic", curve)
    assert stepped.probability(scores) == pytest.approx(0.5)
    assert stepped.probability({**scores, "num_tokens": 4}) == pytest.approx(0.7)  # sum 1
    assert stepped.probability({**scores, "num_tokens": 90}) == 0.1
    assert stepped.probability({**scores, "logprob_mean": 9.0}) == 0.9


@given(st.floats(-1e3, 1e3), st.floats(-1e3, 1e3), st.sampled_from(["platt", "isotonic"]))
def test_it_stays_inside_0_and_1_and_rises_with_the_score(
    one: float, two: float, kind: str
) -> None:
    made = probe(kind, (2.0, 1.0) if kind == "platt" else (-1.0, 0.0, 2.0, 0.0, 0.5, 1.0))
    low, high = (
        made.probability({"logprob_mean": value, "num_tokens": 4}) for value in sorted((one, two))
    )
    assert 0 < low <= high < 1


@pytest.mark.parametrize("missing", [None, math.nan, math.inf])
def test_without_a_feature_there_is_no_probability(missing: float | None) -> None:
    assert math.isnan(probe().probability({"logprob_mean": missing, "num_tokens": 1}))
    assert math.isnan(probe().probability({"num_tokens": 1}))


def test_features_beyond_the_rows_are_named() -> None:
    assert probe().outside({"logprob_mean": -4.0, "num_tokens": 9}) == ["logprob_mean"]


def test_damaged_tensors_are_refused() -> None:
    good = probe("isotonic", (-1.0, 2.0, 0.1, 0.9))
    assert ConfidenceProbe.from_tensors(good.spec, good.tensors()) == good
    changes = {
        "scale": (torch.zeros(2, dtype=torch.float64), "scale"),
        "curve": (torch.tensor([2.0, -1.0, 0.1, 0.9]), "must rise"),
        "mean": (torch.zeros(3), "shape"),
    }
    for name, (tensor, message) in changes.items():
        with pytest.raises(ValueError, match=message):
            ConfidenceProbe.from_tensors(good.spec, {**good.tensors(), name: tensor})
    outside = {**good.tensors(), "curve": torch.tensor([-1.0, 2.0, 0.1, 1.9])}
    with pytest.raises(ValueError, match="no probabilities"):
        ConfidenceProbe.from_tensors(good.spec, outside)
