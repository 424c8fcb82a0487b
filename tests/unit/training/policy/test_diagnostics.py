import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.training.objectives.batch import case
from training.objectives.compose import Objectives
from training.objectives.configs import PlainConfig
from training.objectives.core.batch import StepStatistics
from training.policy.diagnostics import agreement, jitter_response, policy_kl


def test_agreement_of_a_perfect_and_of_a_useless_predictor() -> None:
    predicted = [-1.0, -0.5, 0.25, 2.0]
    assert agreement(predicted, [0.3 * p for p in predicted]) == pytest.approx((1.0, 0.3, 1.0))
    assert agreement(predicted, [-p for p in predicted]) == pytest.approx((-1.0, -1.0, 0.0))
    assert math.isnan(agreement([1.0, 1.0], [1.0, 2.0]).correlation)
    assert math.isnan(agreement([0.0, 0.0], [1.0, 2.0]).gain)
    with pytest.raises(ValueError, match="at least 2 steps"):
        agreement([1.0], [1.0])


def step_of(one: Any) -> StepStatistics:
    """The statistics of an optimizer step on this batch."""
    objectives = Objectives([PlainConfig()])
    objectives.plan(one.tokens(), one.advantages, 0.2, 0.2)
    return objectives.end_step()


def test_the_covariance_is_over_masked_tokens() -> None:
    one = case()
    advantages = one.advantages[:, None].expand(one.mask.shape)
    logprobs = one.tokens().logprobs.detach()
    expected = np.cov(logprobs[one.mask], advantages[one.mask], bias=True)[0, 1]
    assert step_of(one).covariance == pytest.approx(expected)


def gradient_step(seed: int, size: float) -> tuple[float, float, float]:
    """Predictions before, and entropy change after, a policy-gradient step on independent rows."""
    one = case(seed, rows=200, length=3, lag=0.0)
    tokens, mask = one.tokens(), one.mask
    advantages = one.advantages[:, None].expand(mask.shape)
    (update,) = torch.autograd.grad((tokens.logprobs * advantages * mask).sum(), one.logits)
    after = one._replace(logits=one.logits.detach() + size * update).tokens().entropy
    step = step_of(one)
    change = float((after - tokens.entropy).detach()[mask].mean())
    return -step.covariance, -step.predicted_change, change


def test_both_predictors_correlate_with_the_change_and_steer_more_strongly() -> None:
    steps = [gradient_step(seed, 1e-3) for seed in range(12)]
    by_covariance, by_steer, measured = (list(x) for x in zip(*steps, strict=True))
    assert agreement(by_steer, measured).correlation > 0.8
    assert agreement(by_steer, measured).same_sign > 0.8
    assert agreement(by_steer, measured).gain > 0
    coarse = agreement(by_covariance, measured).correlation
    assert 0.3 < coarse < agreement(by_steer, measured).correlation


def test_policy_kl_equals_the_formula() -> None:
    p = torch.tensor([[0.5, 0.5], [0.9, 0.1], [1.0, 0.0]]).log()
    q = torch.tensor([[0.25, 0.75], [0.9, 0.1], [0.5, 0.5]]).log()
    rows = [0.5 * math.log(2) + 0.5 * math.log(2 / 3), 0.0, math.log(2)]
    for row in range(3):
        mask = torch.arange(3) == row
        assert policy_kl(p, q, mask) == pytest.approx(rows[row], abs=1e-6)
    everything = torch.ones(3, dtype=torch.bool)
    assert policy_kl(p, q, everything) == pytest.approx(sum(rows) / 3, abs=1e-6)
    assert policy_kl(p, q, ~everything) == 0


def jitter(scale: float, entropy_coef: float) -> tuple[float, float]:
    rewards = torch.tensor([1.0, 0.999, 0.2])
    generator = torch.Generator().manual_seed(0)
    response = jitter_response(rewards, scale, entropy_coef, 500, generator)
    return response.policy_kl, response.share_flipped


def test_entropy_regularization_removes_the_policy_cliff_near_a_tie() -> None:
    """Noise of 0.01 changes the argmax in half of the draws, but not the regularized policy."""
    sharp, soft = jitter(0.01, 1e-3), jitter(0.01, 1.0)
    assert sharp[1] == soft[1] > 0.4
    assert sharp[0] > 1
    assert soft[0] < 1e-3


@settings(deadline=None, max_examples=20)
@given(st.floats(1e-3, 0.5), st.floats(0.05, 5))
def test_the_response_is_bounded_by_noise_over_coefficient(scale: float, coef: float) -> None:
    largest = 4.5 * scale  # of 1,500 normal draws
    assert jitter(scale, coef)[0] <= 2 * largest / coef


def test_without_noise_the_policy_does_not_change() -> None:
    assert jitter(0.0, 0.1) == pytest.approx((0.0, 0.0))
