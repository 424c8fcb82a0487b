import pytest
import torch

from benchmarks.inquiry import interval
from benchmarks.inquiry_uot import reward


@pytest.mark.parametrize(
    ("share", "expected"), [(0.5, 1.0), (0.3, 0.440645), (0.9, 0.156332), (0.0, 0.0), (1.0, 0.0)]
)
def test_the_reward_is_that_of_the_published_code(share: float, expected: float) -> None:
    assert float(reward(torch.tensor(share))) == pytest.approx(expected, abs=1e-6)


def test_games_about_one_label_do_not_make_the_interval_narrower() -> None:
    values = torch.tensor([0.0, 1.0, 0.0, 1.0], dtype=torch.float64)
    labels = torch.tensor([0, 1, 2, 3])
    few = interval(values, labels)
    many = interval(values.repeat(50), labels.repeat(50))
    assert few == many
    assert few[0] < 0.5 < few[1]
