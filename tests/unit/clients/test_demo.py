"""The demo's server handling, with a stand-in for the server."""

import sys
from io import StringIO
from pathlib import Path
from urllib.request import urlopen

import pytest
from rich.console import Console

from clients.connection import ClientError
from clients.demo import PROFILE, QUESTIONS, SEED, serving, show
from tests.unit.clients.fake import SUMMARY, Fake, chunk

SERVER = """
import http.server, os, signal, sys
{preamble}
print("talking to", os.getpid(), flush=True)
class Handler(http.server.SimpleHTTPRequestHandler):
    def do_GET(self):
        self.send_response({status}); self.end_headers()
http.server.HTTPServer(("127.0.0.1", int(sys.argv[-1])), Handler).serve_forever()
"""
CONSOLE = Console(quiet=True)


def stand_in(preamble: str = "", status: int = 200) -> list[str]:
    return [sys.executable, "-c", SERVER.format(preamble=preamble, status=status)]


def answers(url: str) -> bool:
    try:
        with urlopen(url, timeout=1) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def test_the_server_runs_inside_the_block_only() -> None:
    with serving(stand_in(), CONSOLE) as url:
        assert answers(url)
    assert not answers(url)


def test_a_server_that_ignores_sigterm_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clients.local_server.STOP_TIMEOUT", 0.1)
    deaf = stand_in("signal.signal(signal.SIGTERM, signal.SIG_IGN)")
    with serving(deaf, CONSOLE) as url:
        assert answers(url)
    assert not answers(url)


def test_a_server_that_ends_shows_its_last_words() -> None:
    dying = stand_in("print('no such model'); sys.exit(3)")
    with (
        pytest.raises(ClientError, match=r"(?s)exit code 3.*no such model"),
        serving(dying, CONSOLE),
    ):
        pass


def test_a_server_that_is_never_ready_is_given_up_and_stopped() -> None:
    slow = stand_in(status=503)
    with (
        pytest.raises(ClientError, match=r"(?s)not ready after 2 s.*talking to \d+") as caught,
        serving(slow, CONSOLE, ready_timeout=2),
    ):
        pass
    pid = str(caught.value).split("talking to ")[1].split()[0]
    assert not Path(f"/proc/{pid}").exists()


def test_a_missing_command_is_named() -> None:
    with (
        pytest.raises(ClientError, match="cannot start /nowhere/entrostat"),
        serving(["/nowhere/entrostat"], CONSOLE),
    ):
        pass


def test_one_prompt_with_one_seed_is_asked_without_and_with_the_profile(fake: Fake) -> None:
    show(fake.url.removesuffix("/v1"), CONSOLE)
    plain, controlled = fake.requests[:2]
    assert (plain["model"], controlled["model"]) == ("fake", f"fake@{PROFILE}")
    assert plain["messages"] == controlled["messages"]
    assert plain["seed"] == controlled["seed"] == SEED


def test_the_flag_lists_every_question_the_surest_first(fake: Fake) -> None:
    console = Console(record=True, width=200, file=StringIO())
    show(fake.url.removesuffix("/v1"), console)
    shown = console.export_text()
    assert all(question in shown for question, _ in QUESTIONS)
    assert "wrong" in shown


@pytest.mark.parametrize("summary", [None, {**SUMMARY, "fallback": "control_failed"}])
def test_the_demo_fails_without_report_or_control(
    fake: Fake, summary: dict[str, object] | None
) -> None:
    fake.events = [chunk("Hello"), chunk("", summary)]
    with pytest.raises(ClientError, match="without"):
        show(fake.url.removesuffix("/v1"), CONSOLE)
