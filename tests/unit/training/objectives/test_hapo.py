import json
import math
from dataclasses import replace

import pytest
import torch

from probes.hapo_statistics import fit_hapo
from probes.laws import HapoStatistics
from tests.unit.training.objectives.batch import case, objectives, plan_of, rollout
from training.objectives.compose import Objectives
from training.objectives.hapo import standardized_entropy, token_group_advantages

# ln H = pivot + x std maps x = 2 to h = 1 and x = -4 to h = -1.
STATISTICS = HapoStatistics(0.0, 0.5, 0.5, -0.25)


def hapo(**settings: object) -> Objectives:
    composed = objectives({"type": "hapo", **settings})
    composed.load_state_dict({"hapo": STATISTICS._asdict()})
    return composed


def test_low_entropy_maps_to_negative_values() -> None:
    entropy = torch.tensor([1.0, -2.0, -1.0, 0.5, 3.0], dtype=torch.float64).exp()
    h = standardized_entropy(entropy, STATISTICS)
    assert h.tolist() == pytest.approx([1, -1, -0.5, 0.5, 1], abs=1e-4)


def test_the_group_average_weights_tokens_instead_of_sequences() -> None:
    """Rewards 1 and 0 with 1 and 3 tokens: mean 1/4, population std sqrt(3)/4."""
    batch = rollout([1.0, 0.0], lengths=[1, 3], num_generations=2)
    advantages = token_group_advantages(batch)
    std = math.sqrt(3) / 4
    assert advantages[0, 0] == pytest.approx(0.75 / std, rel=1e-5)
    assert advantages[1].tolist() == pytest.approx([-0.25 / std] * 3, rel=1e-5)


def test_the_token_mean_of_the_advantages_is_zero() -> None:
    batch = rollout([1.0, 0.0, 0.5, 1.0, 0.0, 0.2, 0.2, 0.9], lengths=[1, 3, 2, 5, 4, 1, 1, 2])
    advantages = token_group_advantages(batch) * batch.mask
    for group in range(2):
        rows = slice(4 * group, 4 * group + 4)
        assert advantages[rows].sum() == pytest.approx(0, abs=1e-5)
        squares = advantages[rows].square().sum() / batch.mask[rows].sum()
        assert squares == pytest.approx(1, rel=1e-4)


def test_an_extreme_group_keeps_its_sequence_advantages() -> None:
    """One short right answer among long wrong ones: |A| = sqrt(99) is above 5."""
    lengths = [1, 33, 33, 33, 2, 2, 2, 2]
    batch = rollout([1.0, 0, 0, 0, 1.0, 0, 0, 0], lengths=lengths)
    advantages = token_group_advantages(batch)
    assert torch.equal(advantages[:4], batch.advantages[:4])
    assert advantages[4, 0] == pytest.approx(math.sqrt(3), rel=1e-5)


def test_equal_and_missing_rewards_give_advantage_zero() -> None:
    equal = rollout([0.1] * 4, lengths=[1, 2, 3, 7])
    assert token_group_advantages(equal).abs().max() < 1e-6
    missing = rollout([math.nan, 1.0, 0.0, 0.0], lengths=[3, 1, 1, 1])
    found = token_group_advantages(missing)
    assert not found[0].any()
    assert found[1, 0] == pytest.approx(math.sqrt(2), rel=1e-5)


@pytest.mark.parametrize("clip", [False, True])
def test_hapo_equals_values_computed_by_hand(clip: bool) -> None:
    one = case(rows=20, lag=0.3)
    plan, tokens = plan_of(hapo(asymmetric_clip=clip, beta=0.5, alpha=0.5), one)
    seen = set()
    for i, t in one.mask.nonzero().tolist():
        x = math.log(float(tokens.entropy[i, t].detach())) / (0.5 + 1e-6)
        h = min(max(x * (0.5 if x > 0 else 0.25), -1), 1)
        low, high = 0.2, 0.28
        if clip and h <= 0:
            low *= 1 - 0.5 * h
        elif clip:
            high *= 1 + 0.5 * h
        ratio = float(tokens.ratio[i, t])
        neutral = 1 - low / 2 < ratio < 1 + high / 2
        changed = not neutral if h > 0 else neutral
        expected = float(one.advantages[i]) * (1 + 0.5 * h if changed else 1)
        assert float(plan.advantages[i, t]) == pytest.approx(expected, rel=1e-4)
        for limit, found in ((low, plan.epsilon_low), (high, plan.epsilon_high)):
            value = found if isinstance(found, float) else float(found[i, t])
            assert value == pytest.approx(limit, rel=1e-4)
        seen.add((h > 0, neutral))
    assert len(seen) == 4


def test_on_policy_only_low_entropy_advantages_are_reduced() -> None:
    one = case(lag=0.0)
    plan, tokens = plan_of(hapo(asymmetric_clip=False), one)
    scale = (plan.advantages / one.advantages[:, None])[one.mask]
    high = tokens.entropy.detach()[one.mask] > 1
    assert bool((scale[high] == 1).all())
    assert bool((scale[~high] < 1).all())
    assert scale.min() >= 0


def test_an_answer_without_tokens_does_not_make_its_group_extreme() -> None:
    """Its weight in the mean is 0, so its distance from the mean is not bounded."""
    advantages = token_group_advantages(rollout([99.0, 1.0, 0.0, 0.0], lengths=[0, 2, 2, 2]))
    assert advantages[1, 0] == pytest.approx(math.sqrt(2), rel=1e-5)


def test_entropies_rounded_below_zero_are_zero() -> None:
    composed = objectives("hapo")
    one = case()
    tokens = one.tokens()
    rounded = replace(tokens, entropy=torch.where(tokens.entropy < 1, -1e-8, tokens.entropy))
    composed.plan(rounded, one.advantages, 0.2, 0.28)
    composed.end_step()
    assert composed.state_dict()["hapo"]


def test_hapo_with_all_components_disabled_changes_nothing() -> None:
    off = hapo(token_average=False, redistribution=False, asymmetric_clip=False)
    one = case()
    plan, _ = plan_of(off, one)
    plain, _ = plan_of(objectives("none"), one)
    assert torch.equal(plan.advantages, plain.advantages)
    assert (plan.epsilon_low, plan.epsilon_high) == (0.2, 0.28)
    batch = rollout([1.0, 0, 0, 0])
    assert torch.equal(off.shape(batch).advantages, batch.advantages)


def test_the_first_step_is_unmodified_and_the_next_uses_its_statistics() -> None:
    composed = objectives("hapo")
    assert composed.state_dict() == {"hapo": {}}
    one, other = case(seed=1), case(seed=2)
    for micro_batch in (one, other):
        plan, _ = plan_of(composed, micro_batch)
        assert plan.epsilon_high == 0.28
    composed.end_step()
    entropies = torch.cat([c.tokens().entropy.detach()[c.mask] for c in (one, other)])
    expected = fit_hapo(entropies)._asdict()
    state = json.loads(json.dumps(composed.state_dict()))
    assert state["hapo"] == pytest.approx(expected)
    resumed = objectives("hapo")
    resumed.load_state_dict(state)
    assert resumed.state_dict() == state


def test_the_state_of_another_object_is_refused() -> None:
    with pytest.raises(ValueError, match="pivot"):
        objectives("hapo").load_state_dict({"hapo": {"anchor": 1.0}})
