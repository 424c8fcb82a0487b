"""Semantic entropy: golden values, bounds, permutations, duplicates."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from probes.selective.semantic import cluster_ids, cluster_shares, semantic_entropy

KEYS = st.lists(st.sampled_from(["a", "b", "c"]) | st.none(), min_size=1, max_size=12)


def test_golden_values_of_both_estimators() -> None:
    ids, logprobs = [0, 0, 1, 2], [-0.1, -0.2, -0.5, -1.0]
    shares = cluster_shares(ids, "likelihood", logprobs)
    assert shares == pytest.approx([0.638837, 0.224809, 0.136354], abs=1e-6)
    assert semantic_entropy(shares) == pytest.approx(0.893480, abs=1e-6)
    counted = semantic_entropy(cluster_shares(ids, "discrete"))
    assert counted == pytest.approx(1.039721, abs=1e-6)
    ten = [0] * 7 + [1] * 2 + [2]
    assert semantic_entropy(cluster_shares(ten, "discrete")) == pytest.approx(0.801819, abs=1e-6)
    twice = cluster_shares(ids, "likelihood", [-0.1, -0.1, -0.5, -1.0])  # published: both count
    assert semantic_entropy(twice) == pytest.approx(0.879434, abs=1e-6)


def test_an_answer_without_a_key_is_a_cluster_of_its_own() -> None:
    assert cluster_ids(["a", None, "b", "a", None]) == [0, 1, 2, 0, 3]


@given(KEYS, st.randoms())
def test_it_is_bounded_and_ignores_the_order(keys: list[str | None], chance: object) -> None:
    def entropy(of: list[str | None]) -> float:
        return semantic_entropy(cluster_shares(cluster_ids(of), "discrete"))

    assert 0 <= entropy(keys) <= math.log(len(keys)) + 1e-12
    other = list(keys)
    chance.shuffle(other)  # type: ignore[attr-defined]
    assert entropy(other) == pytest.approx(entropy(keys))
    assert entropy(["a"] * len(keys)) == pytest.approx(0, abs=1e-9)
    assert entropy([None] * len(keys)) == pytest.approx(math.log(len(keys)))
    assert entropy(keys * 2) == pytest.approx(entropy(keys)) or None in keys


@given(KEYS, st.floats(-5, 0))
def test_equal_likelihoods_count(keys: list[str | None], value: float) -> None:
    ids = cluster_ids(keys)
    found = cluster_shares(ids, "likelihood", [value] * len(ids))
    assert found == pytest.approx(cluster_shares(ids, "discrete"))
    assert sum(found) == pytest.approx(1)
