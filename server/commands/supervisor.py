"""Runs the server in a child process and supervises its start: progress, signals, exit reason.

While vLLM starts, a library may swallow a signal, and the death of a worker may leave the other
processes waiting. The supervisor imports few modules, so it can respond at any time.
"""

import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from server.commands.startup import StartupMessages
from server.settings import settings

STOP_SECONDS = 3.0
"""Grace period of a starting server after SIGTERM or SIGINT."""
CHILD_SECONDS = 10.0
"""Grace period of a starting server after one of its processes dies."""
_POLL_SECONDS = 0.2
_TREE_SECONDS = 1.0
_PROGRESS_SECONDS = 10.0
_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of prctl(2)


def supervise(run: Callable[[Path], None]) -> int:
    """Run a server in a child process until it exits; return the exit code of the command.

    Args:
        run: Runs the server, whose startup messages go to the given socket. It is called in the
            child process, where its exceptions propagate.
    """
    signals = _Signals()
    messages = StartupMessages()
    child = os.fork()
    if child == 0:
        signals.reset()
        _end_with_parent()
        run(messages.path)
        return 0
    try:
        return _Supervisor(child, signals, messages).wait()
    finally:
        messages.close()


def _end_with_parent() -> None:
    """Send SIGTERM to the child when the supervisor is killed (Linux only)."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(_PARENT_DEATH_SIGNAL, signal.SIGTERM)


class _Signals:
    """Signals received by the supervisor, queued for its main loop."""

    def __init__(self) -> None:
        self._received: list[int] = []
        for one in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(one, self._on_signal)

    def _on_signal(self, signum: int, frame: FrameType | None) -> None:
        self._received.append(signum)

    def take(self) -> list[int]:
        taken, self._received = self._received, []
        return taken

    def reset(self) -> None:
        """Restore the default handlers in the child."""
        for one in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(
                one, signal.default_int_handler if one == signal.SIGINT else signal.SIG_DFL
            )


@dataclass
class _Supervisor:
    child: int
    signals: _Signals
    messages: StartupMessages
    started: float = field(default_factory=time.monotonic)
    stage: str = "loading libraries"
    address: str = ""
    ready: bool = False
    stopped_by: int | None = None
    deadline: float | None = None
    """Time at which the process tree is killed."""
    reason: str | None = None
    """Why the start failed."""
    processes: dict[int, Any] = field(default_factory=dict)
    """Name and handle of vLLM's long-lived descendant processes, by process id."""
    next_progress: float = 0.0
    next_scan: float = 0.0

    def wait(self) -> int:
        """Forward signals and monitor the start until the child exits."""
        self.next_progress = self.started + _PROGRESS_SECONDS
        while True:
            pid, status = os.waitpid(self.child, os.WNOHANG)
            if pid == self.child:
                while (message := self.messages.receive(0)) is not None:
                    self._handle_message(message)
                return self._finish(os.waitstatus_to_exitcode(status))
            for one in self.signals.take():
                self._forward_signal(one)
            self._handle_message(self.messages.receive(_POLL_SECONDS))
            now = time.monotonic()
            if not self.ready:
                self._check_start(now)
            if self.deadline is not None and now > self.deadline:
                self._kill()

    def _forward_signal(self, signum: int) -> None:
        with suppress(ProcessLookupError):
            os.kill(self.child, signal.SIGTERM if signum == signal.SIGINT else signum)
        if signum == signal.SIGHUP:
            return
        if self.stopped_by is not None:  # a second signal: kill now
            self.deadline = time.monotonic()
        elif not self.ready:
            self._find_processes()
            self.deadline = time.monotonic() + STOP_SECONDS
        self.stopped_by = signum

    def _handle_message(self, message: dict[str, Any] | None) -> None:
        if message is None:
            return
        if message.get("ready") and not self.ready and self.stopped_by is None:
            self.ready = True
            self.deadline = None
            _print_lines(ready_lines(self.address, message["models"], message["profiles"]))
        elif "failure" in message:
            self.reason = str(message["failure"])
        elif "address" in message:
            self.address = str(message["address"])
        elif "stage" in message and message["stage"] != self.stage:
            self.stage = str(message["stage"])
            self._print_progress()

    def _check_start(self, now: float) -> None:
        """While the server starts: report progress and detect processes that died."""
        if now >= self.next_progress and self.stopped_by is None:
            self._print_progress()
        if now < self.next_scan:
            return
        self.next_scan = now + _TREE_SECONDS
        self._find_processes()
        if self.reason is None and self.stopped_by is None:
            dead = [name for name, process in self.processes.values() if not _is_alive(process)]
            if dead:
                self.reason = f"the process {dead[0]} died while the server was starting"
                self.deadline = now + CHILD_SECONDS

    def _print_progress(self) -> None:
        elapsed = time.monotonic() - self.started
        self.next_progress = time.monotonic() + _PROGRESS_SECONDS
        _print_lines([f"entrostat: {self.stage} ({elapsed:.0f} s)"])

    def _find_processes(self) -> None:
        """Record the long-lived descendants of the child."""
        import psutil

        with suppress(psutil.Error):
            for process in psutil.Process(self.child).children(recursive=True):
                if process.pid not in self.processes and _is_long_lived(process):
                    self.processes[process.pid] = (f"{process.pid}", process)
        for pid, (_, process) in self.processes.items():
            with suppress(psutil.Error):
                if process.name().startswith("VLLM"):
                    self.processes[pid] = (f"{process.name()} ({pid})", process)

    def _kill(self) -> None:
        """Kill the child and its descendants."""
        import psutil

        self.deadline = None
        self._find_processes()
        below: list[Any] = []
        with suppress(psutil.Error):
            below = psutil.Process(self.child).children(recursive=True)
        with suppress(ProcessLookupError):
            os.kill(self.child, signal.SIGKILL)
        for process in below:
            with suppress(psutil.Error):
                process.kill()

    def _kill_orphans(self) -> None:
        """Kill engine and worker processes that outlived the child."""
        import psutil

        for _, process in self.processes.values():
            with suppress(psutil.Error):
                process.kill()

    def _finish(self, code: int) -> int:
        """Kill remaining processes; return the exit code of the command."""
        self._kill_orphans()
        if self.stopped_by is not None:
            return max(code, 0) if self.ready else 128 + self.stopped_by
        if code < 0:
            name = signal.Signals(-code).name
            self.reason = self.reason or f"the server process was ended by {name}"
            code = 128 - code
        if (not self.ready and code not in (0, 2)) or self.reason is not None:
            reason = self.reason or "the cause is in the log above"
            what = "ended" if self.ready else "ended before it was ready"
            print(f"entrostat serve: {what} (exit code {code}): {reason}", file=sys.stderr)
        return code


def _is_long_lived(process: Any) -> bool:
    """Whether this is a vLLM engine or worker process, not a compiler or another tool.

    Between fork and exec, a tool has the name and the command line of the process that started it.
    """
    command = process.cmdline()
    if not (process.name().startswith("VLLM") or "spawn_main" in " ".join(command)):
        return False
    parent = process.parent()
    return parent is None or parent.cmdline() != command


def _is_alive(process: Any) -> bool:
    import psutil

    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def ready_lines(address: str, models: list[str], profiles: list[str]) -> list[str]:
    """Lines printed when the server is ready."""
    opens = settings().playground and address.startswith("http")
    return [
        f"entrostat: ready at {address}",
        f"entrostat: models {', '.join(models)}; profiles {', '.join(profiles) or 'none'}, "
        f"as {models[0]}@PROFILE"
        if models
        else "entrostat: no model",
        f'entrostat: try `entrostat chat "Why is the sky blue?" --url {address}/v1`'
        + (f", or open {address}/ in a browser" if opens else ""),
    ]


def _print_lines(lines: list[str]) -> None:
    for line in lines:
        print(line, file=sys.stderr, flush=True)
