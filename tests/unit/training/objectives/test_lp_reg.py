import math
from dataclasses import replace

import pytest
import torch

from tests.unit.training.objectives.batch import case, objectives, only, policy_loss
from training.objectives.core.batch import MicroBatch
from training.objectives.core.requirements import RequiredTensor
from training.objectives.lp_reg import proxy_logprobs

LOGITS = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()


def test_the_proxy_renormalizes_the_tokens_that_pass_min_p() -> None:
    """0.5, 0.3 and 0.15 are at least 0.25 of the maximum, 0.05 is not."""
    ids = torch.arange(4)
    proxy = proxy_logprobs(LOGITS.expand(4, -1), ids, 0.25, fixed=False).exp()
    torch.testing.assert_close(proxy, torch.tensor([0.5, 0.3, 0.15, 0.0]) / 0.95)


def test_a_fixed_threshold_applies_to_the_probability() -> None:
    ids = torch.arange(4)
    proxy = proxy_logprobs(LOGITS.expand(4, -1), ids, 0.25, fixed=True).exp()
    torch.testing.assert_close(proxy, torch.tensor([0.5, 0.3, 0.0, 0.0]) / 0.8)


def test_unfiltered_tokens_are_more_likely_under_the_proxy() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(500, 50, generator=generator) * 3
    ids = torch.randint(50, (500,), generator=generator)
    proxy = proxy_logprobs(logits, ids, 0.02, fixed=False)
    own = torch.log_softmax(logits, -1).gather(-1, ids[:, None]).squeeze(-1)
    kept = proxy.isfinite()
    assert 0 < kept.sum() < 500
    assert bool((proxy[kept] >= own[kept] - 1e-6).all())
    assert not bool((own < proxy)[~kept].any())


def protected_batch() -> MicroBatch:
    """Ten tokens of a bad answer; the proxy is 0.1 above all but the least likely one."""
    logprobs = -torch.arange(1.0, 11.0, dtype=torch.float64)[None]
    proxy = logprobs + 0.1
    proxy[0, 9] = -math.inf
    return MicroBatch(
        logprobs=logprobs.requires_grad_(),
        entropy=torch.ones_like(logprobs),
        old_logprobs=logprobs.detach() - 1.0,
        mask=torch.ones(1, 10, dtype=torch.bool),
        measured={RequiredTensor.PROXY_LOGPROBS: proxy},
    )


def test_only_unlikely_tokens_that_pass_the_filter_are_protected() -> None:
    tokens = protected_batch()
    bad = torch.tensor([-1.0], dtype=torch.float64)
    composed = objectives({"type": "lp_reg", "share": 0.3, "beta": 2.0})
    plan = composed.plan(tokens, bad, 0.2, 0.2)
    k3 = math.expm1(0.1) - 0.1
    assert plan.policy_terms is not None
    assert plan.policy_terms.detach()[0].tolist() == pytest.approx([0.0] * 7 + [2 * k3] * 2 + [0.0])
    (gradient,) = torch.autograd.grad(plan.policy_terms.sum(), tokens.logprobs)
    assert gradient[0, 7:9].tolist() == pytest.approx([2 * (1 - math.exp(0.1))] * 2)
    assert int(plan.metrics["lp_reg_protected"]) == 2


def test_the_ratio_of_unprotected_tokens_is_clipped_at_ten() -> None:
    tokens = protected_batch()
    far = replace(tokens, old_logprobs=tokens.logprobs.detach() - 5.0)
    plan = objectives({"type": "lp_reg", "share": 0.3}).plan(far, torch.ones(1), 0.2, 0.2)
    torch.testing.assert_close(policy_loss(plan, far).detach(), torch.full((1, 10), -10.0).double())


def test_tokens_more_likely_than_the_proxy_are_not_protected() -> None:
    tokens = protected_batch()
    risen = replace(
        tokens,
        measured={
            RequiredTensor.PROXY_LOGPROBS: tokens.measured[RequiredTensor.PROXY_LOGPROBS] - 0.2
        },
    )
    plan = objectives({"type": "lp_reg", "share": 1.0}).plan(risen, torch.tensor([-1.0]), 0.2, 0.2)
    assert not plan.policy_terms.any()  # type: ignore[union-attr]


def test_good_answers_and_tiny_batches_have_no_protected_tokens() -> None:
    tokens = protected_batch()
    tokens.measured[RequiredTensor.PROXY_LOGPROBS][
        0, 9
    ] = -9.9  # the least likely token passes the filter as well
    for advantage, share in ((1.0, 0.5), (-1.0, 0.19)):  # floor(1.9) = 1 is below the minimum of 2
        plan = objectives({"type": "lp_reg", "share": share}).plan(
            tokens, torch.tensor([advantage]), 0.2, 0.2
        )
        assert not plan.policy_terms.any()  # type: ignore[union-attr]


def test_an_overflowing_gap_gives_a_finite_gradient() -> None:
    """e^d overflows, and the published clamp returns a NaN gradient."""
    tokens = protected_batch()
    logprobs = torch.full((1, 10), -2000.0, dtype=torch.float64, requires_grad=True)
    far = replace(
        tokens,
        logprobs=logprobs,
        measured={RequiredTensor.PROXY_LOGPROBS: torch.full((1, 10), -1.0)},
    )
    composed = objectives({"type": "lp_reg", "share": 0.5})
    plan = composed.plan(far, torch.tensor([-1.0]), 0.2, 0.2)
    assert plan.policy_terms is not None
    assert float(plan.policy_terms.max().detach()) == 10
    (gradient,) = torch.autograd.grad(plan.policy_terms.sum(), logprobs)
    assert bool(gradient.isfinite().all())


def test_measuring_in_pieces_equals_measuring_at_once() -> None:
    one = case()
    member = only("lp_reg")
    whole = member.measure(one.logits.detach(), one.ids)
    pieces = [member.measure(one.logits.detach()[:, t], one.ids[:, t]) for t in range(8)]
    torch.testing.assert_close(torch.stack(pieces, 1), whole)
