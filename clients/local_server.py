"""Start an Entrostat server on this machine for the duration of a block."""

import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.request import urlopen

from rich.console import Console

READY_TIMEOUT = 1800.0
"""Seconds; enough to load and compile a large model."""
STOP_TIMEOUT = 20.0
_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of prctl(2)
_libc = ctypes.CDLL(None)


class LocalServerError(RuntimeError):
    """The server did not start or exited early; the message ends with the last lines of its log."""


def serve_command(model: str | None, flags: Sequence[str]) -> list[str]:
    """The command that serves `model`; None selects the embedded default model."""
    command = Path(sys.executable).with_name("entrostat")
    return [str(command), "serve", *([] if model is None else [model]), *flags]


@contextmanager
def local_server(
    command: Sequence[str], log: Path, console: Console, *, ready_timeout: float = READY_TIMEOUT
) -> Iterator[str]:
    """Run a server on a free port of this machine while the block runs; yields its URL.

    Args:
        command: From `serve_command`; host and port are appended.
        log: File for the server's output.
        console: Shows the progress of the start.
        ready_timeout: Seconds within which the server must be ready.

    Raises:
        LocalServerError: The server did not start or exited early; ends with the log's tail.
    """
    port = _free_port()
    url = f"http://127.0.0.1:{port}"
    with log.open("wb") as output:
        try:
            process = subprocess.Popen(
                [*command, "--host", "127.0.0.1", "--port", str(port)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C goes to this process, which then stops the server
                preexec_fn=_end_with_parent,
            )
        except OSError as error:
            raise LocalServerError(f"cannot start {command[0]}: {error.strerror}") from error
    try:
        message = f"starting the server; it writes to {log}"
        if not console.is_terminal:
            console.print(message, soft_wrap=True, highlight=False)
        with console.status(message):
            _wait_until_ready(process, url, log, ready_timeout)
        yield url
    except RuntimeError as error:  # also raised by the block, usually because the server exited
        if process.poll() is None:
            raise
        raise LocalServerError(
            f"the server ended with exit code {process.returncode}{_last_log_lines(log)}"
        ) from error
    finally:
        _stop(process)


def _end_with_parent() -> None:
    """Stop the server when this process is killed (Linux)."""
    if sys.platform == "linux":
        _libc.prctl(_PARENT_DEATH_SIGNAL, signal.SIGTERM)


def _wait_until_ready(
    process: subprocess.Popen[bytes], url: str, log: Path, timeout: float
) -> None:
    begin = time.monotonic()
    while time.monotonic() - begin < timeout:
        if process.poll() is not None:
            raise LocalServerError("the server ended")
        if _is_ready(url):
            return
        time.sleep(0.5)
    raise LocalServerError(f"the server was not ready after {timeout:.0f} s{_last_log_lines(log)}")


def _is_ready(url: str) -> bool:
    try:
        with urlopen(f"{url}/ready", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:  # not listening yet, or not ready yet
        return False


def _last_log_lines(log: Path, num_lines: int = 20) -> str:
    lines = log.read_text(errors="replace").splitlines()[-num_lines:]
    return "; last log lines:\n" + "\n".join(lines) if lines else " (log is empty)"


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Stop the server and its child processes."""
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(STOP_TIMEOUT)
    with suppress(ProcessLookupError):  # the process group is empty
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
