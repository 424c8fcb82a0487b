import math

import pytest
import torch

from tests.unit.training.objectives.batch import objectives, only, rollout


def empo(answers: list[int]) -> list[float]:
    batch = rollout([math.nan] * len(answers), answers=torch.tensor(answers))
    rewards: list[float] = only("empo").shape_rewards(batch).tolist()
    return rewards


def test_empo_rewards_agreement_without_a_grader() -> None:
    assert empo([2, 2, 2, 5]) == [0.75, 0.75, 0.75, 0.25]
    assert empo([1, 1, 1, 1]) == [1.0] * 4


def test_a_group_without_agreement_gets_reward_zero() -> None:
    assert empo([0, 1, 2, 3]) == [0.0] * 4


def test_empty_answers_get_reward_zero_and_do_not_match_each_other() -> None:
    """In the published code, two empty answers match each other."""
    assert empo([-1, -1, 0, 1]) == [0.0] * 4
    assert empo([-1, -1, 0, 0]) == [0.0, 0.0, 0.5, 0.5]
    assert empo([-1, -1, -1, -1]) == [0.0] * 4


def test_clusters_do_not_cross_groups() -> None:
    assert empo([0, 0, 0, 1, 0, 1, 2, 3]) == [0.75, 0.75, 0.75, 0.25] + [0.0] * 4


def test_information_gain_is_the_entropy_that_a_question_removes() -> None:
    """From four hypotheses to two: ln 2; no change: 0; a wrong answer can be negative."""
    even, half, sure = [0.25] * 4, [0.5, 0.5, 0, 0], [1.0, 0, 0, 0]
    beliefs = torch.tensor([[even, half], [even, even], [half, even], [even, sure]])
    batch = rollout([1.0] * 4, beliefs=beliefs)
    ln2 = math.log(2)
    found = only("info_gain").shape_rewards(batch).tolist()
    assert found == pytest.approx([1 + ln2, 1, 1 - ln2, 1 + 2 * ln2])
    assert only({"type": "info_gain", "weight": 0.0}).shape_rewards(batch).tolist() == [1.0] * 4


def test_advantages_are_recomputed_from_shaped_rewards() -> None:
    beliefs = torch.tensor([[[0.5, 0.5], [1.0, 0.0]]] + [[[0.5, 0.5], [0.5, 0.5]]] * 3)
    shaped = objectives("info_gain").shape(rollout([0.0] * 4, beliefs=beliefs))
    assert shaped.advantages[0, 0] > 1
    assert shaped.advantages[:, 0].sum() == pytest.approx(0, abs=1e-12)
