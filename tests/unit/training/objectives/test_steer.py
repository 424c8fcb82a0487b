import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from tests.unit.training.objectives.batch import Case, case, objectives, plan_of
from training.objectives.steer import entropy_change


def changes(one: Case) -> torch.Tensor:
    """|Omega| of each token, computed in a loop."""
    tokens = one.tokens()
    result = torch.full(one.mask.shape, -1.0, dtype=torch.float64)
    for i, t in one.mask.nonzero().tolist():
        p = math.exp(float(tokens.logprobs[i, t].detach()))
        old = math.exp(float(tokens.old_logprobs[i, t]))
        h = float(tokens.entropy[i, t].detach())
        result[i, t] = abs(float(one.advantages[i]) / old * p * (1 - p) * (math.log(p) + h))
    return result


def test_omega_equals_its_closed_form_on_policy() -> None:
    """A (1 - p) (ln p + H), with p = 1/2 of two equal tokens, and of one token and many others."""
    half = torch.tensor(0.5, dtype=torch.float64).log()
    ln2, a = math.log(2), torch.tensor(3.0, dtype=torch.float64)
    assert entropy_change(half, half, torch.tensor(ln2, dtype=torch.float64), a) == pytest.approx(
        0, abs=1e-12
    )
    omega = entropy_change(half, half, torch.tensor(2 * ln2, dtype=torch.float64), a)
    assert omega == pytest.approx(3 * 0.5 * ln2)


def test_omega_is_not_squared() -> None:
    """The published code names a variable a square but does not square it."""
    p, old, h, a = (torch.tensor(x, dtype=torch.float64) for x in (0.3, 0.2, 1.1, -2.0))
    omega = entropy_change(p.log(), old.log(), h, a)
    assert float(omega) == pytest.approx(-2 / 0.2 * 0.3 * 0.7 * (math.log(0.3) + 1.1))


def test_omega_predicts_the_change_of_the_entropy() -> None:
    """With a positive Omega, a step along A grad(logprob) lowers H; the sign follows that of A."""
    one = case(rows=50, length=4, lag=0.0)
    tokens = one.tokens()
    advantages = one.advantages[:, None].expand(one.mask.shape)
    omega = entropy_change(tokens.logprobs, tokens.old_logprobs, tokens.entropy, advantages)
    update = torch.autograd.grad((tokens.logprobs * advantages).sum(), one.logits)[0]
    after = one._replace(logits=one.logits.detach() + 1e-4 * update).tokens().entropy
    change = (after - tokens.entropy).detach()[one.mask]
    predicted = -omega[one.mask]
    together = torch.corrcoef(torch.stack([change, predicted]))[0, 1]
    assert together > 0.7


def test_impossible_and_certain_tokens_give_finite_values() -> None:
    lp = torch.tensor([-200.0, 0.0, -1.0, -torch.inf])
    omega = entropy_change(lp, lp, torch.tensor([1.0, 0.0, torch.nan, 1.0]), torch.ones(4))
    assert bool(omega.isfinite().all())
    assert omega[2] == 0


def test_the_exponential_map_reaches_its_minimum_at_the_largest_change() -> None:
    one = case()
    plan, _ = plan_of(objectives("steer"), one)
    change = changes(one)
    decay = -math.log(0.8) / float(change.max())
    expected = (-decay * change[one.mask]).exp()
    torch.testing.assert_close(plan.weight[one.mask], expected)
    assert float(plan.weight.min()) == pytest.approx(0.8)
    assert bool((plan.weight[~one.mask] == 1).all())


def test_tiny_changes_are_not_amplified() -> None:
    one = case()
    plan, _ = plan_of(objectives("steer"), one._replace(advantages=one.advantages * 1e-4))
    assert float(plan.weight.min()) > 0.98


def test_the_linear_map_spans_weight_min_to_weight_max() -> None:
    one = case()
    config = {"type": "steer", "map": "linear", "weight_min": 0.8, "weight_max": 1.2}
    plan, _ = plan_of(objectives(config), one)
    change = changes(one)[one.mask]
    share = (change - change.min()) / (change.max() - change.min())
    torch.testing.assert_close(plan.weight[one.mask], 1.2 - 0.4 * share)
    assert float(plan.weight[one.mask].max()) == pytest.approx(1.2)


def test_the_linear_map_of_equal_changes_returns_the_midpoint() -> None:
    one = case()
    config = {"type": "steer", "map": "linear", "weight_min": 0.8, "weight_max": 1.4}
    plan, _ = plan_of(objectives(config), one._replace(advantages=torch.zeros(6)))
    torch.testing.assert_close(plan.weight[one.mask], torch.full_like(plan.weight[one.mask], 1.1))


def test_a_weight_above_one_needs_the_linear_map() -> None:
    with pytest.raises(ValidationError, match="is not supported"):
        objectives({"type": "steer", "weight_max": 1.2})


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10_000), low=st.floats(0.05, 1.0))
def test_weights_stay_in_their_range(seed: int, low: float) -> None:
    one = case(seed, lag=1.0)
    plan, _ = plan_of(objectives({"type": "steer", "weight_min": low}), one)
    assert plan.weight.min() >= low - 1e-12
    assert plan.weight.max() <= 1
    assert not plan.weight.requires_grad
