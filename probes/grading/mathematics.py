"""Equality of mathematical texts, decided by math-verify in worker processes."""

import atexit
import json
import os
import selectors
import subprocess
import sys
import threading
from contextlib import suppress
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from queue import Empty, LifoQueue

_WORKER = Path(__file__).with_name("math_worker.py")
_WALL_SECONDS = 60.0
"""For a line, the worker's start included; the worker itself bounds its CPU time."""
MAX_CHARACTERS = 1000
"""Of a text that is compared by value; a longer one is equal only where it is the same text."""


class _Worker:
    """A process that compares one pair of texts at a time."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-P", str(_WORKER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def equal(self, text: str, answer: str) -> bool | None:
        """Whether the texts are equal; None where the worker ended or does not answer."""
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(json.dumps({"text": text, "answer": answer}) + "\n")
            process.stdin.flush()
        except OSError:
            return None
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            ready = selector.select(_WALL_SECONDS)
        line = process.stdout.readline() if ready else ""
        return json.loads(line) if line.endswith("\n") else None

    def stop(self) -> None:
        """End the process."""
        process = self._process
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            with suppress(OSError):
                if pipe is not None:
                    pipe.close()


class _Workers:
    """Idle workers, and no more than one per CPU core at a time."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Drop all workers; needed in a forked child, whose parent owns them."""
        self._idle: LifoQueue[_Worker] = LifoQueue()
        self._free = threading.BoundedSemaphore(os.cpu_count() or 1)

    def equal(self, text: str, answer: str) -> bool:
        with self._free:
            try:
                worker = self._idle.get_nowait()
            except Empty:
                worker = _Worker()
            result = worker.equal(text, answer)
            if result is None:
                worker.stop()
                return False
            self._idle.put(worker)
            return result

    def stop(self) -> None:
        """End the idle workers."""
        with suppress(Empty):
            while True:
                self._idle.get_nowait().stop()


_workers = _Workers()
os.register_at_fork(after_in_child=_workers.reset)
atexit.register(_workers.stop)


@lru_cache(maxsize=4096)
def equal(text: str, answer: str) -> bool:
    r"""Whether a text is mathematically this answer, as math-verify reads LaTeX.

    Works in any thread. A pair takes at most two seconds of CPU time; one that takes longer is
    not equal.

    Raises:
        ModuleNotFoundError: math-verify is not installed.
    """
    if find_spec("math_verify") is None:
        raise ModuleNotFoundError("No module named 'math_verify'", name="math_verify")
    return _workers.equal(text, answer)
