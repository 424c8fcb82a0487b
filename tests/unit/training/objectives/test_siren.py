import math
from dataclasses import replace

import pytest
import torch

from tests.unit.training.objectives.batch import case, objectives, only, plan_of, step, trainer_loss
from training.objectives.core.distributed import SingleProcess
from training.objectives.core.requirements import RequiredTensor
from training.objectives.siren import nucleus_entropy

SKEWED = torch.tensor([0.4, 0.3, 0.2, 0.1], dtype=torch.float64).log()


def entropy(*probabilities: float) -> float:
    total = sum(probabilities)
    return -sum(p / total * math.log(p / total) for p in probabilities)


@pytest.mark.parametrize(
    ("top_p", "kept"),
    [
        (0.8, (0.4, 0.3)),  # 0.2 crosses 0.8 and is dropped
        (0.35, (0.4,)),  # one token is always kept
        (0.91, (0.4, 0.3, 0.2)),
        (0.95, (0.4, 0.3, 0.2)),
    ],
)
def test_the_nucleus_ends_before_the_token_that_crosses(
    top_p: float, kept: tuple[float, ...]
) -> None:
    found = float(nucleus_entropy(SKEWED, top_p, 10_000))
    assert found == pytest.approx(entropy(*kept), abs=1e-6)


def test_a_confident_token_has_zero_nucleus_entropy_and_gradient() -> None:
    logits = torch.tensor([5.0, 0.0, 0.0], requires_grad=True)
    value = nucleus_entropy(logits, 0.8, 10_000)
    assert value.item() == 0
    (gradient,) = torch.autograd.grad(value, logits)
    assert not gradient.any()


def test_top_k_above_the_vocabulary_keeps_all_tokens_and_below_truncates() -> None:
    """The published code requires a vocabulary of at least 10,000 tokens."""
    assert float(nucleus_entropy(SKEWED, 0.95, 2)) == pytest.approx(entropy(0.4, 0.3), abs=1e-6)


def anchored(anchor: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Term, H_sel and entropies of two sequences with known peaks."""
    nucleus = torch.tensor(
        [[0.1, 0.2, 0.3, 0.4, 2.0], [0.5, 1.5, 0.0, 9.0, 9.0]],
        dtype=torch.float64,
        requires_grad=True,
    )
    mask = torch.tensor([[True] * 5, [True, True, False, False, False]])
    composed = objectives("siren")
    composed.load_state_dict({"siren": {"anchor": anchor}})
    one = case(rows=2, length=5)._replace(mask=mask)
    tokens = replace(one.tokens(), measured={RequiredTensor.NUCLEUS_ENTROPY: nucleus})
    plan = composed.plan(tokens, one.advantages, 0.2, 0.2)
    assert plan.scalar is not None
    return plan.scalar, plan.metrics["siren_entropy"], nucleus


def test_peaks_are_per_sequence_and_exclude_padding() -> None:
    """The peaks are 2.0 in the first sequence and 1.5 in the second, where 9.0 is padding."""
    term, selected, nucleus = anchored(1.0)
    assert float(selected) == pytest.approx((2.0 + 1.5) / 2)
    assert float(term.detach()) == pytest.approx(0.005 * 0.75**2)
    (gradient,) = torch.autograd.grad(term, nucleus)
    expected = torch.zeros(2, 5, dtype=torch.float64)
    expected[0, 4] = expected[1, 1] = 2 * 0.005 * 0.75 / 2
    torch.testing.assert_close(gradient, expected)


def test_the_gradient_points_to_the_anchor_from_both_sides() -> None:
    for anchor, sign in ((1.0, 1), (3.0, -1)):
        term, _, nucleus = anchored(anchor)
        (gradient,) = torch.autograd.grad(term, nucleus)
        assert gradient.sum().sign() == sign


def test_the_anchor_is_set_in_the_first_step_and_does_not_change() -> None:
    member, composed = only("siren"), objectives("siren")
    plan, _ = plan_of(composed, case(seed=1))
    other, _ = plan_of(composed, case(seed=2))
    assert plan.scalar is other.scalar is None
    composed.end_step()
    first = [float(p.metrics["siren_entropy"]) for p in (plan, other)]
    assert composed.state_dict()["siren"]["anchor"] == pytest.approx(sum(first) / 2)
    plan_of(composed, case(seed=3))
    composed.end_step()
    assert composed.state_dict()["siren"]["anchor"] == pytest.approx(sum(first) / 2)
    member.on_step_end(step(), SingleProcess())
    assert member.anchor is None


def test_without_peaks_no_term_is_added() -> None:
    one = case(rows=2, length=3)
    composed = objectives("siren")
    composed.load_state_dict({"siren": {"anchor": 1.0}})
    flat = torch.ones(2, 3, dtype=torch.float64)
    tokens = replace(one.tokens(), measured={RequiredTensor.NUCLEUS_ENTROPY: flat})
    plan = composed.plan(tokens, one.advantages, 0.2, 0.2)
    assert plan.scalar is None
    assert bool(trainer_loss(plan, tokens).detach().isfinite())
