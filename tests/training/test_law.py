import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.training.objectives.batch import case
from training.law import (
    MIN_POINTS,
    agreement,
    covariance,
    fit_entropy_law,
    jitter_response,
    policy_kl,
    predicted_entropy_change,
)

ENTROPIES = [2.1, 1.7, 1.3, 1.0, 0.7, 0.5, 0.35, 0.25, 0.2, 0.15]
A, B = 0.08, 0.7


def noisy(scale: float, seed: int = 0) -> list[float]:
    noise = np.random.default_rng(seed).normal(size=len(ENTROPIES)) * scale
    return [-A * math.exp(h) + B + e for h, e in zip(ENTROPIES, noise, strict=True)]


def test_an_exact_law_is_found_exactly() -> None:
    law = fit_entropy_law(ENTROPIES, noisy(0.0))
    assert (law.a, law.b, law.r_squared) == pytest.approx((A, B, 1.0))
    assert law.rmse < 1e-12
    assert law.ceiling().reward == pytest.approx(B - A)


@given(st.floats(-2, 2), st.floats(-2, 2))
def test_any_line_is_found(a: float, b: float) -> None:
    law = fit_entropy_law(ENTROPIES, [-a * math.exp(h) + b for h in ENTROPIES])
    assert (law.a, law.b) == pytest.approx((a, b), abs=1e-9)


def test_fit_and_errors_are_those_of_least_squares() -> None:
    """Against numpy's solver and the textbook covariance of the coefficients."""
    rewards = noisy(0.02)
    design = np.stack([-np.exp(ENTROPIES), np.ones(len(ENTROPIES))], 1)
    solution, squares, *_ = np.linalg.lstsq(design, np.array(rewards), rcond=None)
    errors = np.linalg.inv(design.T @ design) * squares[0] / (len(rewards) - 2)
    law = fit_entropy_law(ENTROPIES, rewards)
    assert (law.a, law.b) == pytest.approx(tuple(solution))
    assert (law.a_error, law.b_error) == pytest.approx(tuple(np.sqrt(np.diag(errors))))
    row = np.array([-1.0, 1.0])
    assert law.ceiling().standard_error == pytest.approx(float(np.sqrt(row @ errors @ row)))


def test_errors_cover_the_truth_as_often_as_they_should() -> None:
    inside = 0
    for seed in range(300):
        law = fit_entropy_law(ENTROPIES, noisy(0.05, seed))
        ceiling = law.ceiling()
        inside += abs(ceiling.reward - (B - A)) < 2.306 * ceiling.standard_error  # t(8), 95 %
    assert 0.91 < inside / 300 < 0.985


def test_thin_data_are_not_extrapolated() -> None:
    few = fit_entropy_law(ENTROPIES[:7], noisy(0.01)[:7])
    assert few.predict(1.0).standard_error > 0  # inside the range it may
    with pytest.raises(ValueError, match=f"7 points where {MIN_POINTS} are needed"):
        few.ceiling()
    flat = fit_entropy_law([1 + 0.004 * k for k in range(10)], [0.1 * k for k in range(10)])
    with pytest.raises(ValueError, match=r"e\^H varies by 3\.\d% where 5% are needed"):
        flat.predict(1.2)


@pytest.mark.parametrize(
    ("entropies", "rewards", "message"),
    [
        ([1.0, 2.0], [0.1, 0.2], "at least 3"),
        ([1.0, 2.0, math.nan], [0.1, 0.2, 0.3], "finite"),
        ([1.0] * 9, [0.1] * 9, "same at all checkpoints"),
        ([1.0, 2.0, 3.0], [0.1, 0.2], "3 entropies but 2 rewards"),
    ],
)
def test_what_cannot_be_fitted_is_refused(
    entropies: list[float], rewards: list[float], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        fit_entropy_law(entropies, rewards)


def test_constant_rewards_have_no_explained_variance() -> None:
    assert math.isnan(fit_entropy_law(ENTROPIES, [0.5] * 10).r_squared)


def test_agreement_of_a_perfect_and_of_a_useless_predictor() -> None:
    predicted = [-1.0, -0.5, 0.25, 2.0]
    assert agreement(predicted, [0.3 * p for p in predicted]) == pytest.approx((1.0, 0.3, 1.0))
    assert agreement(predicted, [-p for p in predicted]) == pytest.approx((-1.0, -1.0, 0.0))
    assert math.isnan(agreement([1.0, 1.0], [1.0, 2.0]).correlation)
    assert math.isnan(agreement([0.0, 0.0], [1.0, 2.0]).gain)
    with pytest.raises(ValueError, match="two or more"):
        agreement([1.0], [1.0])


def test_the_covariance_is_over_masked_tokens() -> None:
    one = case()
    advantages = one.advantages[:, None].expand(one.mask.shape)
    logprobs = one.tokens().logprobs
    expected = np.cov(logprobs.detach()[one.mask], advantages[one.mask], bias=True)[0, 1]
    assert covariance(logprobs, advantages, one.mask) == pytest.approx(expected)
    assert covariance(logprobs, advantages, ~one.mask & one.mask) == 0


def gradient_step(seed: int, size: float) -> tuple[float, float, float]:
    """Predictions before and change of H after a policy-gradient step on independent rows."""
    one = case(seed, rows=200, length=3, lag=0.0)
    tokens, mask = one.tokens(), one.mask
    advantages = one.advantages[:, None].expand(mask.shape)
    (update,) = torch.autograd.grad((tokens.logprobs * advantages * mask).sum(), one.logits)
    after = one._replace(logits=one.logits.detach() + size * update).tokens().entropy
    predicted = predicted_entropy_change(
        tokens.logprobs, tokens.old_logprobs, tokens.entropy, advantages, mask
    )
    change = float((after - tokens.entropy).detach()[mask].mean())
    return -covariance(tokens.logprobs, advantages, mask), predicted, change


def test_both_predictors_follow_the_change_and_steer_is_the_finer() -> None:
    steps = [gradient_step(seed, 1e-3) for seed in range(12)]
    by_covariance, by_steer, measured = (list(x) for x in zip(*steps, strict=True))
    assert agreement(by_steer, measured).correlation > 0.8
    assert agreement(by_steer, measured).same_sign > 0.8
    assert agreement(by_steer, measured).gain > 0
    coarse = agreement(by_covariance, measured).correlation
    assert 0.3 < coarse < agreement(by_steer, measured).correlation


def test_the_kl_of_two_policies() -> None:
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


def test_near_a_tie_entropy_regularisation_takes_the_cliff_away() -> None:
    """Noise of 0.01 turns the argmax over in half the draws; the regularised policy stays."""
    sharp, soft = jitter(0.01, 1e-3), jitter(0.01, 1.0)
    assert sharp[1] == soft[1] > 0.4
    assert sharp[0] > 1
    assert soft[0] < 1e-3


@settings(deadline=None, max_examples=20)
@given(st.floats(1e-3, 0.5), st.floats(0.05, 5))
def test_the_response_is_bounded_by_noise_over_coefficient(scale: float, coef: float) -> None:
    largest = 4.5 * scale  # of 1,500 normal draws
    assert jitter(scale, coef)[0] <= 2 * largest / coef


def test_without_noise_nothing_moves() -> None:
    assert jitter(0.0, 0.1) == pytest.approx((0.0, 0.0))
