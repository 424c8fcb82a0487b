"""Laws that hold for every objective, parametrized over all of them."""

import json
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.training.objectives.batch import (
    Case,
    case,
    loss_and_gradient,
    objectives,
    on_ranks,
    plan_of,
    rollout,
    trainer_loss,
)
from training.objectives.compose import Objectives
from training.objectives.configs import EntropyBonusConfig
from training.objectives.core.batch import LossPlan, MicroBatch
from training.objectives.core.controller import Actuator
from training.objectives.core.distributed import Ranks
from training.objectives.core.requirements import RequiredTensor
from training.objectives.registry import OBJECTIVES, build_objective

# Settings under which every objective changes the loss of a few dozen tokens.
ACTIVE: dict[str, dict[str, Any]] = {
    "clip_cov": {"share": 0.2, "covariance_min": -9.0, "covariance_max": 9.0},
    "kl_cov": {"share": 0.2},
    "lp_reg": {"share": 0.8, "kappa": 0.001},
    "siren": {"peak_quantile": 0.5, "top_p": 0.95, "entropy_coef": 0.5},
}
ON_TOKENS = [
    "entropy_bonus",
    "adaptive_entropy",
    "target_entropy",
    "high_entropy_mask",
    "entropy_advantage",
    "clip_cov",
    "kl_cov",
    "tea_rl",
    "steer",
    "lp_reg",
    "siren",
    "epo",
    "hapo",
    "soft_clip_high_entropy",
]
# Objectives with neither a random choice nor a statistic of the micro-batch.
ACCUMULATES = [
    "none",
    "entropy_bonus",
    "adaptive_entropy",
    "target_entropy",
    "entropy_advantage",
    "epo",
    "hapo",
    "soft_clip_high_entropy",
]
each = pytest.mark.parametrize("name", ON_TOKENS)


def warm(name: str, **settings: Any) -> Objectives:
    """The objective after one optimizer step, from which on every objective has an effect."""
    composed = objectives({"type": name, **ACTIVE.get(name, {}), **settings})
    state: dict[str, dict[str, Any]] = {
        "adaptive_entropy": {"coefficient": 0.1, "entropy": 0.1},
        "target_entropy": {"entropy": 1.7},
        "siren": {"anchor": 0.3},
        "epo": {"num_steps": 3, "entropy": 1.1},
        "hapo": {"pivot": 0.1, "std": 0.5, "scale_positive": 0.6, "scale_negative": -0.4},
    }
    if name in state:
        composed.load_state_dict({name: state[name]})
    torch.manual_seed(1)  # for the random choice of clip_cov
    return composed


def value(plan: LossPlan, tokens: MicroBatch) -> float:
    return float(trainer_loss(plan, tokens).detach())


def test_the_list_of_token_level_objectives_is_complete() -> None:
    assert [name for name in OBJECTIVES if objectives(name).acts_on_tokens] == ON_TOKENS


def test_none_gives_the_unmodified_loss() -> None:
    one = case()
    plan, tokens = plan_of(objectives("none"), one)
    assert (plan.epsilon_low, plan.epsilon_high) == (0.2, 0.28)
    assert plan.policy_terms is plan.mean_terms is plan.scalar is None
    assert bool((plan.weight == 1).all())
    expected = one.advantages[:, None].expand(one.mask.shape) * one.mask
    assert torch.equal(plan.advantages, expected)
    assert tokens.ratio.max() > 1.28  # some ratios are outside the clip range


@each
def test_every_objective_changes_the_gradient(name: str) -> None:
    """Each objective changes the gradient, not only the reported loss."""
    one = case()
    _, plain = loss_and_gradient(objectives("none"), one)
    _, changed = loss_and_gradient(warm(name), one)
    assert not torch.allclose(plain, changed, atol=1e-7, rtol=0)
    assert bool(changed.isfinite().all())


@each
def test_the_gradient_is_the_derivative_of_the_loss(name: str) -> None:
    """Compared with finite differences; inputs documented as without gradient are constant."""
    one = case(rows=3, length=4)
    plan, tokens = plan_of(warm(name), one)
    loss = trainer_loss(plan, tokens)
    (gradient,) = torch.autograd.grad(loss, one.logits)
    held = replace(plan, policy_terms=None, mean_terms=None, scalar=None)

    def at(logits: torch.Tensor) -> float:
        moved = one._replace(logits=logits)
        new, there = plan_of(warm(name), moved)
        frozen = replace(
            held, policy_terms=new.policy_terms, mean_terms=new.mean_terms, scalar=new.scalar
        )
        return value(frozen, there)

    generator = torch.Generator().manual_seed(3)
    for _ in range(3):
        direction = torch.randn(one.logits.shape, generator=generator, dtype=torch.float64)
        width = 1e-6
        above, below = (at(one.logits.detach() + s * width * direction) for s in (1, -1))
        assert (above - below) / (2 * width) == pytest.approx(
            float((gradient * direction).sum()), abs=1e-6, rel=1e-5
        )


@each
@pytest.mark.parametrize("junk", [0.0, 7.0, float("nan"), float("inf")])
def test_values_at_padding_are_ignored(name: str, junk: float) -> None:
    one = case()
    plan, tokens = plan_of(warm(name), one)
    wider = Case(*(torch.cat([x, x[:, :3]], 1) if x.dim() > 1 else x for x in one))
    mask = torch.cat([one.mask, torch.zeros(len(one.mask), 3, dtype=torch.bool)], 1)
    raw = wider._replace(mask=mask).tokens()
    soiled = replace(
        raw,
        logprobs=torch.where(mask, raw.logprobs, junk),
        entropy=torch.where(mask, raw.entropy, junk),
        old_logprobs=torch.where(mask, raw.old_logprobs, junk),
        measured={need: torch.where(mask, x, junk) for need, x in raw.measured.items()},
    )
    composed = warm(name)
    if name == "clip_cov":  # another order assigns its random numbers to other tokens
        composed = warm(name, share=1.0)
        plan, tokens = plan_of(warm(name, share=1.0), one)
    padded = composed.plan(soiled, one.advantages, 0.2, 0.28)
    clean = soiled.without_padding()
    assert value(padded, clean) == pytest.approx(value(plan, tokens), abs=1e-12)
    assert composed.end_step() == pytest.approx(_closed(name, one), abs=1e-12)


def _closed(name: str, one: Case) -> Any:
    composed = warm(name)
    plan_of(composed, one)
    return composed.end_step()


@each
def test_the_order_of_sequences_does_not_matter(name: str) -> None:
    one = case()
    order = torch.tensor([3, 1, 5, 0, 4, 2])
    shuffled = Case(*(x.detach()[order] for x in one))
    settings = {"share": 1.0} if name == "clip_cov" else {}
    losses = [value(*plan_of(warm(name, **settings), each_case)) for each_case in (one, shuffled)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-12)


@each
def test_two_processes_give_the_same_result_as_one(name: str) -> None:
    """Loss and gradient are those of the whole batch if each process has half of it."""
    one = case()
    settings = {"share": 1.0} if name == "clip_cov" else {}
    loss, gradient = loss_and_gradient(warm(name, **settings), one)
    together = warm(name, **settings)
    plan_of(together, one)
    measured = together.end_step()
    num_tokens = float(one.mask.sum())

    def work(part: Case, ranks: Ranks) -> Any:
        composed = warm(name, **settings)
        plan, tokens = plan_of(composed, part, ranks)
        # The trainer averages over processes; the number of tokens is that of all processes.
        own = trainer_loss(plan, tokens, num_tokens / ranks.size)
        (own_gradient,) = torch.autograd.grad(own, part.logits)
        return own.detach(), own_gradient / ranks.size, composed.end_step(ranks), composed

    parts = [one.rows(slice(0, 2)), one.rows(slice(2, 6))]
    results = on_ranks(parts, work)
    torch.testing.assert_close(sum(r[0] for r in results) / 2, loss)
    torch.testing.assert_close(torch.cat([r[1] for r in results]), gradient)
    for _, _, own_step, composed in results:
        assert own_step == pytest.approx(measured)
        found, expected = composed.state_dict()[name], together.state_dict()[name]
        assert found == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("name", ACCUMULATES)
def test_accumulating_gradients_changes_nothing(name: str) -> None:
    one = case()
    _, whole = loss_and_gradient(warm(name), one)
    together, apart = warm(name), warm(name)
    plan_of(together, one)
    gradients = []
    for part in (slice(0, 1), slice(1, 6)):
        piece = one.rows(part)
        plan, tokens = plan_of(apart, piece)
        loss = trainer_loss(plan, tokens, float(one.mask.sum()), 2)
        gradients.append(torch.autograd.grad(loss, piece.logits)[0])
    torch.testing.assert_close(torch.cat(gradients), whole)
    assert apart.end_step() == pytest.approx(together.end_step())
    assert apart.state_dict()[name] == pytest.approx(together.state_dict()[name])


@pytest.mark.parametrize("name", [name for name in OBJECTIVES if name != "hapo"])
def test_state_survives_a_json_round_trip(name: str) -> None:
    written = build_objective(objectives(name).members[name].config)  # type: ignore[arg-type]
    for attribute in written.state:
        setattr(written, attribute, 0.625)
    read = objectives(name).members[name]
    read.load_state_dict(json.loads(json.dumps(written.state_dict())))
    assert read.state_dict() == written.state_dict() == dict.fromkeys(written.state, 0.625)
    with pytest.raises(ValueError, match="expected the state"):
        read.load_state_dict({**written.state_dict(), "alien": 1.0})


def test_a_resumed_run_equals_an_uninterrupted_run() -> None:
    names = ("hapo", "target_entropy", "dcpo")
    straight, first = objectives(*names), objectives(*names)
    for composed in (straight, first):
        plan_of(composed, case(seed=1))
        composed.end_step()
    resumed = objectives(*names)
    resumed.load_state_dict(json.loads(json.dumps(first.state_dict())))
    expected, found = (loss_and_gradient(c, case(seed=2)) for c in (straight, resumed))
    assert torch.equal(expected[1], found[1])


def test_state_of_other_objectives_is_refused() -> None:
    with pytest.raises(ValueError, match="written with objectives"):
        objectives("steer").load_state_dict(objectives("epo").state_dict())


def test_a_step_reports_entropy_surprisal_and_covariance() -> None:
    one = case(lag=0.0)
    composed = objectives("none")
    for part in (slice(0, 2), slice(2, 6)):
        plan_of(composed, one.rows(part))
    found = composed.end_step()
    tokens = one.tokens()
    lp, h = (x.detach()[one.mask] for x in (tokens.logprobs, tokens.entropy))
    a = one.advantages[:, None].expand(one.mask.shape)[one.mask]
    assert found.num_tokens == int(one.mask.sum())
    assert found.entropy == pytest.approx(float(h.mean()))
    assert found.surprisal == pytest.approx(-float(lp.mean()))
    assert found.covariance == pytest.approx(float(((lp - lp.mean()) * (a - a.mean())).mean()))
    omega = a * (1 - lp.exp()) * (lp + h)
    assert found.predicted_change == pytest.approx(float(omega.mean()))
    with pytest.raises(RuntimeError, match="before plan"):
        composed.end_step()


def test_objectives_are_applied_in_the_order_of_the_list() -> None:
    one = case()
    both, swapped = (
        objectives("steer", "entropy_advantage"),
        objectives("entropy_advantage", "steer"),
    )
    weights = [plan_of(c, one)[0].weight for c in (objectives("steer"), both, swapped)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])  # STEER receives the raised advantages


@pytest.mark.parametrize("baseline", ["canon", "hapo", "hardness_weight"])
@pytest.mark.parametrize("other", ["seed_grpo", "hicra"])
def test_a_baseline_is_applied_before_other_objectives(baseline: str, other: str) -> None:
    generator = torch.Generator().manual_seed(0)
    batch = rollout([1, 0, 0, 1], correct=torch.tensor([True, False, False, True]))
    measured = {
        RequiredTensor.ANSWERS: torch.tensor([0, 1, 2, 0]),
        RequiredTensor.OLD_ENTROPY: torch.rand(batch.mask.shape, generator=generator),
        RequiredTensor.OLD_LOGPROBS: -torch.rand(batch.mask.shape, generator=generator),
        RequiredTensor.PLANNING: torch.rand(batch.mask.shape, generator=generator) < 0.5,
        **batch.measured,
    }
    batch = replace(batch, measured=measured)
    alone, one, swapped = (
        objectives(*names).shape(batch).advantages
        for names in ((baseline,), (baseline, other), (other, baseline))
    )
    assert torch.equal(one, swapped)
    assert one.shape != alone.shape or not torch.equal(one, alone)


def test_loss_terms_are_added() -> None:
    one = case()
    plan, _ = plan_of(objectives("steer", "target_entropy", "kl_cov"), one)
    assert plan.mean_terms is not None
    assert plan.policy_terms is not None
    assert plan.weight.min() < 1
    alone, _ = plan_of(objectives("target_entropy"), one)
    assert torch.equal(plan.mean_terms, torch.as_tensor(alone.mean_terms))
    assert {"entropy_coef", "kl_cov_share", "entropy_change_max"} <= set(plan.metrics)


def test_advantages_are_recomputed_only_if_rewards_changed() -> None:
    batch = rollout([1, 0, 0, 1], correct=torch.tensor([True, False, False, True]))
    marked = replace(batch, advantages=batch.advantages + 5)
    assert torch.equal(objectives("none").shape(marked).advantages, marked.advantages)
    answers = torch.tensor([0, 0, 0, 1])
    consensus = replace(marked, measured={RequiredTensor.ANSWERS: answers})
    shaped = objectives("empo").shape(consensus)
    assert shaped.rewards.tolist() == [0.75, 0.75, 0.75, 0.25]
    assert shaped.advantages[:, 0].sum() == pytest.approx(0, abs=1e-12)


def test_the_controller_drives_the_objective_that_has_the_actuator() -> None:
    one = case()
    driven = Objectives([EntropyBonusConfig(entropy_coef=0.0)], Actuator.COEFFICIENT)
    driven.set_controller_output(-0.02)
    plan, tokens = plan_of(driven, one)
    assert plan.mean_terms is not None
    torch.testing.assert_close(plan.mean_terms, 0.02 * tokens.entropy)
    other = Objectives([EntropyBonusConfig(entropy_coef=0.0)], Actuator.TEMPERATURE)
    other.set_controller_output(-0.02)
    assert not torch.as_tensor(plan_of(other, one)[0].mean_terms).any()


@settings(deadline=None, max_examples=25)
@given(
    seed=st.integers(0, 10_000), name=st.sampled_from(ON_TOKENS), scale=st.sampled_from([0.1, 30])
)
def test_extreme_distributions_give_finite_gradients(seed: int, name: str, scale: float) -> None:
    loss, gradient = loss_and_gradient(warm(name), case(seed, scale=scale, lag=2.0))
    assert bool(loss.isfinite())
    assert bool(gradient.isfinite().all())


@each
def test_single_precision_is_supported(name: str) -> None:
    one = case()
    tokens = one.tokens()
    single = replace(
        tokens,
        logprobs=tokens.logprobs.float(),
        entropy=tokens.entropy.float(),
        old_logprobs=tokens.old_logprobs.float(),
        measured={need: x.float() for need, x in tokens.measured.items()},
    )
    settings = (
        {"share": 1.0} if name == "clip_cov" else {}
    )  # its random choice depends on the precision
    plan = warm(name, **settings).plan(single, one.advantages.float(), 0.2, 0.28)
    assert plan.advantages.dtype == torch.float32
    plain, there = plan_of(warm(name, **settings), one)
    assert value(plan, single.without_padding()) == pytest.approx(value(plain, there), rel=1e-3)


@each
def test_a_batch_without_tokens_is_supported(name: str) -> None:
    one = case()._replace(mask=torch.zeros(6, 8, dtype=torch.bool))
    composed = warm(name)
    plan, tokens = plan_of(composed, one)
    assert bool(trainer_loss(plan, tokens, 1.0).detach().isfinite())
    assert composed.end_step().num_tokens == 0


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_sampled_token_of_probability_zero_leaves_no_infinity_in_a_checkpoint(name: str) -> None:
    one = case()
    logits = one.logits.detach().clone()
    logits[0, 0, one.ids[0, 0]] = -torch.inf
    composed = objectives({"type": name})
    plan_of(composed, one._replace(logits=logits.requires_grad_()))
    composed.end_step()
    json.dumps(composed.state_dict(), allow_nan=False)
