"""Histograms of training data: their bins, what falls into them, and which are refused."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from probes.drift import NUM_BINS, ReferenceHistogram

finite = st.floats(-1e6, 1e6)


def test_the_bins_of_continuous_data_are_its_deciles() -> None:
    values = np.random.default_rng(0).gamma(2.0, size=5000)
    found = ReferenceHistogram.of(values)
    assert len(found.counts) == NUM_BINS
    assert found.shares == pytest.approx([0.1] * NUM_BINS, abs=0.001)
    expected = np.quantile(values, np.arange(1, NUM_BINS) / NUM_BINS)
    assert found.edges == pytest.approx(expected.tolist(), rel=0.01)


@given(st.lists(finite, min_size=1, max_size=60))
def test_what_it_was_made_from_is_counted_as_it_was(values: list[float]) -> None:
    found = ReferenceHistogram.of(values)
    assert found.count(values) == list(found.counts)
    assert sum(found.counts) == len(values)
    assert ReferenceHistogram.model_validate_json(found.model_dump_json()) == found


def test_many_equal_values_share_a_bin() -> None:
    assert ReferenceHistogram.of([0.0] * 70 + [1.0] * 30).counts == (70, 30)
    assert ReferenceHistogram.of([2.0] * 5) == ReferenceHistogram(edges=(), counts=(5,))


def test_values_beyond_all_training_data_are_in_the_outer_bins() -> None:
    found = ReferenceHistogram(edges=(1.0, 2.0), counts=(1, 1, 1))
    assert found.count([-1e30, 0.9, 1.0, 1.9, 2.0, 1e30]) == [2, 2, 2]
    assert found.count([]) == [0, 0, 0]


def test_what_is_not_finite_is_in_no_bin() -> None:
    values = [1.0, math.nan, 2.0, math.inf, -math.inf]
    found = ReferenceHistogram.of(values)
    assert sum(found.counts) == 2
    assert sum(found.count(values)) == 2
    with pytest.raises(ValueError, match="needs a finite value"):
        ReferenceHistogram.of([math.nan])


@pytest.mark.parametrize(
    ("edges", "counts", "reason"),
    [
        ([1.0], [3], "one bin more than edges"),
        ([1.0], [3, 0], "no empty bin"),
        ([2.0, 1.0], [1, 1, 1], "must rise"),
        ([1.0, 1.0], [1, 1, 1], "must rise"),
        ([math.inf], [1, 1], "finite"),
        (list(range(30)), [1] * 31, "at most"),
    ],
)
def test_a_histogram_that_cannot_be_used_is_refused(
    edges: list[float], counts: list[int], reason: str
) -> None:
    with pytest.raises(ValidationError, match=reason):
        ReferenceHistogram.model_validate({"edges": edges, "counts": counts})
