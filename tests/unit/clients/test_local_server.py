import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from urllib.request import urlopen

import pytest
from rich.console import Console

from clients.local_server import LocalServerError, local_server, serve_command

SERVER = """
import os, sys
from http.server import BaseHTTPRequestHandler, HTTPServer
class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers()
        if self.path == "/die":
            print("out of memory", flush=True); os._exit(7)
    def log_message(self, *_): pass
HTTPServer(("127.0.0.1", int(sys.argv[sys.argv.index("--port") + 1])), Handler).serve_forever()
"""
QUIET = Console(quiet=True)


def command(script: str = SERVER) -> list[str]:
    return [sys.executable, "-c", script]


def is_alive(url: str) -> bool:
    try:
        with urlopen(f"{url}/ready", timeout=2):
            return True
    except OSError:
        return False


def test_the_model_and_its_flags_reach_the_server() -> None:
    assert serve_command(None, [])[1:] == ["serve"]
    flags = ["--dtype", "float32"]
    assert serve_command("./model", flags)[1:] == ["serve", "./model", *flags]
    assert Path(serve_command(None, [])[0]).is_file()


def test_it_runs_while_the_block_does(tmp_path: Path) -> None:
    with local_server(command(), tmp_path / "log", QUIET) as url:
        assert is_alive(url)
    assert not is_alive(url)


def test_it_is_stopped_when_the_block_fails(tmp_path: Path) -> None:
    with pytest.raises(KeyError), local_server(command(), tmp_path / "log", QUIET) as url:
        raise KeyError
    assert not is_alive(url)


def test_one_that_does_not_start_is_quoted(tmp_path: Path) -> None:
    script = "print('no such model'); raise SystemExit(3)"
    with (
        pytest.raises(LocalServerError, match=r"exit code 3; last log lines:\nno such model"),
        local_server(command(script), tmp_path / "log", QUIET),
    ):
        pass


def test_one_that_dies_under_way_is_quoted(tmp_path: Path) -> None:
    def job() -> None:
        with local_server(command(), tmp_path / "log", QUIET) as url:
            urlopen(f"{url}/die", timeout=5).close()
            time.sleep(0.2)
            raise LocalServerError("a request failed")

    with pytest.raises(LocalServerError, match=r"exit code 7; last log lines:\nout of memory"):
        job()


def test_one_that_never_gets_ready_is_given_up(tmp_path: Path) -> None:
    script = "import time; print('loading', flush=True); time.sleep(3600)"
    with (
        pytest.raises(LocalServerError, match=r"not ready after 2 s; last log lines:\nloading"),
        local_server(command(script), tmp_path / "log", QUIET, ready_timeout=2),
    ):
        pass


def test_a_missing_command_is_one_sentence(tmp_path: Path) -> None:
    with (
        pytest.raises(LocalServerError, match="cannot start /no/such: No such file"),
        local_server(["/no/such"], tmp_path / "log", QUIET),
    ):
        pass


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's parent death signal")
def test_a_killed_job_leaves_no_server(tmp_path: Path) -> None:
    job = f"""
import sys, time
from pathlib import Path
from rich.console import Console
from clients.local_server import local_server
with local_server([sys.executable, "-c", {SERVER!r}], Path("log"), Console(quiet=True)) as url:
    print(url, flush=True)
    time.sleep(60)
"""
    with subprocess.Popen(
        [sys.executable, "-c", job], stdout=subprocess.PIPE, text=True, cwd=tmp_path
    ) as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        assert is_alive(url)
        os.kill(process.pid, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while is_alive(url) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not is_alive(url)
