from pathlib import Path
from typing import Any

import pytest

from probes.inquiry.likelihood import NO, YES
from probes.inquiry.task import Task
from server.errors import BadControl
from server.inquiry.conversation import MAX_EXCHANGES, Exchange, literal, read_conversation
from tests.unit.server.support import artifacts, save_inquiry


@pytest.fixture
def task(tmp_path: Path) -> Task:
    save_inquiry(tmp_path)
    return artifacts(tmp_path).inquiry("m/pets", "p").task


def said(*texts: str) -> list[dict[str, Any]]:
    """Texts of user and assistant in turn, the user first."""
    roles = ("user", "assistant")
    return [{"role": roles[at % 2], "content": text} for at, text in enumerate(texts)]


BARK, SWIM = "Does it bark?", "Can it swim?"


def test_each_question_has_the_reply_after_it(task: Task) -> None:
    exchanges = read_conversation(said("hi", BARK, "no", SWIM, "dunno"), task)
    assert exchanges == [Exchange(BARK, "no"), Exchange(SWIM, "dunno")]


def test_a_greeting_alone_begins_a_game(task: Task) -> None:
    assert read_conversation(said("Does it bark? yes"), task) == []


def test_system_messages_are_no_part_of_it(task: Task) -> None:
    system: dict[str, Any] = {"role": "system", "content": "be brief"}
    conversation = [system, *said("hi", BARK, "no")]
    assert read_conversation(conversation, task) == [Exchange(BARK, "no")]


def test_a_question_is_known_by_its_wording(task: Task) -> None:
    assert read_conversation(said("hi", " does it BARK", "no"), task) == [Exchange(BARK, "no")]


def test_several_messages_make_one_reply(task: Task) -> None:
    more: dict[str, Any] = {"role": "user", "content": [{"type": "text", "text": "not at all"}]}
    assert read_conversation([*said("hi", BARK, "no"), more], task) == [
        Exchange(BARK, "no\nnot at all")
    ]


def test_parts_may_be_texts_without_more(task: Task) -> None:
    parts: dict[str, Any] = {
        "role": "user",
        "content": iter(["not", {"type": "text", "text": "no"}]),
    }
    assert read_conversation([*said("hi", BARK), parts], task) == [Exchange(BARK, "not\nno")]


def test_a_final_answer_ends_a_game_and_the_next_message_begins_another(task: Task) -> None:
    conversation = said("hi", BARK, "yes", "I think it is: dog.", "again!", SWIM, "no")
    assert read_conversation(conversation, task) == [Exchange(SWIM, "no")]


@pytest.mark.parametrize(
    ("conversation", "param"),
    [
        ([], "messages"),
        (said("hi", BARK), "messages"),
        (said("hi", "Hello, how can I help?", "thanks"), "messages.1"),
        ([*said("hi", BARK), *said("x", SWIM, "no")[1:]], "messages.1"),
        ([{"role": "tool", "content": "x"}, *said("hi")], "messages.0"),
        ([{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}], "messages.0"),
        ([{"role": "user", "content": None}], "messages.0"),
        ([{"role": "user", "content": [{"type": "text"}]}], "messages.0"),
        ([object()], "messages"),
        ([object(), *said("hi")], "messages.0"),
        ([*said("hi"), {"role": "assistant", "tool_calls": [1]}, *said("hi")], "messages.1"),
    ],
)
def test_what_is_no_game_is_refused_by_message(
    task: Task, conversation: list[Any], param: str
) -> None:
    with pytest.raises(BadControl) as caught:
        read_conversation(conversation, task)
    assert caught.value.param == param


def test_a_game_has_an_end(task: Task) -> None:
    turns = said("hi", *([BARK, "perhaps"] * MAX_EXCHANGES))
    assert len(read_conversation(turns, task)) == MAX_EXCHANGES
    with pytest.raises(BadControl, match="at most 1000 questions"):
        read_conversation([*turns, *said("hi", SWIM, "so", BARK, "so")[1:]], task)


def test_only_the_tasks_own_words_need_no_model(task: Task) -> None:
    assert literal(task, "Yes!") == YES
    assert literal(task, " no. ") == NO
    assert literal(task, "no idea") is None
    german = task.model_copy(update={"answers": ("ja", "nein")})
    assert literal(german, "Nein") == NO
    assert literal(german, "no") is None
