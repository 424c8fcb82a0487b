import unicodedata
from pathlib import Path
from typing import Any

import pytest

from probes.inquiry.artifact import Inquiry
from probes.inquiry.replies import literal_answer
from server.errors import BadControl
from server.inquiry.conversation import (
    MAX_EXCHANGES,
    MAX_MESSAGES,
    MAX_PARTS,
    MAX_REPLY_CHARS,
    Exchange,
    read_conversation,
)
from tests.unit.server.support import artifacts, save_inquiry


@pytest.fixture
def pets(tmp_path: Path) -> Inquiry:
    save_inquiry(tmp_path)
    return artifacts(tmp_path).inquiry("m/pets", "p")


def chat_of(*texts: str) -> list[dict[str, Any]]:
    """Alternate messages of user and assistant, the user first."""
    roles = ("user", "assistant")
    return [{"role": roles[at % 2], "content": text} for at, text in enumerate(texts)]


BARK, SWIM = "Does it bark?", "Can it swim?"


def test_each_question_is_paired_with_the_reply_after_it(pets: Inquiry) -> None:
    exchanges = read_conversation(chat_of("hi", BARK, "no", SWIM, "dunno"), pets)
    assert exchanges == [Exchange(BARK, "no"), Exchange(SWIM, "dunno")]


def test_a_greeting_alone_starts_a_game(pets: Inquiry) -> None:
    assert read_conversation(chat_of("Does it bark? yes"), pets) == []


def test_system_messages_are_ignored(pets: Inquiry) -> None:
    system: dict[str, Any] = {"role": "system", "content": "be brief"}
    conversation = [system, *chat_of("hi", BARK, "no")]
    assert read_conversation(conversation, pets) == [Exchange(BARK, "no")]


def test_a_question_is_recognized_by_its_wording(pets: Inquiry) -> None:
    assert read_conversation(chat_of("hi", " does it BARK", "no"), pets) == [Exchange(BARK, "no")]


def test_consecutive_user_messages_are_joined_to_one_reply(pets: Inquiry) -> None:
    more: dict[str, Any] = {"role": "user", "content": [{"type": "text", "text": "not at all"}]}
    assert read_conversation([*chat_of("hi", BARK, "no"), more], pets) == [
        Exchange(BARK, "no\nnot at all")
    ]


def test_content_parts_may_be_plain_strings(pets: Inquiry) -> None:
    parts: dict[str, Any] = {
        "role": "user",
        "content": iter(["not", {"type": "text", "text": "no"}]),
    }
    assert read_conversation([*chat_of("hi", BARK), parts], pets) == [Exchange(BARK, "not\nno")]


def test_a_final_answer_ends_a_game_and_the_next_message_starts_another(pets: Inquiry) -> None:
    conversation = chat_of("hi", BARK, "yes", "I think it is: dog.", "again!", SWIM, "no")
    assert read_conversation(conversation, pets) == [Exchange(SWIM, "no")]


@pytest.mark.parametrize(
    ("conversation", "param"),
    [
        ([], "messages"),
        (chat_of("hi", BARK), "messages"),
        (chat_of("hi", "Hello, how can I help?", "thanks"), "messages.1"),
        ([*chat_of("hi", BARK), *chat_of("x", SWIM, "no")[1:]], "messages.1"),
        ([{"role": "tool", "content": "x"}, *chat_of("hi")], "messages.0"),
        ([{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}], "messages.0"),
        ([{"role": "user", "content": None}], "messages.0"),
        ([{"role": "user", "content": [{"type": "text"}]}], "messages.0"),
        ([object()], "messages"),
        ([object(), *chat_of("hi")], "messages.0"),
        ([*chat_of("hi"), {"role": "assistant", "tool_calls": [1]}, *chat_of("hi")], "messages.1"),
    ],
)
def test_an_error_names_the_message_that_is_not_part_of_a_game(
    pets: Inquiry, conversation: list[Any], param: str
) -> None:
    with pytest.raises(BadControl) as caught:
        read_conversation(conversation, pets)
    assert caught.value.param == param


def test_the_number_of_questions_of_a_game_is_limited(pets: Inquiry) -> None:
    turns = chat_of("hi", *([BARK, "perhaps"] * MAX_EXCHANGES))
    assert len(read_conversation(turns, pets)) == MAX_EXCHANGES
    with pytest.raises(BadControl, match="at most 1000 questions"):
        read_conversation([*turns, *chat_of("hi", SWIM, "so", BARK, "so")[1:]], pets)


class _Normalized:
    """Counts normalized characters, the cost of a long message."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.chars = 0
        real = unicodedata.normalize

        def normalize(form: Any, text: str) -> str:
            self.chars += len(text)
            return real(form, text)

        monkeypatch.setattr(unicodedata, "normalize", normalize)


@pytest.mark.parametrize("size", [10_000, 100_000, 1_000_000])
def test_the_work_does_not_grow_with_the_length_of_a_message(
    pets: Inquiry, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = _Normalized(monkeypatch)
    exchanges = read_conversation(chat_of("x" * size, BARK, "w" * size), pets, open_questions=True)
    assert len(exchanges[0].reply) == MAX_REPLY_CHARS
    assert literal_answer(pets.task, BARK, exchanges[0].reply) is None
    for strange in ("z" * size, "? " * size, f"Is it true that it {'flies ' * size}?"):
        with pytest.raises(
            BadControl, match=r"messages\.1.*send back the server's messages unchanged"
        ):
            read_conversation(chat_of("hi", strange, "no"), pets, open_questions=True)
    assert counted.chars <= 10 * MAX_REPLY_CHARS


def test_a_message_is_normalized_once_for_any_number_of_labels(
    pets: Inquiry, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = _Normalized(monkeypatch)
    read_conversation(chat_of("hi", "  does it BARK", "no"), pets)
    assert counted.chars <= 2 * len("  does it BARK")


def test_too_many_messages_or_parts_are_refused_before_they_are_read(pets: Inquiry) -> None:
    class Unread(dict[str, Any]):
        def get(self, key: str, default: Any = None) -> Any:
            if self is not messages[-1]:
                raise AssertionError("read before it was counted")
            return super().get(key, default)

    messages = [Unread(role="user", content="hi") for _ in range(MAX_MESSAGES + 1)]
    with pytest.raises(BadControl, match="at most 4096") as caught:
        read_conversation(messages, pets)
    assert caught.value.param == "messages"
    endless = iter({"type": "text", "text": "no"} for _ in range(10**9))
    many = [*chat_of("hi", BARK), {"role": "user", "content": endless}]
    with pytest.raises(BadControl, match=f"at most {MAX_PARTS} parts") as caught:
        read_conversation(many, pets)
    assert caught.value.param == "messages.2"
