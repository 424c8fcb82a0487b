import pytest
import torch
from pydantic import ValidationError

from tests.unit.training.objectives.batch import (
    case,
    loss_and_gradient,
    objectives,
    only,
    plan_of,
    step,
)
from training.objectives.compose import Objectives
from training.objectives.configs import TargetEntropyConfig
from training.objectives.core.controller import Actuator
from training.objectives.core.distributed import SingleProcess

UP, DOWN = 99.0, 0.01  # targets that no case reaches


def entropy_loss(*configs: str | dict[str, object]) -> tuple[torch.Tensor, torch.Tensor]:
    """Change of loss and gradient by the term in the first step of a run."""
    one = case()
    plain, changed = (loss_and_gradient(objectives(*c), one) for c in (("none",), configs))
    return changed[0] - plain[0], changed[1] - plain[1]


def mean_entropy() -> tuple[torch.Tensor, torch.Tensor]:
    one = case()
    mean = one.tokens().entropy[one.mask].mean()
    return mean.detach(), torch.autograd.grad(mean, one.logits)[0]


def test_the_bonus_is_the_mean_entropy() -> None:
    loss, gradient = entropy_loss({"type": "entropy_bonus", "entropy_coef": 0.3})
    mean, mean_gradient = mean_entropy()
    torch.testing.assert_close(loss, -0.3 * mean)
    torch.testing.assert_close(gradient, -0.3 * mean_gradient)


def test_the_entropy_gradient_equals_its_closed_form() -> None:
    """dH/dz_v = -p_v (ln p_v + H)."""
    one = case()
    _, gradient = mean_entropy()
    logprobs = torch.log_softmax(one.logits.detach(), -1)
    entropy = one.tokens().entropy.detach().unsqueeze(-1)
    closed = -logprobs.exp() * (logprobs + entropy) * one.mask.unsqueeze(-1) / one.mask.sum()
    torch.testing.assert_close(gradient, closed)


@pytest.mark.parametrize(("target", "sign"), [(UP, -1), (DOWN, 1)])
def test_the_target_term_acts_from_both_sides(target: float, sign: int) -> None:
    """L + c |mean(H) - target|, in value and gradient, from the first step."""
    config = {"type": "target_entropy", "entropy_target": target, "entropy_coef": 0.3}
    loss, gradient = entropy_loss(config)
    mean, mean_gradient = mean_entropy()
    torch.testing.assert_close(loss, 0.3 * (mean - target).abs())
    torch.testing.assert_close(gradient, sign * 0.3 * mean_gradient)


def test_after_the_first_step_the_sign_comes_from_the_previous_step() -> None:
    member = only({"type": "target_entropy", "entropy_target": 1.0})
    member.on_step_end(step(entropy=1.5), SingleProcess())
    low_batch = case(scale=9.0)
    assert low_batch.tokens().entropy[low_batch.mask].mean() < 1
    plan, tokens = plan_of(objectives("none"), low_batch)
    found = member.on_tokens(tokens, plan).mean_terms
    torch.testing.assert_close(found, 0.001 * (tokens.entropy - 1.0))


def test_a_driven_target_term_adds_a_bonus() -> None:
    one = case()
    composed = Objectives([TargetEntropyConfig(entropy_target=UP)], Actuator.COEFFICIENT)
    composed.set_controller_output(0.05)
    plan, tokens = plan_of(composed, one)
    expected = -0.001 * (tokens.entropy - UP) - 0.05 * tokens.entropy
    torch.testing.assert_close(plan.mean_terms, expected)


def test_the_adaptive_bonus_is_on_only_after_a_step_below_its_target() -> None:
    member = only({"type": "adaptive_entropy", "entropy_target": 1.0, "entropy_coef": 0.01})
    plan, tokens = plan_of(objectives("none"), case())

    def coefficient() -> float:
        return float(member.on_tokens(tokens, plan).metrics["entropy_coef"])

    history = [coefficient()]
    for entropy in (0.5, 0.5, 2.0, 1.0):
        member.on_step_end(step(entropy=entropy), SingleProcess())
        history.append(coefficient())
    # 0.010 -> 0.015 -> 0.020 -> 0.015 (off: above the target) -> 0.020
    assert history == pytest.approx([0.0, 0.015, 0.020, 0.0, 0.020])


def test_the_adaptive_coefficient_stays_in_its_bounds() -> None:
    member = only({"type": "adaptive_entropy", "entropy_coef_max": 0.012})
    for entropy, expected in ((0.1, 0.005), (0.1, 0.01), (0.1, 0.012), (9.0, 0.007)):
        member.on_step_end(step(entropy=entropy), SingleProcess())
        assert member.coefficient == pytest.approx(expected)
    for _ in range(5):
        member.on_step_end(step(entropy=9.0), SingleProcess())
    assert member.coefficient == 0


def test_inverted_bounds_are_refused() -> None:
    with pytest.raises(ValidationError, match=r"entropy_coef_min = 0\.5"):
        objectives({"type": "adaptive_entropy", "entropy_coef_min": 0.5})
