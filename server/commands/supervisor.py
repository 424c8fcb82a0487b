"""Runs the server in a child process and answers for its start: progress, stop, end with a reason.

While vLLM starts, a signal to its process may be lost in a library, and a worker that dies may
leave the others waiting. The supervisor imports next to nothing, so it reacts at any moment.
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

STOP_SECONDS = 3.0
"""What a starting server gets to end by itself after SIGTERM or SIGINT."""
CHILD_SECONDS = 10.0
"""What a starting server gets to end by itself after one of its processes died."""
_POLL_SECONDS = 0.2
_TREE_SECONDS = 1.0
_PROGRESS_SECONDS = 10.0
_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of prctl(2)


def supervise(run: Callable[[Path], None]) -> int:
    """Run a server in a child process until it ends; returns the exit code of the command.

    Args:
        run: Starts and runs the server, which sends its messages to this socket; called in the
            child, where what it raises propagates.
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
    """End the child with SIGTERM when the supervisor is killed (Linux)."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(_PARENT_DEATH_SIGNAL, signal.SIGTERM)


class _Signals:
    """Signals of the supervisor, kept until its loop looks at them."""

    def __init__(self) -> None:
        self._received: list[int] = []
        for one in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(one, self._keep)

    def _keep(self, signum: int, frame: FrameType | None) -> None:
        self._received.append(signum)

    def take(self) -> list[int]:
        taken, self._received = self._received, []
        return taken

    def reset(self) -> None:
        """Give the child the default handlers, and what arrived before it had them."""
        for one in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(
                one, signal.default_int_handler if one == signal.SIGINT else signal.SIG_DFL
            )


@dataclass
class _Supervisor:
    child: int
    signals: _Signals
    messages: StartupMessages
    begun: float = field(default_factory=time.monotonic)
    stage: str = "loading libraries"
    address: str = ""
    ready: bool = False
    stopped_by: int | None = None
    deadline: float | None = None
    """When the whole tree is killed."""
    reason: str | None = None
    """Why a start ended before the server was ready."""
    processes: dict[int, Any] = field(default_factory=dict)
    """vLLM's long-lived processes below the child, by process id."""
    next_progress: float = 0.0
    next_look: float = 0.0

    def wait(self) -> int:
        """Forward signals and watch the start until the child has ended."""
        self.next_progress = self.begun + _PROGRESS_SECONDS
        while True:
            pid, status = os.waitpid(self.child, os.WNOHANG)
            if pid == self.child:
                return self._ended(os.waitstatus_to_exitcode(status))
            for one in self.signals.take():
                self._signalled(one)
            self._heard(self.messages.receive(_POLL_SECONDS))
            now = time.monotonic()
            if not self.ready:
                self._watch(now)
            if self.deadline is not None and now > self.deadline:
                self._kill()

    def _signalled(self, signum: int) -> None:
        with suppress(ProcessLookupError):
            os.kill(self.child, signal.SIGTERM if signum == signal.SIGINT else signum)
        if signum == signal.SIGHUP:
            return
        if self.stopped_by is not None:  # asked twice: now
            self.deadline = time.monotonic()
        elif not self.ready:
            self._look()
            self.deadline = time.monotonic() + STOP_SECONDS
        self.stopped_by = signum

    def _heard(self, message: dict[str, Any] | None) -> None:
        if message is None:
            return
        if message.get("ready") and not self.ready and self.stopped_by is None:
            self.ready = True
            self.deadline = None
            _say(ready_lines(self.address, message["models"], message["profiles"]))
        elif "address" in message:
            self.address = str(message["address"])
        elif "stage" in message and message["stage"] != self.stage:
            self.stage = str(message["stage"])
            self._progress()

    def _watch(self, now: float) -> None:
        """While the server starts: say how it goes, and notice a process that died."""
        if now >= self.next_progress and self.stopped_by is None:
            self._progress()
        if now < self.next_look:
            return
        self.next_look = now + _TREE_SECONDS
        self._look()
        if self.reason is None and self.stopped_by is None:
            dead = [name for name, process in self.processes.values() if not _is_alive(process)]
            if dead:
                self.reason = f"the process {dead[0]} died while the server was starting"
                self.deadline = now + CHILD_SECONDS

    def _progress(self) -> None:
        elapsed = time.monotonic() - self.begun
        self.next_progress = time.monotonic() + _PROGRESS_SECONDS
        _say([f"entrostat: {self.stage} ({elapsed:.0f} s)"])

    def _look(self) -> None:
        """Remember the processes below the child that live as long as the server does."""
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
        """End the child and everything below it."""
        import psutil

        self.deadline = None
        self._look()
        below: list[Any] = []
        with suppress(psutil.Error):
            below = psutil.Process(self.child).children(recursive=True)
        with suppress(ProcessLookupError):
            os.kill(self.child, signal.SIGKILL)
        for process in below:
            with suppress(psutil.Error):
                process.kill()

    def _kill_orphans(self) -> None:
        """End the engine and worker processes that outlived the child."""
        import psutil

        for _, process in self.processes.values():
            with suppress(psutil.Error):
                process.kill()

    def _ended(self, code: int) -> int:
        """Exit code of the command, after whatever is left of the tree was ended."""
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
    """Whether this is one of vLLM's engine or worker processes, and no compiler or tool."""
    return process.name().startswith("VLLM") or "spawn_main" in " ".join(process.cmdline())


def _is_alive(process: Any) -> bool:
    import psutil

    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def ready_lines(address: str, models: list[str], profiles: list[str]) -> list[str]:
    """What the user reads when the server is ready."""
    return [
        f"entrostat: ready at {address}",
        f"entrostat: models {', '.join(models)}; profiles {', '.join(profiles) or 'none'}, "
        f"as {models[0]}@PROFILE"
        if models
        else "entrostat: no model",
        f'entrostat: try `entrostat chat "Why is the sky blue?" --url {address}/v1`',
    ]


def _say(lines: list[str]) -> None:
    for line in lines:
        print(line, file=sys.stderr, flush=True)
