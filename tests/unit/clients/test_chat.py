import io

import pytest
import typer
from rich.console import Console
from typer.testing import CliRunner, Result

from clients.chat import Conversation, chat
from clients.connection import ClientError, Request, connect
from clients.entropy import EntropyStream
from tests.unit.clients.fake import Fake, chunk, tokens


def run(*arguments: str, typed: str = "", url: str | None = None) -> Result:
    app = typer.Typer(add_completion=False)
    app.command()(chat)
    environment = {"OPENAI_BASE_URL": url, "FORCE_COLOR": None}
    return CliRunner().invoke(app, list(arguments), input=typed, env=environment)


def sent_messages(fake: Fake) -> list[list[tuple[str, str]]]:
    return [[(m["role"], m["content"]) for m in r["messages"]] for r in fake.requests]


def test_piped_the_answer_is_all_of_standard_output(fake: Fake) -> None:
    result = run("hi", "--url", fake.url)
    assert (result.exit_code, result.stdout) == (0, "Hello\n")
    assert "entropy mean 1.25, max 2.00 nats" in result.stderr
    assert "temperature mean 0.98" in result.stderr


def test_options_arrive_as_controls(fake: Fake) -> None:
    options = "--target 1.2 --profile adaptive --temperature 0.5 --max-tokens 9 --system short"
    assert run("hi", *options.split(), "--model", "m", url=fake.url).exit_code == 0
    (request,) = fake.requests
    assert request["entropy"]["temperature"]["entropy_target"] == 1.2
    assert request["entropy"]["profile"] == "adaptive"
    assert request["entropy"]["trace"] == "tokens"
    assert (request["model"], request["temperature"]) == ("m", 0.5)
    assert request["max_completion_tokens"] == 9
    assert sent_messages(fake) == [[("system", "short"), ("user", "hi")]]


def test_what_is_not_asked_is_left_to_the_server(fake: Fake) -> None:
    run("hi", url=fake.url)
    (request,) = fake.requests
    assert request["model"] == "fake"
    assert request["entropy"] == {"trace": "tokens"}
    assert not {"temperature", "max_completion_tokens"} & request.keys()


def test_a_conversation_remembers_until_reset(fake: Fake) -> None:
    result = run("--system", "s", typed="one\n\ntwo\n/reset\nthree\n/quit\nfour\n", url=fake.url)
    assert result.exit_code == 0
    first = [("system", "s"), ("user", "one")]
    assert sent_messages(fake) == [
        first,
        [*first, ("assistant", "Hello"), ("user", "two")],
        [("system", "s"), ("user", "three")],
    ]


def test_the_end_of_input_ends_the_conversation(fake: Fake) -> None:
    result = run(typed="one\n", url=fake.url)
    assert (result.exit_code, result.stdout) == (0, "Hello\n")


@pytest.mark.parametrize("address", ["http://127.0.0.1:9/v1", "nonsense"])
def test_no_server_is_one_sentence_and_exit_code_2(address: str) -> None:
    result = run("hi", "--url", address)
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1
    assert address in result.stderr
    assert "entrostat serve" in result.stderr


@pytest.mark.parametrize("typed", [None, "hi\n"])
def test_a_refusal_is_one_sentence_and_exit_code_2(fake: Fake, typed: str | None) -> None:
    fake.refusal = 400, "unknown profile `x`:\n known are a, b"
    result = run(*([] if typed else ["hi"]), "--profile", "x", typed=typed or "", url=fake.url)
    assert result.exit_code == 2
    assert result.stderr == (
        "entrostat chat: the server answers 400: unknown profile `x`: known are a, b\n"
    )


def test_an_error_in_the_stream_is_one_sentence_and_exit_code_2(fake: Fake) -> None:
    fake.events = [chunk("Hel", tokens(0.5)), {"error": {"message": "engine died"}}]
    result = run("hi", url=fake.url)
    assert (result.exit_code, result.stdout) == (2, "Hel\n")
    assert "engine died" in result.stderr


def conversation(fake: Fake) -> Conversation:
    request = Request(client=connect(fake.url), model="fake")
    return Conversation(request, Console(file=io.StringIO(), color_system=None))


def test_a_refused_turn_is_not_remembered(fake: Fake) -> None:
    talk = conversation(fake)
    fake.refusal = 400, "too long"
    with pytest.raises(ClientError, match="too long"):
        talk.send("one")
    fake.refusal = None
    talk.send("two")
    assert sent_messages(fake)[-1] == [("user", "two")]


def test_ctrl_c_ends_the_answer_and_keeps_what_was_said(
    fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(out: Console, answer: EntropyStream, *, temperatures: bool) -> None:
        next(iter(answer))
        raise KeyboardInterrupt

    talk = conversation(fake)
    monkeypatch.setattr("clients.chat.write_answer", interrupted)
    assert talk.send("one") is None
    monkeypatch.undo()
    assert talk.send("two") is not None
    assert sent_messages(fake)[-1] == [("user", "one"), ("assistant", "Hel"), ("user", "two")]
