"""Whatever a line of a question file holds, it is a problem or refused with its place."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.common.errors import TrainingError
from training.datasets.records import ANSWERS, CHAT, PROMPTS, read_level, read_record

PLACE = "mine.jsonl: line 1"
TEXTS = st.sampled_from(
    ["", "A", "3", "\u00b2", "#### 5", "Level 3", "level " + "9" * 5000, "\ud800"]
)
LEAVES = st.none() | st.booleans() | st.integers(-1, 99) | st.floats() | TEXTS
OBJECTS = st.dictionaries(
    st.sampled_from(["text", "label", "role", "content", "from", "value", "ground_truth", "type"]),
    LEAVES | st.lists(LEAVES, max_size=3),
    max_size=4,
)
VALUES = LEAVES | OBJECTS | st.lists(LEAVES | OBJECTS, max_size=30)
KEYS = [
    *PROMPTS,
    *ANSWERS,
    *CHAT,
    "choices",
    "options",
    "A",
    "B",
    "level",
    "answer_index",
    "context",
]


def refusal(record: dict[str, Any]) -> str | None:
    """Why a record is refused; None if it is read as a prompt and an answer."""
    try:
        read_level(record, PLACE)
        found = read_record(record, PLACE)
    except TrainingError as error:
        return str(error)
    assert isinstance(found["prompt"], str)
    assert isinstance(found["answer"], str)
    return None


@given(record=st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=6))
def test_any_record_is_read_or_refused_with_its_place(record: dict[str, Any]) -> None:
    assert (refusal({"prompt": "Which?", "answer": "A"} | record) or PLACE).startswith(PLACE)


@pytest.mark.parametrize(
    ("choices", "reason"),
    [
        ([str(number) for number in range(27)], "has 27 choices, at most 26 are read"),
        ({"text": ["a", "b"], "label": ["A"]}, "has 2 choices and 1 labels"),
        ({"text": "ab"}, "must be a list of texts"),
        ([{"text": "a"}, "b"], "every choice needs a `text`"),
        ([{"label": "A"}], "every choice needs a `text`"),
    ],
)
def test_choices_of_an_unknown_shape_are_refused_by_their_key(choices: Any, reason: str) -> None:
    record = json.loads(json.dumps({"question": "q", "answer": "A", "choices": choices}))
    with pytest.raises(TrainingError) as refused:
        read_record(record, PLACE)
    assert str(refused.value) == f"{PLACE}: choices: {reason}"


def test_labels_that_are_no_list_are_replaced_by_letters() -> None:
    record = {"question": "q", "answer": "B", "choices": {"text": ["a", "b"], "label": 5}}
    assert read_record(record, PLACE)["answer"] == "B"
