"""The temperatures of the law `shuffled`: random, reproducible, independent of everything else."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare, kstest
from torch import Tensor

from probes.laws import ShuffledLaw
from probes.shuffled import counter_uniform, draw_temperature

words = st.integers(-(2**63), 2**63 - 1)
MASK = 0xFFFFFFFF


def mixed(word: int) -> int:
    """The finalizer of MurmurHash3, in Python's integers."""
    word = ((word ^ (word >> 16)) * 0x85EBCA6B) & MASK
    word = ((word ^ (word >> 13)) * 0xC2B2AE35) & MASK
    return word ^ (word >> 16)


def uniform(seed: int, count: int) -> Tensor:
    return counter_uniform(torch.full((count,), seed), torch.arange(count))


@given(seed=words, index=words)
@settings(deadline=None)
def test_a_number_is_the_hash_of_seed_and_index(seed: int, index: int) -> None:
    got = counter_uniform(torch.tensor([seed]), torch.tensor([index])).item()
    word = mixed(mixed(mixed((seed & MASK) ^ 0x9E3779B9) ^ ((seed >> 32) & MASK)) ^ (index & MASK))
    assert got == (word >> 8) / 2**24
    assert 0 <= got < 1


@pytest.mark.parametrize("seed", [0, 1, 2, 2**32, 2**63 - 1, -1])
def test_numbers_are_uniform_and_neighbors_are_independent(seed: int) -> None:
    numbers = uniform(seed, 20_000)
    assert kstest(numbers.numpy(), "uniform").pvalue > 1e-3
    for other in (
        numbers[1:],
        numbers[2:],
        uniform(seed + 1 if seed < 2**62 else seed - 1, 20_000),
    ):
        length = len(other)
        pairs = torch.stack([numbers[:length], other])
        assert torch.corrcoef(pairs)[0, 1].abs() < 4 / length**0.5


def test_numbers_at_one_index_are_uniform_over_consecutive_seeds() -> None:
    """Completions of a request have consecutive seeds."""
    numbers = counter_uniform(torch.arange(20_000), torch.zeros(20_000, dtype=torch.long))
    assert kstest(numbers.numpy(), "uniform").pvalue > 1e-3


def test_temperatures_are_drawn_as_often_as_their_weights_say() -> None:
    law = ShuffledLaw(temperatures=(0.3, 0.9, 0.6, 1.2, 2.0), weights=(0.0, 5.0, 0.0, 3.0, 2.0))
    bins = torch.tensor([law.temperatures, law.cumulative()]).expand(20_000, 2, 5)
    drawn = draw_temperature(uniform(7, 20_000), *bins.unbind(1))
    counts = [int((drawn == t).sum()) for t in law.temperatures]
    assert (counts[0], counts[2]) == (0, 0)
    assert sum(counts) == 20_000
    assert chisquare([counts[i] for i in (1, 3, 4)], [10_000, 6_000, 4_000]).pvalue > 1e-3


def test_the_ends_of_the_numbers_draw_the_first_and_the_last_bin_with_weight() -> None:
    ends = torch.tensor([0.0, 1 - 2**-24])
    bins = torch.tensor([[0.3, 0.9, 1.2], [0.0, 1.0, 1.0]]).expand(2, 2, 3)
    assert draw_temperature(ends, *bins.unbind(1)).tolist() == pytest.approx([0.9, 0.9])
