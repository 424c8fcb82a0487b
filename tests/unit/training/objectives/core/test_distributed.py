import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.training.objectives.batch import on_ranks
from training.objectives.core.distributed import (
    SingleProcess,
    smallest,
    token_count,
    token_max,
    token_mean,
)

ALL = torch.ones(2, 3, dtype=torch.bool)


def test_statistics_use_masked_tokens_only() -> None:
    values = torch.tensor([[1.0, 2.0, 9.0], [6.0, torch.nan, torch.nan]])
    mask = torch.tensor([[True, True, False], [True, False, False]])
    assert token_mean(values, mask, SingleProcess()) == 3
    assert token_max(values, mask, SingleProcess()) == 6
    assert token_count(mask, SingleProcess()) == 3
    assert token_mean(values, ~ALL, SingleProcess()) == 0
    assert token_mean(values, ALL & (values == 6), SingleProcess()) == 6


def test_a_mean_over_processes_weights_tokens_equally() -> None:
    parts = [torch.tensor([[1.0]]), torch.tensor([[4.0, 4.0, 4.0]])]
    means = on_ranks(parts, lambda x, ranks: token_mean(x, torch.ones_like(x).bool(), ranks))
    assert [float(mean) for mean in means] == [3.25, 3.25]


def test_exactly_count_of_equal_values_are_chosen() -> None:
    chosen = smallest(torch.zeros(2, 3), ALL, 4, SingleProcess())
    assert chosen.tolist() == [[True, True, True], [True, False, False]]
    parts = on_ranks([torch.zeros(1, 3)] * 2, lambda x, ranks: smallest(x, ALL[:1], 4, ranks))
    assert torch.equal(torch.cat(parts), chosen)


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.integers(0, 5), min_size=6, max_size=6),
    st.lists(st.booleans(), min_size=6, max_size=6),
    st.integers(0, 8),
)
def test_smallest_marks_count_tokens_with_the_smallest_values(
    values: list[int], among: list[bool], count: int
) -> None:
    x, mask = torch.tensor(values).view(2, 3), torch.tensor(among).view(2, 3)
    chosen = smallest(x, mask, count, SingleProcess())
    assert not (chosen & ~mask).any()
    assert chosen.sum() == min(count, sum(among))
    left = mask & ~chosen
    if chosen.any() and left.any():
        assert x[chosen].max() <= x[left].min()
