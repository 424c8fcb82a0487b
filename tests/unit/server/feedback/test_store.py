"""Kept answers: bounded, without text, private to a key, shared by API servers."""

import sqlite3
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.feedback.facts import AnswerFacts, digest, prediction_set
from server.feedback.store import (
    FeedbackStore,
    KeptAnswer,
    RepeatedFeedback,
    UnknownAnswer,
    UnknownValue,
    owner_of,
)

ANYONE = owner_of(None)
VALUES: list[str | bool | int] = ["billing", "shipping", True, "true", 3]


def facts(level: float | None = 0.9) -> AnswerFacts:
    members = [True, False, True, False, False]
    prediction = prediction_set(VALUES, members, 0, level, "m/teams")
    return AnswerFacts("decision", 0.5, "easy", prediction)


def kept(name: str, index: int = 0, owner: bytes = ANYONE) -> KeptAnswer:
    return KeptAnswer(owner, name, index, facts())


@pytest.fixture
def store(tmp_path: Path) -> FeedbackStore:
    return FeedbackStore(tmp_path / "feedback.sqlite")


values = st.one_of(st.text(max_size=20), st.booleans(), st.integers(-5, 300))


@given(
    st.lists(values, min_size=1, max_size=30),
    st.randoms(use_true_random=False),
    st.none() | st.floats(0.01, 0.99),
    st.none() | st.floats(0, 12),
    st.none() | st.dictionaries(st.sampled_from(["router", "confidence"]), st.floats(0, 1)),
)
def test_facts_survive_the_file(
    listed: list[str | bool | int],
    draw: Random,
    level: float | None,
    entropy: float | None,
    predicted: dict[str, float] | None,
) -> None:
    members = [draw.random() < 0.5 for _ in listed]
    prediction = prediction_set(listed, members, 0, level, "m/task")
    one = AnswerFacts("inquiry", entropy, "hard", prediction, predicted)
    assert AnswerFacts.from_bytes(one.to_bytes()) == one
    one = one._replace(prediction=None)
    assert AnswerFacts.from_bytes(one.to_bytes()) == one


def test_values_of_different_types_are_different() -> None:
    assert len({digest(one) for one in (True, "true", 1, "1", False, 0, "")}) == 7


@pytest.mark.parametrize(
    ("value", "right", "covered"),
    [("billing", True, True), ("shipping", False, False), (True, False, True), (3, False, False)],
)
def test_the_right_value_tells_rightness_and_coverage(
    store: FeedbackStore, value: str | bool | int, right: bool, covered: bool
) -> None:
    store.keep([kept("a")])
    judgment = store.judge(ANYONE, "a", 0, None, value)
    assert (judgment.right, judgment.covered) == (right, covered)
    assert judgment.evidence is not None


def test_right_or_wrong_says_nothing_about_coverage(store: FeedbackStore) -> None:
    store.keep([kept("a"), KeptAnswer(ANYONE, "b", 0, facts(level=None))])
    assert store.judge(ANYONE, "a", 0, False, None)[1:] == (False, None, None)
    assert store.judge(ANYONE, "b", 0, None, "billing")[1:] == (True, None, None)


def test_feedback_counts_once_and_only_for_what_is_known(store: FeedbackStore) -> None:
    store.keep([kept("a"), kept("a", 1)])
    with pytest.raises(UnknownValue):
        store.judge(ANYONE, "a", 0, None, "refunds")
    store.judge(ANYONE, "a", 0, None, "billing")
    with pytest.raises(RepeatedFeedback):
        store.judge(ANYONE, "a", 0, None, "billing")
    assert store.judge(ANYONE, "a", 1, True, None).right
    for name, index in (("b", 0), ("a", 2), ("", 0)):
        with pytest.raises(UnknownAnswer):
            store.judge(ANYONE, name, index, True, None)


def test_feedback_that_cannot_be_stored_counts_when_it_is_sent_again(tmp_path: Path) -> None:
    path = tmp_path / "feedback.sqlite"
    store = FeedbackStore(path)
    store.keep([kept("one")])
    other = sqlite3.connect(path)
    (made,) = other.execute("SELECT sql FROM sqlite_master WHERE name = 'evidence'").fetchone()
    other.execute("DROP TABLE evidence")
    other.commit()
    with pytest.raises(sqlite3.Error):
        store.judge(ANYONE, "one", 0, None, "billing")
    other.execute(made)
    other.commit()
    assert store.judge(ANYONE, "one", 0, None, "billing").covered
    store.keep([kept("two")])
    with pytest.raises(RepeatedFeedback):
        store.judge(ANYONE, "one", 0, None, "billing")


def test_a_key_names_only_its_own_answers(store: FeedbackStore) -> None:
    mine, other = owner_of("mine"), owner_of("other")
    store.keep([kept("same", owner=mine), kept("theirs", owner=other)])
    for owner in (ANYONE, mine):
        with pytest.raises(UnknownAnswer):
            store.judge(owner, "theirs", 0, True, None)
    store.keep([kept("same", owner=other)])  # the same X-Request-Id under another key
    assert store.judge(other, "same", 0, True, None).right
    assert store.judge(mine, "same", 0, True, None).right


def test_an_id_that_is_used_again_means_the_newer_answer(store: FeedbackStore) -> None:
    store.keep([kept("a")])
    store.judge(ANYONE, "a", 0, True, None)
    store.keep([kept("a")])
    assert store.judge(ANYONE, "a", 0, False, None).right is False
    assert store.size(ANYONE)[0] == 1


def test_rows_and_bytes_of_each_key_are_bounded_and_the_oldest_go(tmp_path: Path) -> None:
    row = len(facts().to_bytes()) + 100
    limits = {"rows": FeedbackStore(tmp_path / "a", max_rows=50)}
    limits["bytes"] = FeedbackStore(tmp_path / "b", max_bytes=50 * row)
    mine, other = owner_of("mine"), owner_of("other")
    for store in limits.values():
        store.keep([kept("first", owner=other)])
        for start in range(0, 500, 20):
            store.keep([kept(str(start + n), owner=mine) for n in range(20)])
        assert store.size(mine) == (50, 50 * row)
        with pytest.raises(UnknownAnswer):
            store.judge(mine, "449", 0, True, None)
        assert store.judge(mine, "450", 0, True, None).right
        assert store.judge(mine, "499", 0, True, None).right
        assert store.judge(other, "first", 0, True, None).right  # not pushed out by `mine`


def test_the_file_holds_no_text_of_a_client(tmp_path: Path) -> None:
    store = FeedbackStore(tmp_path / "feedback.sqlite")
    store.keep([kept("chatcmpl-secret-id", owner=owner_of("secret-key"))])
    store.judge(owner_of("secret-key"), "chatcmpl-secret-id", 0, None, "shipping")
    store.close()
    content = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    for text in (b"secret", b"billing", b"shipping"):
        assert text not in content


def test_api_servers_share_answers_and_evidence(tmp_path: Path) -> None:
    one, two = (FeedbackStore(tmp_path / "feedback.sqlite") for _ in range(2))
    alone = FeedbackStore(tmp_path / "alone.sqlite")
    for number in range(10):
        name = str(number)
        one.keep([kept(name)])
        alone.keep([kept(name)])
        asked = two if number % 2 else one
        shared = asked.judge(ANYONE, name, 0, None, "shipping")
        assert shared.evidence == alone.judge(ANYONE, name, 0, None, "shipping").evidence
