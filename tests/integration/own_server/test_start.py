"""The start of `entrostat serve` can be stopped at any time and never hangs."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from tests.conftest import FLAGS, entrostat, free_port
from tests.long import is_long
from tests.waiting import wait_until


@contextmanager
def starting(log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as out:
        process = subprocess.Popen(
            entrostat("serve", *FLAGS, "--port", str(free_port())),
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def below(process: subprocess.Popen[bytes], word: str) -> list[psutil.Process]:
    """Descendants whose command line or name contains a word."""
    found = []
    for one in psutil.Process(process.pid).children(recursive=True):
        try:
            if word in one.name() or word in " ".join(one.cmdline()):
                found.append(one)
        except psutil.Error:
            continue
    return found


def is_running(process: psutil.Process) -> bool:
    """Whether a process is running; a zombie is not."""
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def wait_for(process: subprocess.Popen[bytes], word: str) -> psutil.Process:
    while not (found := below(process, word)):
        assert process.poll() is None
        time.sleep(0.1)
    return found[0]


RARE = pytest.mark.skipif(not is_long(), reason="two of six moments; all with LONG_TESTS=1")


@pytest.mark.parametrize(
    "moment",
    [
        *("1", "EngineCore+8"),
        *(pytest.param(moment, marks=RARE) for moment in ("4", "8", "EngineCore", "EngineCore+2")),
    ],
)
def test_sigterm_stops_a_start_at_any_moment(moment: str, tmp_path: Path) -> None:
    """A supervisor kills after 3 s what is left; a start that ignores the signal becomes ready."""
    with starting(tmp_path / "log") as process:
        name, _, seconds = moment.rpartition("+")
        if not moment.isdecimal():
            wait_for(process, name or moment)
        time.sleep(float(seconds) if seconds.isdecimal() else 0)
        descendants = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGTERM)
        process.wait(240)
        wait_until(lambda: not any(map(is_running, descendants)))
        assert "entrostat: ready at" not in (tmp_path / "log").read_text()


@pytest.mark.parametrize("name", ["EngineCore", "Worker"])
def test_a_process_that_dies_during_the_start_ends_it_with_a_reason(
    name: str, tmp_path: Path
) -> None:
    with starting(tmp_path / "log") as process:
        victim = wait_for(process, name)
        time.sleep(2)
        victim.kill()
        assert process.wait(240) not in (0, None)
        assert "entrostat serve: ended before it was ready" in (tmp_path / "log").read_text()


def test_the_last_line_has_the_address_and_an_example(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with starting(log) as process:
        while "entrostat: ready at http://127.0.0.1:" not in log.read_text():
            assert process.poll() is None, log.read_text()
            time.sleep(0.5)
        time.sleep(1)
        output = log.read_text()
        assert "entrostat: starting the engine" in output
        assert output.rstrip().splitlines()[-1].startswith("entrostat: try `entrostat chat")
        assert "only this machine can connect" in output
        process.send_signal(signal.SIGTERM)
        assert process.wait(240) == 0
