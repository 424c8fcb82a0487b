"""Votes: equality, order, ties, stopping."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from probes.selective.scores import AnswerKind
from probes.selective.votes import (
    answer_key,
    beta_lead,
    count_votes,
    is_decided,
    weak_threshold,
)

KEYS = st.lists(st.sampled_from(["a", "b", "c"]) | st.none(), max_size=12)


@pytest.mark.parametrize(
    ("kind", "one", "two"),
    [
        ("auto", "The answer is 1,200.", "#### 1200"),
        ("auto", "Answer: Paris", "The answer is paris."),
        ("boxed", r"So \boxed{x + 1}", r"Hence: \boxed{x+1}."),
        ("numeric", "It is 0.5", "The answer is 1/2"),
        ("choice", "The answer is (B).", "Answer: B"),
        ("line", "Let me see.\n\n  YES  please ", "yes please"),
        ("exact", "Answer: the Nile", "Nile"),
        ("json", '{"a": 1, "b": [2]}', '{"b":[2],"a":1}'),
    ],
)
def test_equal_answers_share_a_key(kind: AnswerKind, one: str, two: str) -> None:
    assert answer_key(one, kind) == answer_key(two, kind) is not None


@pytest.mark.parametrize(
    ("kind", "text"), [("boxed", "42"), ("numeric", "none"), ("json", "{"), ("line", " \n")]
)
def test_a_text_without_an_answer_has_no_key(kind: AnswerKind, text: str) -> None:
    assert answer_key(text, kind) is None


@given(
    st.lists(st.tuples(st.sampled_from("ab"), st.floats(0.01, 1)), min_size=1, max_size=9),
)
def test_the_heaviest_group_wins_and_weights_are_those_of_its_members(
    votes: list[tuple[str, float]],
) -> None:
    keys, weights = [key for key, _ in votes], [weight for _, weight in votes]
    groups = count_votes(keys, weights)
    for group in groups:
        assert group.weight == pytest.approx(sum(weights[one] for one in group.members))
        assert {keys[one] for one in group.members} == {group.key}
    assert groups[0].weight == max(group.weight for group in groups)
    assert sum(len(group.members) for group in groups) == len(votes)
    equal = [(one.key, one.members) for one in count_votes(keys, [0.5] * len(keys))]
    assert equal == [(one.key, one.members) for one in count_votes(keys)]


def test_the_first_of_equally_many_votes_wins() -> None:
    groups = count_votes(["b", None, "a", "a", "b", "c"])
    assert [(group.key, group.members) for group in groups] == [
        ("b", [0, 4]),
        ("a", [2, 3]),
        ("c", [5]),
    ]


@pytest.mark.parametrize(
    ("votes", "probability"),
    [((3, 0), 0.9375), ((4, 0), 0.96875), ((5, 1), 0.9375), ((6, 2), 0.910156), ((8, 3), 0.927002)],
)
def test_golden_probabilities_of_a_lead(votes: tuple[int, int], probability: float) -> None:
    assert beta_lead(*votes) == pytest.approx(probability, abs=1e-6)


@given(KEYS, st.lists(st.sampled_from(["a", "b", "c", "d"]) | st.none(), max_size=5))
def test_a_decided_lead_cannot_be_lost(keys: list[str | None], rest: list[str | None]) -> None:
    if is_decided(keys, len(rest), "lead"):
        assert count_votes(keys)[0].key == count_votes([*keys, *rest])[0].key


@pytest.mark.parametrize(
    ("votes", "decided"),
    [("aaa", False), ("aaaa", True), ("aaaab", False), ("a" * 19 + "b", True), ("aaa-", False)],
)
def test_a_consensus_is_nearly_all_of_at_least_four_votes(votes: str, decided: bool) -> None:
    keys = [None if one == "-" else one for one in votes]
    assert is_decided(keys, 100, "consensus") is decided


@given(KEYS, st.integers(1, 40))
def test_a_consensus_is_a_probable_lead(keys: list[str | None], more: int) -> None:
    votes = [*keys, *["a"] * more]
    assert not is_decided(votes, 9, "consensus") or is_decided(votes, 9, "beta")


def test_the_golden_votes_and_thresholds() -> None:
    groups = count_votes(["A", "A", "B", "B", "B", "C"], [5, 4, 2, 2, 2, 9.5])
    assert [(group.key, group.weight) for group in groups] == [("C", 9.5), ("A", 9), ("B", 6)]
    warmup = [1, 1.2, 1.5, 1.7, 2, 2.2, 2.4, 2.6]
    assert weak_threshold(warmup, 90) == pytest.approx(2.46)
    assert weak_threshold(warmup, 10) == pytest.approx(1.14)


@given(KEYS, st.randoms())
def test_the_order_of_samples_changes_no_count(keys: list[str | None], chance: object) -> None:
    other = list(keys)
    chance.shuffle(other)  # type: ignore[attr-defined]

    def counts(of: list[str | None]) -> dict[str, int]:
        return {group.key: len(group.members) for group in count_votes(of)}

    assert counts(keys) == counts(other)
    assert not is_decided(keys, 0, "none")
    assert not is_decided([None] * 4, 0, "lead")
