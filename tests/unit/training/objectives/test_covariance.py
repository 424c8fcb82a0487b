import pytest
import torch
from pydantic import ValidationError

from tests.unit.training.objectives.batch import (
    Case,
    case,
    loss_and_gradient,
    objectives,
    plan_of,
    policy_loss,
)
from training.objectives.covariance import token_covariance


def by_hand(one: Case) -> torch.Tensor:
    """The covariance of each token, computed in a loop."""
    logprobs = one.tokens().logprobs.detach()
    tokens = one.mask.nonzero().tolist()
    lp = {(i, t): float(logprobs[i, t]) for i, t in tokens}
    mean_lp = sum(lp.values()) / len(lp)
    mean_a = sum(float(one.advantages[i]) for i, _ in tokens) / len(tokens)
    result = torch.zeros(one.mask.shape, dtype=torch.float64)
    for i, t in tokens:
        result[i, t] = (float(one.advantages[i]) - mean_a) * (lp[i, t] - mean_lp)
    return result


def test_the_covariance_is_the_product_of_deviations() -> None:
    one = case()
    _, tokens = plan_of(objectives("none"), one)
    found = token_covariance(tokens, one.advantages[:, None].expand(one.mask.shape))
    torch.testing.assert_close(found[one.mask], by_hand(one)[one.mask])
    assert not found.requires_grad


def test_clip_cov_detaches_candidates_only() -> None:
    one = case(rows=40)
    config = {"type": "clip_cov", "share": 0.05, "covariance_min": 0.5}
    plan, tokens = plan_of(objectives(config), one)
    covariance, ratio = by_hand(one), tokens.ratio
    advantages = one.advantages[:, None]
    clipped = ((advantages > 0) & (ratio > 1.28)) | ((advantages < 0) & (ratio < 0.8))
    candidates = (covariance > 0.5) & (covariance < 5) & ~clipped & one.mask
    dropped = plan.weight == 0
    count = int(0.05 * int(one.mask.sum()))
    assert int(candidates.sum()) > count > 1
    assert int(dropped.sum()) == count
    assert not (dropped & ~candidates).any()
    assert int(plan.metrics["clip_cov_candidates"]) == int(candidates.sum())


def test_clip_cov_draws_a_new_random_sample_each_time() -> None:
    one = case(rows=40)
    config = {"type": "clip_cov", "share": 0.05, "covariance_min": 0.0}
    torch.manual_seed(0)
    first, second = (plan_of(objectives(config), one)[0].weight for _ in range(2))
    torch.manual_seed(0)
    again = plan_of(objectives(config), one)[0].weight
    assert not torch.equal(first, second)
    assert torch.equal(first, again)


def test_clip_cov_detaches_one_token_of_a_small_batch_and_none_without_candidates() -> None:
    """One token is far more than 2e-4 of a small batch, which the metrics show."""
    one = case()
    wide = {"type": "clip_cov", "covariance_min": -99.0, "covariance_max": 99.0}
    plan, _ = plan_of(objectives(wide), one)
    assert int((plan.weight == 0).sum()) == 1
    assert float(plan.metrics["clip_cov_share"]) == pytest.approx(1 / int(one.mask.sum()))
    tame = one._replace(advantages=one.advantages * 1e-3)
    plan, _ = plan_of(objectives("clip_cov"), tame)
    assert bool((plan.weight == 1).all())
    assert int(plan.metrics["clip_cov_candidates"]) == 0


def test_clip_cov_has_an_effect_on_policy() -> None:
    one = case(lag=0.0)
    config = {"type": "clip_cov", "share": 0.2, "covariance_min": -9.0, "covariance_max": 9.0}
    gradients = [loss_and_gradient(objectives(c), one)[1] for c in ("none", config)]
    assert not torch.allclose(gradients[0], gradients[1])


def test_an_inverted_covariance_band_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"covariance_min = 6\.0 must be below"):
        objectives({"type": "clip_cov", "covariance_min": 6.0})


def test_kl_cov_penalizes_the_largest_covariances_without_clipping() -> None:
    one = case(rows=20, lag=0.8)
    plan, tokens = plan_of(objectives({"type": "kl_cov", "share": 0.1, "beta": 0.5}), one)
    count = int(0.1 * int(one.mask.sum()))
    top = by_hand(one).masked_fill(~one.mask, -99).flatten().topk(count).indices
    tied = torch.zeros(one.mask.numel(), dtype=torch.bool)
    tied[top] = True
    gap = (tokens.logprobs - tokens.old_logprobs).abs() * tied.view(one.mask.shape)
    torch.testing.assert_close(plan.policy_terms, 0.5 * gap)
    unclipped = -tokens.ratio * one.advantages[:, None]
    torch.testing.assert_close(policy_loss(plan, tokens).detach()[one.mask], unclipped[one.mask])


def test_kl_cov_chooses_exactly_its_share_of_equal_covariances() -> None:
    """In groups with equal rewards, all advantages are 0 and all tokens tie."""
    one = case(rows=20)
    plan, _ = plan_of(
        objectives({"type": "kl_cov", "share": 0.1}), one._replace(advantages=torch.zeros(20))
    )
    assert plan.policy_terms is not None
    assert int((plan.policy_terms > 0).sum()) == int(0.1 * int(one.mask.sum()))


def test_kl_cov_has_no_effect_on_policy_and_declares_it() -> None:
    """|logprob - old| has value and gradient 0 where both are equal."""
    one = case(lag=0.0)
    kl_cov, plain = objectives({"type": "kl_cov", "share": 0.5, "beta": 50.0}), objectives("none")
    (loss, gradient), (plain_loss, plain_gradient) = (
        loss_and_gradient(c, one) for c in (kl_cov, plain)
    )
    torch.testing.assert_close(loss, plain_loss)
    torch.testing.assert_close(gradient, plain_gradient)
    assert kl_cov.members["kl_cov"].config.inert_on_policy


def test_tea_rl_weights_sum_to_its_scale_and_are_largest_at_the_largest_covariance() -> None:
    one = case(rows=6)
    config = {"type": "tea_rl", "entropy_coef": 1.0, "scale": 0.5}
    plan, tokens = plan_of(objectives(config), one)
    assert plan.mean_terms is not None
    weight = (-plan.mean_terms / tokens.entropy).detach().masked_fill(~one.mask, 0)
    present = one.mask.any(1)
    torch.testing.assert_close(
        weight.sum(1)[present], torch.full((int(present.sum()),), 0.5, dtype=torch.float64)
    )
    covariance = by_hand(one).masked_fill(~one.mask, -99)
    assert torch.equal(weight.argmax(1)[present], covariance.argmax(1)[present])
    assert not plan.mean_terms[~one.mask].any()


def test_tea_rl_limits_the_weight_of_a_single_token() -> None:
    """The softmax over one token is 1 whatever its covariance is; 10 without a limit."""
    one = case(rows=4)
    single = one._replace(mask=one.mask & (one.mask.cumsum(1) == 1))
    plan, tokens = plan_of(objectives("tea_rl"), single)
    assert plan.mean_terms is not None
    torch.testing.assert_close(
        plan.mean_terms[single.mask].detach(), -5 * tokens.entropy[single.mask].detach()
    )


def test_tea_rl_is_finite_for_an_answer_without_tokens() -> None:
    one = case(rows=4)
    mask = one.mask.clone()
    mask[1] = False
    _, gradient = loss_and_gradient(objectives("tea_rl"), one._replace(mask=mask))
    assert bool(gradient.isfinite().all())
    assert not gradient[1].any()
