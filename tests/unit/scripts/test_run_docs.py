"""A block of the documentation fails where a reader would see an error."""

import socket
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest

from scripts import run_docs
from scripts.doc_blocks import ROOT, Block
from scripts.run_docs import PageServer, run_block


class Answers(BaseHTTPRequestHandler):
    """`/missing` is a 404, `/stream` an error behind status 200, the rest is fine."""

    def do_GET(self) -> None:
        self.send_response(404 if self.path == "/missing" else 200)
        self.end_headers()
        failed = self.path == "/stream"
        self.wfile.write(b'data: {"error": {}}\n\n' if failed else b'{"choices": []}')

    def log_message(self, *_: object) -> None:
        """Print nothing."""


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), Answers) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def problem(text: str, folder: Path) -> str | None:
    (folder / ".venv" / "bin").mkdir(parents=True)
    (folder / ".venv" / "bin" / "activate").touch()
    return run_block(Block(ROOT / "README.md", 1, text, ""), folder, PageServer())


@pytest.mark.parametrize(
    "command",
    [
        "curl -s {url}/missing",
        "curl --silent {url}/missing\necho done",
        "curl -s {url}/missing | cat",
        "curl -s {url}/stream",
        "curl -s {url}/ | grep nothing",
        "false",
    ],
)
def test_an_error_of_a_command_or_of_a_server_is_found(
    command: str, url: str, tmp_path: Path
) -> None:
    assert problem(command.format(url=url), tmp_path) is not None


@pytest.mark.parametrize("command", ["curl -s {url}/", "curl -s {url}/ | grep choices", "true"])
def test_a_block_without_an_error_succeeds(command: str, url: str, tmp_path: Path) -> None:
    assert problem(command.format(url=url), tmp_path) is None


def test_a_port_in_use_is_refused_before_anything_runs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        monkeypatch.setattr(run_docs, "PORT", other.getsockname()[1])
        monkeypatch.setattr("sys.argv", ["run_docs", str(ROOT / "README.md")])
        assert run_docs.main() == 2
    assert capsys.readouterr().out.count("\n") == 1
