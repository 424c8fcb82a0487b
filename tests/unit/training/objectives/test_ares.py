import math

import pytest
import torch

from tests.unit.training.objectives.batch import only, rollout
from training.objectives.core.batch import RolloutBatch
from training.objectives.experimental.ares import BUCKETS, effort_reward, window_means

EASY, MEDIUM, HARD = BUCKETS


def reward(bucket: int, count: float, correct: bool, target: float = 10.0) -> float:
    """The reward at alpha = 0.5 and a target of 10 windows."""
    counts, verdict = torch.tensor([count]), torch.tensor([correct])
    return float(effort_reward(BUCKETS[bucket], counts, target, 0.5, verdict)[0])


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def test_windows_follow_their_token_and_stay_inside_the_answer() -> None:
    entropy = torch.tensor([[1.0, 2.0, 4.0, 6.0], [1.0, 2.0, 4.0, 99.0]])
    mask = torch.tensor([[True] * 4, [True] * 3 + [False]])
    found = window_means(entropy, mask, 2)
    assert found[0, :2].tolist() == [3.0, 5.0]
    assert found[1, 0] == 3.0
    assert int(found.isfinite().sum()) == 3
    assert not window_means(entropy, mask, 4).isfinite().any()


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (11.5, 0.0),  # inside the margin of 1.5
        (12.5, -(0.5 * 1 / 2 / 2 / 3.5)),  # huber(1) = 1/4
        (15.5, -(0.5 * 3 / 3.5)),  # huber(4) = 3
        (99.0, -0.5),  # the cap
        (0.0, 0.0),  # easy problems may be short
    ],
)
def test_right_answers_to_easy_problems_are_penalized_for_excess_windows(
    count: float, expected: float
) -> None:
    assert reward(0, count, correct=True) == pytest.approx(expected)


def test_right_answers_to_medium_problems_are_penalized_on_both_sides() -> None:
    assert reward(1, 14.5, correct=True) == reward(1, 5.5, correct=True) < 0
    assert reward(1, 12.5, correct=True) == 0
    assert reward(1, 14.5, correct=True) == pytest.approx(-0.5 * (4 / 6) / 5.5)


def test_a_wrong_answer_without_windows_gets_half_of_its_cap() -> None:
    """sigmoid(0) = 1/2 is a constant offset of the published formula."""
    assert reward(0, 0, correct=False) == pytest.approx(0.5 * 0.5 * 0.6)
    assert reward(1, 0, correct=False) == pytest.approx(0.5 * 0.5 * 0.8)
    assert reward(2, 0, correct=False) == pytest.approx(0.5 * 0.6)
    assert reward(0, 13.5, correct=False) == pytest.approx(sigmoid(1) * 0.5 * 0.6)


def test_right_answers_to_hard_problems_are_rewarded_for_effort() -> None:
    assert reward(2, 10.0, correct=True) == pytest.approx(0.6 * sigmoid(3.5 / 3))
    assert reward(2, 6.5, correct=True) == pytest.approx(0.6 * 0.5)
    assert reward(2, 4.5, correct=True) == pytest.approx(-0.5 * 0.6 * (4 / 8) / 7.5)


def test_a_target_of_zero_has_a_margin_of_one() -> None:
    assert reward(0, 1.0, correct=True, target=0.0) == 0
    assert reward(0, 2.0, correct=True, target=0.0) < 0


def batch(correct: list[bool], height: float = 3.0, size: int = 4) -> RolloutBatch:
    """One long answer per row, with a plateau of high entropy in the first."""
    entropy = torch.full((len(correct), 40), 0.5, dtype=torch.float64)
    entropy[0, 10:20] = height
    return rollout(
        [float(c) for c in correct],
        lengths=[40] * len(correct),
        num_generations=size,
        old_entropy=entropy,
        correct=torch.tensor(correct),
    )


def plateau_windows(threshold: float) -> int:
    """Windows of four tokens after a token whose mean is at least the threshold."""
    windows = [sum(9 < t + k < 20 for k in (1, 2, 3, 4)) / 4 for t in range(36)]
    return sum(0.5 + 2.5 * share >= threshold for share in windows)


def test_the_threshold_is_the_median_over_answers() -> None:
    """Three flat answers and one with a plateau: the median equals that of a flat answer."""
    counts = only("ares").count(batch([True] * 4))
    assert counts.tolist() == [36.0] * 4
    pair = batch([True] * 2, size=2)
    counts = only("ares").count(pair)
    assert counts.tolist() == [plateau_windows((3 + 0.5) / 2), 0]


def test_the_threshold_follows_the_median_slowly() -> None:
    """The threshold is a moving average with weight 0.99 of the past and part of the state."""
    member = only("ares")
    high, low = batch([True] * 2, height=4.5, size=2), batch([True] * 2, height=0.5, size=2)
    member.count(high)
    assert member.threshold == pytest.approx(2.5)
    member.count(low)
    assert member.threshold == pytest.approx(0.99 * 2.5 + 0.01 * 0.5)
    assert member.state_dict()["threshold"] == member.threshold


@pytest.mark.parametrize(
    ("correct", "bucket"),
    [
        ([True, True, True, False], "easy"),
        ([True, True, False, False], "medium"),
        ([True, False, False, False], "hard"),
    ],
)
def test_the_bucket_is_the_accuracy_of_the_group(correct: list[bool], bucket: str) -> None:
    member = only("ares")
    member.shape_rewards(batch(correct))
    moved = {name for name in ("easy", "medium", "hard") if getattr(member, f"target_{name}")}
    assert moved == {bucket}


def test_the_strength_changes_with_the_count() -> None:
    """In the published code, the target is the mean of the same batch."""
    member = only({"type": "ares", "smoothing": 0.0, "alpha_rate": 0.01})
    right = [True, True, True, False]
    member.shape_rewards(batch(right, height=0.5))
    first = member.target_easy
    assert member.alpha_easy == 0.5
    member.shape_rewards(batch(right, height=0.2))
    assert member.target_easy != first
    assert member.alpha_easy == pytest.approx(0.5 + 0.01 * (member.target_easy - first))
    for _ in range(200):
        member.target_easy = -1000.0
        member.shape_rewards(batch(right))
    assert member.alpha_easy == 2.0


def test_short_answers_have_no_windows() -> None:
    short = rollout(
        [1.0] * 4,
        old_entropy=torch.ones(4, 3, dtype=torch.float64),
        correct=torch.ones(4, dtype=torch.bool),
    )
    found = only("ares").shape_rewards(short)
    assert found.tolist() == [1.0] * 4
