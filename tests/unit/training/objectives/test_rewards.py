import math

import pytest
import torch

from tests.unit.training.objectives.batch import objectives, only, rollout


def empo(answers: list[int]) -> list[float]:
    batch = rollout([math.nan] * len(answers), answers=torch.tensor(answers))
    rewards: list[float] = only("empo").shape_rewards(batch).tolist()
    return rewards


def test_agreement_is_rewarded_without_a_grader() -> None:
    assert empo([2, 2, 2, 5]) == [0.75, 0.75, 0.75, 0.25]
    assert empo([1, 1, 1, 1]) == [1.0] * 4


def test_a_group_without_agreement_gets_nothing() -> None:
    assert empo([0, 1, 2, 3]) == [0.0] * 4


def test_empty_answers_get_nothing_and_do_not_agree_with_each_other() -> None:
    """As published, two empty answers form a cluster and keep a group without agreement alive."""
    assert empo([-1, -1, 0, 1]) == [0.0] * 4
    assert empo([-1, -1, 0, 0]) == [0.0, 0.0, 0.5, 0.5]
    assert empo([-1, -1, -1, -1]) == [0.0] * 4


def test_each_group_has_its_own_clusters() -> None:
    assert empo([0, 0, 0, 1, 0, 1, 2, 3]) == [0.75, 0.75, 0.75, 0.25] + [0.0] * 4


def test_a_question_is_worth_the_entropy_it_removes() -> None:
    """Four hypotheses to two is ln 2; to the same is 0; a lie can cost."""
    even, half, sure = [0.25] * 4, [0.5, 0.5, 0, 0], [1.0, 0, 0, 0]
    beliefs = torch.tensor([[even, half], [even, even], [half, even], [even, sure]])
    batch = rollout([1.0] * 4, beliefs=beliefs)
    ln2 = math.log(2)
    found = only("info_gain").shape_rewards(batch).tolist()
    assert found == pytest.approx([1 + ln2, 1, 1 - ln2, 1 + 2 * ln2])
    assert only({"type": "info_gain", "weight": 0.0}).shape_rewards(batch).tolist() == [1.0] * 4


def test_advantages_follow_the_shaped_rewards() -> None:
    beliefs = torch.tensor([[[0.5, 0.5], [1.0, 0.0]]] + [[[0.5, 0.5], [0.5, 0.5]]] * 3)
    shaped = objectives("info_gain").shape(rollout([0.0] * 4, beliefs=beliefs))
    assert shaped.advantages[0, 0] > 1
    assert shaped.advantages[:, 0].sum() == pytest.approx(0, abs=1e-12)
