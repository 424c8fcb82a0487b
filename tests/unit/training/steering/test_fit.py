import math

import numpy as np
import pytest
import torch

from probes.steering import shuffled
from training.steering.fit import (
    CONTROLS,
    SHORTLIST,
    Candidate,
    Choice,
    StrengthCurve,
    UnsteeredSteps,
    Vector,
    candidates,
    control_vectors,
    fit_vectors,
    shuffled_trials,
    spearman,
    uniform_residue,
)

HIDDEN, LAYERS = 12, (4, 9)


def planted(signal: float = 3.0) -> tuple[UnsteeredSteps, torch.Tensor, torch.Tensor]:
    """Runs whose states drift by run and move along one direction with the entropy, at layer 9."""
    draw = torch.Generator().manual_seed(0)
    direction = torch.nn.functional.normalize(torch.randn(HIDDEN, generator=draw), dim=0)
    runs = torch.arange(40).repeat_interleave(10)
    entropy = torch.rand(400, generator=draw)
    states = torch.randn(400, 2, HIDDEN, generator=draw) * 0.3
    states += 5 * torch.randn(40, 2, HIDDEN, generator=draw)[runs]
    states[:, 1] += signal * entropy.unsqueeze(1) * direction
    return UnsteeredSteps(torch.zeros(400, 2), states, runs), entropy, direction


def test_a_planted_direction_is_found_where_it_is() -> None:
    read, entropy, direction = planted()
    vectors = fit_vectors(read, entropy, LAYERS)
    cosine = [
        float(torch.cosine_similarity(vectors[layer].direction.float(), direction, dim=0))
        for layer in LAYERS
    ]
    assert cosine[1] > 0.99
    assert abs(cosine[0]) < 0.8
    controls = control_vectors(read, entropy, 1, vectors[9])
    uncentered = controls["uncentered"][0].direction.float()
    assert float(torch.cosine_similarity(uncentered, direction, dim=0)) < 0.9
    assert len(controls["shuffled"]) == len(controls["Gaussian"]) == CONTROLS


def test_equal_weights_leave_nothing() -> None:
    read, *_ = planted()
    assert uniform_residue(read, 1) < 1e-14


@pytest.mark.parametrize("entropy", [torch.zeros(400), torch.full((400,), 0.3)])
def test_no_signal_is_an_error(entropy: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="no entropy signal"):
        fit_vectors(planted()[0], entropy, LAYERS)


def test_a_move_has_the_length_that_was_asked_for() -> None:
    vector = Vector(3, torch.tensor([3.0, 4.0], dtype=torch.float64), norm=20.0)
    assert vector.offsets(0.1)[3].tolist() == pytest.approx([1.2, 1.6])
    assert vector.offsets(-0.1)[3].tolist() == pytest.approx([-1.2, -1.6])
    assert not vector.offsets(0.0)[3].any()
    assert float(
        vector.with_direction(torch.tensor([0.0, 9.0])).offsets(0.1)[3].norm()
    ) == pytest.approx(2.0)


STRENGTHS = (-0.2, -0.1, 0.0, 0.1, 0.2, 0.4)


def test_a_curve_is_valid_up_to_its_knee() -> None:
    curve = StrengthCurve(
        STRENGTHS, (0.3, 0.4, 0.5, 0.6, 0.9, 1.2), (0.1, 0.8, 0.8, 0.7, 0.65, 0.1)
    )
    assert curve.valid(0.8) == [1, 2, 3, 4]
    assert curve.largest_valid_strength(0.8) == 0.2
    assert curve.spearman_correlation(0.8) == pytest.approx(1.0)
    assert curve.entropy_span(0.8) == pytest.approx(0.5)
    assert math.isnan(
        curve._replace(action_probability_mass=(0.0, 0.0, 0.8, 0.7, 0.0, 0.0)).spearman_correlation(
            0.8
        )
    )


def test_what_breaks_answers_or_only_shakes_them_is_no_candidate() -> None:
    good = (0.8,) * 6
    curves = {
        1: StrengthCurve(STRENGTHS, (0.3, 0.4, 0.5, 0.6, 0.7, 0.8), good),
        2: StrengthCurve(STRENGTHS, (0.1, 0.2, 0.5, 0.9, 1.2, 1.3), (0.1, 0.1, 0.8, 0.1, 0.0, 0.0)),
        3: StrengthCurve(STRENGTHS, (1.1, 0.9, 0.5, 0.9, 1.1, 1.3), good),
    }
    assert [one.choice for one in candidates(curves, 0.8)] == [(1, 0.1), (1, 0.2), (1, 0.4)]
    assert [one.choice.layer for one in candidates({3: curves[3]}, 0.8)] == [3, 3, 3]
    falling = StrengthCurve(STRENGTHS, (0.9, 0.8, 0.5, 0.4, 0.3, 0.2), good)
    assert candidates({7: falling}, 0.8) == []


def test_only_the_layers_that_rise_most_are_compared() -> None:
    good = (0.8,) * 6
    curves = {
        layer: StrengthCurve(STRENGTHS, (0.3, 0.4, 0.5, 0.6, 0.7, 0.7 + 0.01 * layer), good)
        for layer in range(12)
    }
    found = {one.choice.layer for one in candidates(curves, 0.8)}
    assert found == set(range(12 - SHORTLIST, 12))


def test_a_lead_is_over_mean_and_two_standard_deviations() -> None:
    one = Candidate(Choice(1, 0.1), 1.0, shuffled=(0.5, 0.7))
    assert one.margin == pytest.approx(1.0 - 0.6 - 2 * math.sqrt(0.02))
    vector = Vector(1, torch.arange(50.0).double(), norm=1.0)
    controls_ = [shuffled(vector.direction, seed) for seed in range(CONTROLS)]
    for trial in shuffled_trials(vector):
        assert not any(torch.equal(trial.direction, control) for control in controls_)


def test_entropy_and_mass_are_means_over_steps() -> None:
    logprobs = torch.tensor([[[0.5, 0.0], [0.25, 0.25]], [[0.4, 0.4], [0.1, 0.1]]]).log()
    curve = StrengthCurve.from_logprobs((0.0, 0.1), logprobs)
    assert curve.entropy == pytest.approx((math.log(2) / 2, math.log(2)))
    assert curve.action_probability_mass == pytest.approx((0.5, 0.5))


def test_rank_correlation() -> None:
    one = np.array([1.0, 2.0, 3.0, 4.0])
    assert spearman(one, one**3) == pytest.approx(1.0)
    assert spearman(one, -one) == pytest.approx(-1.0)
    assert spearman(one, np.array([1.0, 3.0, 2.0, 4.0])) == pytest.approx(0.8)
    assert spearman(one, np.ones(4)) == 0.0


@pytest.mark.parametrize("seed", range(20))
def test_the_rank_correlation_is_that_of_mean_ranks(seed: int) -> None:
    """Equal to the formula: the correlation of ranks, ties sharing their mean rank."""
    draw = np.random.default_rng(seed)
    one, other = draw.integers(0, 6, (2, 13)).astype(float)
    ranks = [
        np.array([(values < value).sum() + (values == value).sum() / 2 for value in values])
        for values in (one, other)
    ]
    expected = float(np.corrcoef(ranks[0], ranks[1])[0, 1])
    assert spearman(one, other) == pytest.approx(expected, abs=1e-12)
