"""The supervisor of `entrostat serve`, with small programs instead of the server."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from server.commands.supervisor import ready_lines

PROGRAM = """
import multiprocessing, os, signal, sys, time
from pathlib import Path
from server.commands.startup import send_to_supervisor
from server.commands.supervisor import supervise

def worker():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(600)

def forking_worker():
    if os.fork() == 0:
        time.sleep(3)
        os._exit(0)
    time.sleep(600)

def run(socket):
    os.environ["ENTROSTAT_SUPERVISOR"] = str(socket)
{body}

if __name__ == "__main__":
    sys.exit(supervise(run))
"""
DEAF = "    signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
WITH_WORKER = """\
    child = multiprocessing.get_context("spawn").Process(target=worker, daemon=True)
    child.start()
    Path(sys.argv[1]).write_text(str(child.pid))
"""
FOREVER = "    time.sleep(600)\n"


@contextmanager
def running(folder: Path, body: str) -> Iterator[subprocess.Popen[str]]:
    script = folder / "program.py"
    script.write_text(PROGRAM.format(body=body))
    process = subprocess.Popen(
        [sys.executable, str(script), str(folder / "pid")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(folder)},
        start_new_session=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def worker_of(folder: Path, process: subprocess.Popen[str]) -> int:
    while not (folder / "pid").exists() or not (folder / "pid").read_text():
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    return int((folder / "pid").read_text())


def is_running(pid: int) -> bool:
    """Whether a process is running; a zombie is not."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def test_a_start_that_ignores_sigterm_is_killed_with_all_its_descendants(tmp_path: Path) -> None:
    with running(tmp_path, DEAF + WITH_WORKER + FOREVER) as process:
        worker = worker_of(tmp_path, process)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 128 + signal.SIGTERM
        while is_running(worker):
            time.sleep(0.05)


def test_a_worker_that_dies_during_the_start_ends_it_with_a_reason(tmp_path: Path) -> None:
    with running(tmp_path, DEAF + WITH_WORKER + FOREVER) as process:
        worker = worker_of(tmp_path, process)
        time.sleep(3)  # the supervisor polls once a second
        os.kill(worker, signal.SIGKILL)
        _, output = process.communicate(timeout=120)
    assert process.returncode != 0
    assert f"the process {worker} died while the server was starting" in output


def test_a_tool_that_a_worker_starts_may_exit(tmp_path: Path) -> None:
    """Between fork and exec, it has the command line of the worker."""
    body = """\
    child = multiprocessing.get_context("spawn").Process(target=forking_worker, daemon=True)
    child.start()
    time.sleep(6)
    os._exit(0)
"""
    with running(tmp_path, body) as process:
        _, output = process.communicate(timeout=120)
    assert (process.returncode, "died" in output) == (0, False)


def test_a_ready_server_is_not_killed_while_it_stops(tmp_path: Path) -> None:
    body = """\
    def stop(*_):
        time.sleep(6)
        print("drained", flush=True)
        os._exit(0)
    signal.signal(signal.SIGTERM, stop)
    send_to_supervisor(address="http://127.0.0.1:1")
    send_to_supervisor(ready=True, models=["m"], profiles=["p"])
    time.sleep(600)
"""
    with running(tmp_path, body) as process:
        assert process.stderr is not None
        assert "ready at http://127.0.0.1:1" in process.stderr.readline()
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=120)
    assert (process.returncode, out) == (0, "drained\n")


def test_exit_codes_are_forwarded_and_the_temporary_folder_is_deleted(
    tmp_path: Path,
) -> None:
    for body, code in (("    return\n", 0), ("    sys.exit(2)\n", 2), ("    os._exit(7)\n", 7)):
        with running(tmp_path, body) as process:
            _, output = process.communicate(timeout=60)
        assert process.returncode == code, output
        assert ("ended before it was ready" in output) == (code == 7)
    assert list(tmp_path.glob("entrostat-*")) == []


def test_the_signal_that_killed_the_server_is_reported(tmp_path: Path) -> None:
    with running(tmp_path, "    os.kill(os.getpid(), signal.SIGKILL)\n") as process:
        _, output = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGKILL
    assert "ended by SIGKILL" in output


def test_every_stage_of_the_start_is_printed_immediately(tmp_path: Path) -> None:
    with running(
        tmp_path, '    send_to_supervisor(stage="compiling")\n    time.sleep(2)\n'
    ) as process:
        _, output = process.communicate(timeout=60)
    assert "entrostat: compiling (" in output


@pytest.mark.parametrize("profiles", [[], ["steady"]])
def test_the_ready_lines_contain_the_address_the_models_and_an_example(profiles: list[str]) -> None:
    first, second, third = ready_lines("http://h:1", ["m"], profiles)
    assert first == "entrostat: ready at http://h:1"
    assert "models m" in second
    assert ("steady" in second) == bool(profiles)
    assert "--url http://h:1/v1" in third


def test_the_reason_that_a_process_gave_is_printed_once_the_start_has_failed(
    tmp_path: Path,
) -> None:
    body = '    send_to_supervisor(failure="vLLM 9 has no `sample`")\n    os._exit(1)\n'
    with running(tmp_path, body) as process:
        _, output = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "ended before it was ready (exit code 1): vLLM 9 has no `sample`" in output


def test_a_tool_that_a_worker_starts_may_end_during_the_start(tmp_path: Path) -> None:
    """Between fork and exec, on a busy machine for seconds, it has the title of the worker."""
    body = """\
    from setproctitle import setproctitle
    worker = os.fork()
    if worker == 0:
        setproctitle("VLLM::Worker")
        if os.fork() == 0:
            time.sleep(3)
            os._exit(0)
        os.wait()
        time.sleep(600)
    time.sleep(6)
    send_to_supervisor(ready=True, models=["m"], profiles=["p"])
    os.kill(worker, signal.SIGKILL)
"""
    with running(tmp_path, body) as process:
        _, said = process.communicate(timeout=120)
    assert "died while the server was starting" not in said
    assert process.returncode == 0
