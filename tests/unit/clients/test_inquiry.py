from typing import Any

import pytest
import typer
from typer.testing import CliRunner, Result

from clients.ask import ask
from clients.connection import ClientError, connect
from clients.inquiry import InquirySession, find_task
from tests.unit.clients.fake import Fake, Json, envelope

CARDS = [
    {"id": "m/entropy", "kind": "entropy-statistics", "model": "m", "usable": True},
    {"id": "other/animals", "kind": "inquiry-calibration", "model": "other", "usable": False},
    {"id": "m/animals", "kind": "inquiry-calibration", "model": "m", "usable": True},
]


def answer(text: str, **inquiry: object) -> Json:
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": text},
        "finish_reason": "stop",
        "entropy": {"inquiry": {"confidence_level": 0.9, "calibrated": True, **inquiry}},
    }
    return envelope([choice], "chat.completion")


GAME = [
    answer("Is it big?", action="ask", turn=1, prediction_set=["cow", "cat", "bee"]),
    answer(
        "Can it fly?",
        action="ask",
        turn=2,
        prediction_set=["cat", "bee"],
        heard=[{"query": "Is it big?", "answer": "no"}],
    ),
    answer(
        "I think it is: bee.",
        action="answer",
        turn=2,
        label="bee",
        reason="singleton",
        prediction_set=["bee"],
        heard=[{"query": "Is it big?", "answer": "no"}, {"query": "Can it fly?", "answer": "yes"}],
    ),
]


def run(fake: Fake, *arguments: str, typed: str = "") -> Result:
    app = typer.Typer(add_completion=False)
    app.command()(ask)
    return CliRunner().invoke(app, [*arguments, "--url", fake.url], input=typed)


@pytest.fixture
def playing(fake: Fake) -> Fake:
    fake.answers, fake.artifacts = list(GAME), CARDS
    return fake


def test_a_session_plays_to_the_end_and_keeps_the_messages(playing: Fake) -> None:
    asked = []

    def reply(question: str) -> str:
        asked.append(question)
        return "nope"

    with connect(playing.url) as client:
        session = InquirySession(client, "m/animals", reply, confidence_level=0.8, max_turns=9)
        assert session.run().label == "bee"
    assert asked == ["Is it big?", "Can it fly?"]
    assert [message["role"] for message in session.messages] == ["user", "assistant"] * 3
    assert playing.requests[-1]["messages"] == session.messages[:-1]
    assert playing.requests[0]["entropy"] == {
        "inquiry": {"task": "m/animals", "confidence_level": 0.8, "max_turns": 9}
    }


def test_a_session_goes_on_from_the_messages_of_another(playing: Fake) -> None:
    with connect(playing.url) as client:
        first = InquirySession(client, "m/animals", lambda _: "no", model="m")
        next(iter(first))
        messages: list[Any] = [*first.messages, {"role": "user", "content": "no"}]
        second = InquirySession(client, "m/animals", lambda _: "yes", messages=messages)
        assert second.run().label == "bee"


def test_a_server_without_games_is_explained(fake: Fake) -> None:
    with connect(fake.url) as client, pytest.raises(ClientError, match="plays no games"):
        InquirySession(client, "m/animals", lambda _: "no").run()


def test_a_task_is_found_by_its_name_alone_if_it_is_usable(playing: Fake) -> None:
    with connect(playing.url) as client:
        assert find_task(client, "animals") == "m/animals"
        assert find_task(client, "any/thing") == "any/thing"
        with pytest.raises(ClientError, match="has no task `cars` for its model; it has m/animals"):
            find_task(client, "cars")


def test_the_terminal_shows_the_shrinking_set(playing: Fake) -> None:
    result = run(playing, "animals", typed="not really\nyes\n")
    assert result.exit_code == 0, result.output
    assert [line for line in result.output.splitlines() if line] == [
        "3 left, right 90% of the time: cow, cat, bee",
        "Is it big?",
        "> not really",
        "understood: no",
        "2 left, right 90% of the time: cat, bee",
        "Can it fly?",
        "> yes",
        "understood: yes",
        "1 left, right 90% of the time: bee",
        "I think it is: bee.",
    ]
    assert [r["messages"][-1]["content"] for r in playing.requests] == [
        "Go ahead.",
        "not really",
        "yes",
    ]


def test_the_end_of_the_input_ends_the_game(playing: Fake) -> None:
    assert run(playing, "animals", typed="").exit_code == 130


def test_a_refusal_is_one_sentence(playing: Fake) -> None:
    playing.refusal = (400, "`entropy.inquiry.task`: unknown artifact")
    result = run(playing, "m/nothing")
    assert result.exit_code == 2
    assert "entrostat ask: the server answers 400: `entropy.inquiry.task`" in result.stderr


def test_a_game_begins_with_the_introduction_and_every_label(fake: Fake) -> None:
    labels = [f"animal {at}" for at in range(30)]
    first = answer(
        "Is it big?",
        action="ask",
        introduction="Think of one.",
        prediction_set=labels,
        probabilities=dict.fromkeys(labels, 1 / 30),
    )
    fake.answers, fake.artifacts = [first, GAME[-1]], CARDS
    output = " ".join(run(fake, "animals", typed="no\n").output.split())
    assert output.index("Think of one.") < output.index("It may be:") < output.index("Is it big?")
    assert all(label in output.split("30 left")[0] for label in labels)


@pytest.mark.parametrize(
    ("predictor", "why"), [("table", "does not agree"), ("likelihood", "calibrated threshold")]
)
def test_a_set_that_grows_says_why(fake: Fake, predictor: str, why: str) -> None:
    small = answer("Is it big?", action="ask", prediction_set=["cow"], predictor=predictor)
    large = answer("Can it fly?", action="ask", prediction_set=["cow", "cat"], predictor=predictor)
    fake.answers, fake.artifacts = [small, large, GAME[-1]], CARDS
    output = " ".join(run(fake, "animals", typed="no\nno\n").output.split())
    assert output.count("more than before") == 1
    assert why in output


ESCAPES = "\x1b]52;c;aGk=\x07\x1b[2J\x9b31m\u202e"


def test_nothing_that_a_server_says_steers_the_terminal(fake: Fake) -> None:
    hostile = answer(
        f"I think{ESCAPES}",
        action="answer",
        introduction=f"Think{ESCAPES}",
        prediction_set=[f"cow{ESCAPES}"],
        probabilities={f"cow{ESCAPES}": 1.0},
        heard=[{"query": "x", "answer": f"no{ESCAPES}"}],
    )
    fake.answers, fake.artifacts = [hostile], CARDS
    done = run(fake, "animals")
    assert "I think" in done.output
    assert not set(done.output) & set("\x1b\x07\x9b\u202e")
    fake.artifacts = [{**CARDS[2], "id": f"m/other{ESCAPES}"}]
    done = run(fake, "animals")
    assert done.exit_code == 2
    assert not set(done.output + done.stderr) & set("\x1b\x07\x9b\u202e")
