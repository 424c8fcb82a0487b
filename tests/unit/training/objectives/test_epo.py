import math

import pytest
import torch
from pydantic import ValidationError

from tests.unit.training.objectives.batch import case, loss_and_gradient, objectives, plan_of, step
from training.objectives.distributed import Alone
from training.objectives.epo import phase_weight


@pytest.mark.parametrize(
    ("step_number", "weight"),
    [
        (0, 1.0),
        (37.5, 1 - 0.2 * (1 - math.exp(-1))),
        (75, 1 - 0.2 * (1 - math.exp(-2))),
        (75.001, 0.8),
        (112.5, 0.8 * math.exp(-1.5)),
        (150, 0.8 * math.exp(-3)),
    ],
)
def test_the_phase_weight_at_known_points(step_number: float, weight: float) -> None:
    assert phase_weight(step_number, 150) == pytest.approx(weight, rel=1e-4)


def test_the_phase_weight_never_rises() -> None:
    weights = [phase_weight(step, 150) for step in range(300)]
    assert weights == sorted(weights, reverse=True)
    assert weights[-1] > 0


def test_the_first_step_is_a_plain_bonus() -> None:
    one = case()
    bonus = {"type": "entropy_bonus", "entropy_coef": 0.001}
    found, expected = (loss_and_gradient(objectives(c), one) for c in ("epo", bonus))
    torch.testing.assert_close(found, expected)


def test_tokens_outside_the_band_are_pushed_back() -> None:
    """Below the band the gradient on H grows to c (1 + w), above it shrinks to c (1 - w)."""
    composed = objectives("epo")
    composed.load_state_dict({"epo": {"num_steps": 1, "entropy": 1.0}})
    one = case()
    plan, tokens = plan_of(composed, one)
    weight = phase_weight(1, 150)
    h = tokens.entropy.detach()
    distance = (0.8 - h).clamp_min(0) + (h - 1.2).clamp_min(0)
    expected = -0.001 * (h - weight * distance)
    assert plan.mean_terms is not None
    torch.testing.assert_close(plan.mean_terms.detach()[one.mask], expected[one.mask])
    (gradient,) = torch.autograd.grad(plan.mean_terms.sum(), tokens.entropy, retain_graph=True)
    slope = -0.001 * (1 + weight * ((h < 0.8).double() - (h > 1.2).double()))
    torch.testing.assert_close(gradient[one.mask], slope[one.mask])
    assert {-1, 0, 1} == set(((h > 1.2).int() - (h < 0.8).int())[one.mask].tolist())


def test_the_penalty_is_not_a_dead_term() -> None:
    """As published it is a constant wherever it applies, and trains a plain bonus."""
    one = case()
    gradients = []
    for smoothing in (0.0, 1.0):
        composed = objectives({"type": "epo", "smoothing_coef": smoothing})
        composed.load_state_dict({"epo": {"num_steps": 1, "entropy": 1.0}})
        gradients.append(loss_and_gradient(composed, one)[1])
    assert not torch.allclose(gradients[0], gradients[1], atol=1e-9, rtol=0)


def test_the_past_is_a_running_mean() -> None:
    member = objectives("epo").members["epo"]
    for entropy in (1.0, 2.0, 6.0):
        member.on_step_end(step(entropy=entropy), Alone())
    assert member.state_dict() == {"num_steps": 3, "entropy": pytest.approx(3.0)}


def test_an_empty_band_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"ratio_low = 2\.0 must be below"):
        objectives({"type": "epo", "ratio_low": 2.0})
