import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.training.objectives.batch import objectives, only, rollout
from training.objectives.core.batch import RolloutBatch
from training.objectives.groups.baselines import (
    cluster_shares,
    group_advantages,
    mean_cluster_surprisal,
)


def test_advantages_equal_those_of_grpo() -> None:
    batch = rollout([1.0, 0.0, 0.0, 1.0, 5.0, 5.0, 5.0, 5.0])
    std = torch.tensor([1.0, 0, 0, 1]).std()
    found = group_advantages(batch)
    assert found[:4, 0].tolist() == pytest.approx(
        [s * 0.5 / (float(std) + 1e-4) for s in (1, -1, -1, 1)], rel=1e-6
    )
    assert not found[4:].any()


@pytest.mark.parametrize("scale", ["batch", "none"])
def test_advantages_with_batch_scale_or_none_equal_the_formula(scale: str) -> None:
    rewards = torch.tensor([1.0, 0.0, 3.0, 2.0], dtype=torch.float64)
    batch = RolloutBatch(
        rewards=rewards,
        advantages=torch.zeros(4, 1, dtype=torch.float64),
        mask=torch.ones(4, 1, dtype=torch.bool),
        num_generations=2,
        scale_rewards=scale,  # type: ignore[arg-type]
    )
    divisor = float(rewards.std()) + 1e-4 if scale == "batch" else 1.0
    expected = [x / divisor for x in (0.5, -0.5, 0.5, -0.5)]
    assert group_advantages(batch)[:, 0].tolist() == pytest.approx(expected)


def test_a_sequence_without_reward_is_excluded_from_its_group() -> None:
    found = group_advantages(rollout([math.nan, 1.0, 0.0, 0.5]))
    scored = torch.tensor([1.0, 0.0, 0.5], dtype=torch.float64)
    expected = (scored - 0.5) / (scored.std() + 1e-4)
    assert found[0, 0] == 0
    torch.testing.assert_close(found[1:, 0], expected)
    assert not group_advantages(rollout([math.nan] * 4)).any()


def test_hard_prompts_weigh_more() -> None:
    """mu = -0.5 (1 of 4): weight 1.384; mu = 0.5: 1.128."""
    correct = torch.tensor([True, False, False, False, True, True, True, False])
    batch = rollout([0.0] * 8, correct=correct)
    found = objectives("hardness_weight").shape(batch).advantages[:, 0].tolist()
    assert found[:4] == pytest.approx([1.5 * 1.384] + [-0.5 * 1.384] * 3)
    assert found[4:] == pytest.approx([0.5 * 1.128] * 3 + [-1.5 * 1.128])


def test_prompts_with_only_right_answers_have_advantage_zero() -> None:
    batch = rollout([1.0] * 4, correct=torch.ones(4, dtype=torch.bool))
    assert not only("hardness_weight").shape_advantages(batch).any()


def test_cluster_shares_count_equal_answers_and_not_empty_ones() -> None:
    shares = cluster_shares(torch.tensor([[3, 3, 3, 1], [-1, -1, 2, 2], [-1, -1, -1, -1]]))
    assert shares.tolist() == [[0.75] * 3 + [0.25], [0.25, 0.25, 0.5, 0.5], [0.25] * 4]


@given(st.lists(st.integers(-1, 4), min_size=1, max_size=8))
def test_the_surprisal_is_averaged_over_clusters(answers: list[int]) -> None:
    """SE = -(1/K) sum ln p(C_k); a missing answer is a separate cluster."""
    found = float(mean_cluster_surprisal(cluster_shares(torch.tensor([answers])))[0])
    sizes = [answers.count(a) for a in set(answers) - {-1}] + [1] * answers.count(-1)
    expected = -sum(math.log(size / len(answers)) for size in sizes) / len(sizes)
    assert found == pytest.approx(expected, abs=1e-12)
    assert -1e-12 <= found <= math.log(len(answers)) + 1e-12


@pytest.mark.parametrize("answers", [[0, 0, 0, 0], [0, 1, 2, 3], [0, 0, 0, 1], [-1, -1, 2, 2]])
@pytest.mark.parametrize("settings", [{}, {"alpha": 0.5}, {"alpha": 0.0}])
def test_prompts_without_agreement_are_scaled_down_linearly(
    answers: list[int], settings: dict[str, float]
) -> None:
    batch = rollout([1.0, 0, 0, 0], answers=torch.tensor(answers))
    found = only({"type": "seed_grpo", **settings}).shape_advantages(batch)
    sizes = [answers.count(a) for a in set(answers) - {-1}] + [1] * answers.count(-1)
    entropy = -sum(math.log(size / 4) for size in sizes) / len(sizes)
    factor = 1 - settings.get("alpha", 0.02) * entropy / math.log(4)
    torch.testing.assert_close(found, factor * batch.advantages, atol=1e-12, rtol=1e-12)


def test_a_group_of_one_answer_is_supported() -> None:
    batch = rollout([1.0, 0.0], num_generations=1, answers=torch.tensor([0, 0]))
    assert torch.equal(only("seed_grpo").shape_advantages(batch), batch.advantages)


def canon(rewards: list[float], entropies: list[float], **settings: object) -> list[float]:
    """Advantages, with arbitrary values at padding."""
    lengths = [2, 1, 3, 2] * (len(rewards) // 4)
    batch = rollout(rewards, lengths=lengths)
    entropy = torch.where(batch.mask, torch.tensor(entropies)[:, None], torch.nan)
    full = rollout(rewards, lengths=lengths, old_entropy=entropy)
    found = only({"type": "canon", **settings}).shape_advantages(full)
    values: list[float] = found[:, 0].tolist()
    return values


def test_canon_with_mu_one_compares_across_the_halves() -> None:
    """Low half: rewards 1 and 0; high half: 1 and 1."""
    found = canon([1, 1, 0, 1], [0.1, 0.9, 0.2, 0.8])
    assert found == pytest.approx([1 - 1, 1 - 0.5, 0 - 1, 1 - 0.5])


def test_canon_with_mu_zero_compares_within_the_halves() -> None:
    found = canon([1, 1, 0, 1], [0.1, 0.9, 0.2, 0.8], mu=0.0)
    assert found == pytest.approx([0.5, 0, -0.5, 0])


def test_canon_with_mu_one_half_averages_both_comparisons() -> None:
    found = canon([1, 1, 0, 1], [0.1, 0.9, 0.2, 0.8], mu=0.5)
    assert found == pytest.approx([1 - 0.75, 1 - 0.75, 0 - 0.75, 1 - 0.75])


def test_canon_alpha_favors_one_half() -> None:
    found = canon([1, 1, 1, 1], [0.1, 0.9, 0.2, 0.8], alpha=0.9)
    assert found == pytest.approx([-0.1, 0.1, -0.1, 0.1])


def test_canon_needs_two_answers() -> None:
    batch = rollout([1.0], num_generations=1, old_entropy=torch.ones(1, 3))
    with pytest.raises(ValueError, match="num_generations"):
        only("canon").shape_advantages(batch)
