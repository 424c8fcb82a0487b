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


def pear(**settings: object) -> list[float]:
    """Thinking entropies (0.6, 0.2), answer 0.1; then all thinking; all answer; a wrong one."""
    entropy = torch.tensor([[0.6, 0.2, 0.1], [0.3, 0.3, 9], [2, 2, 2], [5, 5, 0.1]])
    thinking = torch.tensor(
        [[True, True, False], [True, True, True], [False] * 3, [True, True, False]]
    )
    batch = rollout(
        [1.0, 1.0, 1.0, 0.2],
        lengths=[3, 2, 3, 3],
        old_entropy=entropy.double(),
        thinking=thinking,
        correct=torch.tensor([True, True, True, False]),
    )
    rewards: list[float] = only({"type": "pear", **settings}).shape_rewards(batch).tolist()
    return rewards


def test_excess_entropy_of_the_thinking_phase_costs_right_answers() -> None:
    assert pear() == pytest.approx([1 - (0.4 - 0.1), 1 - 0.3, 1.0, 0.2])
    assert pear(alpha=2.0)[0] == pytest.approx(1 - (0.4 - 0.2))


def test_a_right_answer_is_never_worth_less_than_nothing() -> None:
    batch = rollout(
        [1.0] * 4,
        old_entropy=torch.full((4, 3), 7.0),
        thinking=torch.ones(4, 3, dtype=torch.bool),
        correct=torch.ones(4, dtype=torch.bool),
    )
    assert only("pear").shape_rewards(batch).tolist() == [0.0] * 4


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
