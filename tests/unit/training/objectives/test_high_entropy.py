import pytest
import torch
from pydantic import ValidationError

from tests.unit.training.objectives.batch import case, objectives, plan_of


def test_the_share_of_tokens_with_the_highest_entropy_is_kept() -> None:
    one = case(rows=20)
    plan, tokens = plan_of(objectives("high_entropy_mask"), one)
    kept = plan.weight[one.mask] == 1
    entropy = tokens.entropy.detach()[one.mask]
    assert float(kept.double().mean()) == pytest.approx(0.2, abs=0.02)
    assert entropy[kept].min() > entropy[~kept].max()
    assert set(plan.weight.flatten().tolist()) == {0.0, 1.0}
    # The denominator does not change: no token has a larger weight than before.


def test_a_quantile_of_one_changes_nothing() -> None:
    plan, _ = plan_of(
        objectives({"type": "high_entropy_mask", "top_entropy_quantile": 1.0}), case()
    )
    assert bool((plan.weight[case().mask] == 1).all())


def test_tokens_of_equal_entropy_are_all_kept() -> None:
    one = case()
    flat = one._replace(logits=torch.zeros_like(one.logits, requires_grad=True))
    plan, _ = plan_of(objectives("high_entropy_mask"), flat)
    assert bool((plan.weight[one.mask] == 1).all())


def test_the_bonus_is_entropy_capped_by_the_advantage() -> None:
    one = case()
    plan, tokens = plan_of(objectives("entropy_advantage"), one)
    for row, column in one.mask.nonzero().tolist():
        a, h = float(one.advantages[row]), float(tokens.entropy[row, column].detach())
        assert float(plan.advantages[row, column]) == pytest.approx(a + min(0.4 * h, abs(a) / 2))
    assert not plan.advantages.requires_grad


def test_the_bonus_never_flips_the_sign_of_an_advantage() -> None:
    one = case()
    plan, _ = plan_of(objectives({"type": "entropy_advantage", "alpha": 100.0}), one)
    before = one.advantages[:, None].expand(one.mask.shape)[one.mask]
    assert torch.equal(plan.advantages[one.mask].sign(), before.sign())


def test_kappa_one_cancels_the_penalty_on_uncertain_tokens() -> None:
    """The baseline of the SIREN code behaves like this; the default is 2."""
    one = case()
    strong = {"type": "entropy_advantage", "alpha": 100.0, "kappa": 1.0}
    plan, _ = plan_of(objectives(strong), one)
    assert plan.advantages[one.mask & (one.advantages < 0)[:, None]].abs().max() == 0
    with pytest.raises(ValidationError, match="kappa"):
        objectives({"type": "entropy_advantage", "kappa": 0.5})
