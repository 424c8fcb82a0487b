import math

import pytest
import torch
from pydantic import ValidationError

from tests.unit.training.objectives.batch import case, loss_and_gradient, objectives, plan_of, step
from training.objectives.core.distributed import SingleProcess
from training.objectives.epo import phase_weight


@pytest.mark.parametrize("num_steps", [20, 150])
def test_penalty_weight_equals_the_formula_of_the_paper(num_steps: int) -> None:
    """1 + exp(-gamma k / k_mid): 2 at the start, 1 + exp(-gamma) in the middle of the run."""
    middle = num_steps / 2
    for k in (0, 1, middle, num_steps, 10 * num_steps):
        weight = phase_weight(k, num_steps, 2.0)
        assert weight == pytest.approx(1 + math.exp(-2 * k / middle), rel=1e-12)
        assert 1 <= weight <= 2


def test_schedule_length_defaults_to_the_length_of_the_run() -> None:
    weights = []
    for settings, total in (({}, 20), ({}, 200), ({"num_steps": 20}, 200)):
        composed = objectives({"type": "epo", **settings})
        composed.set_total_steps(total)
        composed.load_state_dict({"epo": {"num_steps": 10, "entropy": 1.0}})
        weights.append(float(plan_of(composed, case())[0].metrics["epo_weight"]))
    assert weights[0] == weights[2] == pytest.approx(1 + math.exp(-2))
    assert weights[1] == pytest.approx(1 + math.exp(-0.2))


def test_the_first_step_has_only_the_bonus() -> None:
    one = case()
    bonus = {"type": "entropy_bonus", "entropy_coef": 0.001}
    found, expected = (loss_and_gradient(objectives(c), one) for c in ("epo", bonus))
    torch.testing.assert_close(found, expected)


def test_tokens_outside_the_band_get_a_restoring_gradient() -> None:
    """Below the band, the gradient on H grows to c (1 + w); above, it shrinks to c (1 - w)."""
    composed = objectives("epo")
    composed.load_state_dict({"epo": {"num_steps": 1, "entropy": 1.0}})
    one = case()
    plan, tokens = plan_of(composed, one)
    weight = 1 + math.exp(-2 / 75)
    h = tokens.entropy.detach()
    distance = (0.8 - h).clamp_min(0) + (h - 1.2).clamp_min(0)
    expected = -0.001 * (h - weight * distance)
    assert plan.mean_terms is not None
    torch.testing.assert_close(plan.mean_terms.detach()[one.mask], expected[one.mask])
    (gradient,) = torch.autograd.grad(plan.mean_terms.sum(), tokens.entropy, retain_graph=True)
    slope = -0.001 * (1 + weight * ((h < 0.8).double() - (h > 1.2).double()))
    torch.testing.assert_close(gradient[one.mask], slope[one.mask])
    assert {-1, 0, 1} == set(((h > 1.2).int() - (h < 0.8).int())[one.mask].tolist())


def test_the_penalty_has_a_gradient() -> None:
    """The published penalty is a constant, so that code trains a plain bonus."""
    one = case()
    gradients = []
    for smoothing in (0.0, 1.0):
        composed = objectives({"type": "epo", "smoothing_coef": smoothing})
        composed.load_state_dict({"epo": {"num_steps": 1, "entropy": 1.0}})
        gradients.append(loss_and_gradient(composed, one)[1])
    assert not torch.allclose(gradients[0], gradients[1], atol=1e-9, rtol=0)


def test_the_past_entropy_is_a_running_mean() -> None:
    member = objectives("epo").members["epo"]
    for entropy in (1.0, 2.0, 6.0):
        member.on_step_end(step(entropy=entropy), SingleProcess())
    assert member.state_dict() == {"num_steps": 3, "entropy": pytest.approx(3.0)}


def test_an_empty_band_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"ratio_low = 2\.0 must be below"):
        objectives({"type": "epo", "ratio_low": 2.0})
