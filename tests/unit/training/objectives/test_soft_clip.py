import torch

from tests.unit.training.objectives.batch import (
    case,
    loss_and_gradient,
    objectives,
    plan_of,
    policy_loss,
)


def test_soft_clip_clips_the_value_and_keeps_the_gradient() -> None:
    one = case(lag=1.0)
    plan, tokens = plan_of(objectives("soft_clip_high_entropy"), one)
    plain, _ = plan_of(objectives("none"), one)
    silenced = one.mask & (one.advantages > 0)[:, None] & (tokens.ratio > 1.28)
    assert silenced.any()
    loss = policy_loss(plan, tokens)
    torch.testing.assert_close(
        loss.detach()[one.mask], policy_loss(plain, tokens).detach()[one.mask]
    )
    (gradient,) = torch.autograd.grad(loss.sum(), tokens.logprobs, retain_graph=True)
    limit = -1.28 * one.advantages[:, None].expand(one.mask.shape)
    torch.testing.assert_close(gradient[silenced], limit[silenced])
    (plain_gradient,) = torch.autograd.grad(policy_loss(plain, tokens).sum(), tokens.logprobs)
    assert not plain_gradient[silenced].any()
    rest = one.mask & ~silenced
    torch.testing.assert_close(gradient[rest], plain_gradient[rest])


def test_soft_clip_has_no_effect_on_policy_and_declares_it() -> None:
    one = case(lag=0.0)
    soft, plain = objectives("soft_clip_high_entropy"), objectives("none")
    torch.testing.assert_close(loss_and_gradient(soft, one), loss_and_gradient(plain, one))
    assert soft.members["soft_clip_high_entropy"].config.inert_on_policy
