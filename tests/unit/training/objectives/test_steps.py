"""Credit for steps and phrases: empg and hicra."""

import math

import pytest
import torch

from tests.unit.training.objectives.batch import only, rollout
from training.objectives.core.batch import RolloutBatch
from training.objectives.experimental.hicra import planning_mask


def two_answers(entropy: list[list[float]], steps: list[list[int]]) -> RolloutBatch:
    return rollout(
        [1.0, 0.0],
        lengths=[4, 3],
        num_generations=2,
        old_entropy=torch.tensor(entropy, dtype=torch.float64),
        steps=torch.tensor(steps),
    )


# Steps with mean entropy 0 and 1 (first answer) and 0.5 (second answer); 9 is padding.
BATCH = two_answers([[0, 0, 1, 1], [0.5, 0.5, 0.5, 9]], [[0, 0, 1, 1], [0, 0, 0, 7]])


def test_step_advantages_equal_values_computed_by_hand() -> None:
    found = only("empg").shape_advantages(BATCH)
    a = float(BATCH.advantages[0, 0])
    weights = [math.exp(-x) for x in (0.0, 1.0, 0.5)]
    g = [w / (sum(weights) / 3) for w in weights]
    raw = [a * g[0] + 0.1 * weights[1], a * g[1], -a * g[2]]
    center = sum(raw) / 3
    expected = [raw[0] - center] * 2 + [raw[1] - center] * 2
    assert found[0].tolist() == pytest.approx(expected, rel=1e-6)
    assert found[1, :3].tolist() == pytest.approx([raw[2] - center] * 3, rel=1e-6)


def test_confident_steps_gain_in_good_answers_and_lose_in_bad_answers() -> None:
    sharp = only({"type": "empg", "clarity": 0.0}).shape_advantages(BATCH)
    assert sharp[0, 0] > sharp[0, 2]
    confident_bad = two_answers([[1, 1, 1, 1], [0, 0, 1, 9]], [[0, 0, 1, 1], [0, 0, 1, 7]])
    found = only({"type": "empg", "clarity": 0.0}).shape_advantages(confident_bad)
    assert found[1, 0] < found[1, 2]


def test_without_sharpness_and_bonus_only_the_mean_over_steps_is_subtracted() -> None:
    neutral = only({"type": "empg", "sharpness": 0.0, "clarity": 0.0})
    found = neutral.shape_advantages(BATCH)
    a = float(BATCH.advantages[0, 0])
    torch.testing.assert_close(found[BATCH.mask], (BATCH.advantages - a / 3)[BATCH.mask])


def test_tokens_outside_any_step_keep_their_advantage() -> None:
    outside = two_answers([[0, 0, 1, 1], [1, 1, 1, 1]], [[-1, 0, 0, 0], [-1, -1, -1, -1]])
    found = only("empg").shape_advantages(outside)
    assert found[0, 0] == outside.advantages[0, 0]
    assert torch.equal(found[1], outside.advantages[1])
    nothing = two_answers([[0, 0, 1, 1], [1, 1, 1, 1]], [[-1] * 4] * 2)
    assert torch.equal(only("empg").shape_advantages(nothing), nothing.advantages)


def test_equal_steps_give_finite_advantages() -> None:
    equal = two_answers([[1] * 4] * 2, [[0, 0, 1, 1], [0, 0, 0, 0]])
    assert bool(only("empg").shape_advantages(equal).isfinite().all())


def test_phrases_are_found_at_every_position_and_may_overlap() -> None:
    ids = torch.tensor([[5, 1, 2, 3, 9], [1, 2, 1, 2, 3], [1, 2, 9, 3, 1]])
    found = planning_mask(ids, [[1, 2, 3], [9], [], [7] * 6])
    assert found.int().tolist() == [[0, 1, 1, 1, 1], [0, 0, 1, 1, 1], [0, 0, 1, 0, 0]]


def test_planning_tokens_get_a_larger_advantage() -> None:
    planning = torch.tensor([[True, False, False], [True, False, False]])
    batch = rollout([1.0, 0.0], num_generations=2, planning=planning)
    found = only("hicra").shape_advantages(batch)
    a = float(batch.advantages[0, 0])
    assert found[0].tolist() == pytest.approx([1.2 * a, a, a])
    assert found[1].tolist() == pytest.approx([-0.8 * a, -a, -a])
    off = only({"type": "hicra", "alpha": 0.0}).shape_advantages(batch)
    assert torch.equal(off, batch.advantages)
