"""The state at the end of a prompt: score, Mahalanobis distance, damaged tensors."""

import math

import pytest
import torch

from probes.selective.confidence import ConfidenceProbe, ConfidenceSpec
from probes.selective.state import PromptState, StateReader, StateSpec
from tests.selective_artifacts import state_reader

SIZE, AXES = 12, 3
SPEC = StateSpec(features=SIZE, axes=AXES, threshold=2.0, quantile=0.99, questions=9)


def probe(reader: StateReader) -> ConfidenceProbe:
    spec = ConfidenceSpec(features=("logprob_mean",), calibrator="platt", rows=9, state=SPEC)
    return ConfidenceProbe(spec, [-1.0], [0.5], [2.0], [1.0, 0.0], [-9.0], [0.0], reader)


def test_the_distance_is_that_of_mahalanobis_with_the_whole_covariance() -> None:
    reader = state_reader(SIZE, AXES)
    covariance = reader.axes.T @ torch.diag(reader.variance - reader.rest) @ reader.axes
    covariance += reader.rest * torch.eye(SIZE, dtype=torch.float64)
    states = torch.randn(5, SIZE, dtype=torch.float64)
    x = (states - reader.mean) / reader.scale
    expected = (x * torch.linalg.solve(covariance, x.T).T).sum(-1).sqrt()
    torch.testing.assert_close(reader.read(states)[:, 1], expected)
    single = reader.to(torch.device("cpu")).read(states.bfloat16())
    assert single.dtype == torch.float32
    torch.testing.assert_close(single[:, 1].double(), expected, rtol=0.02, atol=0.02)


def test_the_score_is_linear_in_the_state() -> None:
    reader = state_reader(SIZE, AXES)
    one, two = torch.randn(2, SIZE, dtype=torch.float64)
    scores = reader.read(torch.stack([one, two, (one + two) / 2, reader.mean]))[:, 0]
    torch.testing.assert_close(scores[2], scores[:2].mean())
    assert float(scores[3]) == 0.0


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_state_that_is_not_finite_reads_as_nan_and_spoils_no_other(value: float) -> None:
    states = torch.zeros(2, SIZE)
    states[0, 4] = value
    found = state_reader(SIZE, AXES).to(torch.device("cpu")).read(states)
    assert found[0].isnan().all()
    assert found[1].isfinite().all()


def test_the_state_is_added_to_the_sum_and_missed_if_it_is_missing() -> None:
    made = probe(state_reader(SIZE, AXES))
    scores = {"logprob_mean": -1.0}
    assert made.probability(scores, PromptState(0.7, 9.0)) == pytest.approx(
        1 / (1 + math.exp(-0.7))
    )
    assert math.isnan(made.probability(scores, None))
    assert math.isnan(made.probability(scores, PromptState(math.nan, math.nan)))


def test_tensors_read_back_equal_and_damaged_ones_are_refused() -> None:
    good = probe(state_reader(SIZE, AXES))
    read = ConfidenceProbe.from_tensors(good.spec, good.tensors())
    assert read.reader is not None
    assert good.reader is not None
    assert all(torch.equal(*pair) for pair in zip(read.reader, good.reader, strict=True))
    damage = {
        "state_variance": (torch.zeros(AXES), "must be larger than 0"),
        "state_rest": (torch.tensor(-1.0), "must be larger than 0"),
        "state_axes": (torch.zeros(AXES, SIZE - 1), "has shape"),
        "state_mean": (torch.full((SIZE,), math.nan), "no finite numbers"),
    }
    for name, (tensor, message) in damage.items():
        with pytest.raises(ValueError, match=message):
            ConfidenceProbe.from_tensors(good.spec, {**good.tensors(), name: tensor})
    without = {key: tensor for key, tensor in good.tensors().items() if key != "state_weight"}
    with pytest.raises(ValueError, match="`state_weight` is missing"):
        ConfidenceProbe.from_tensors(good.spec, without)
    with pytest.raises(ValueError, match="needs features or a state"):
        ConfidenceSpec(features=(), calibrator="platt", rows=9)
