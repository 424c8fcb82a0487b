"""Progress of long work: a bar with the time left and a warning for long runs."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from training.common.duration import LONG, format_duration

_SURE = 20.0
"""Seconds of work before its end is predicted."""


class Work:
    """A running task, shown as a bar with the time left."""

    def __init__(self, progress: Progress, bar: TaskID, total: float, done: float) -> None:
        """Start the clock."""
        self._progress, self._bar, self._total = progress, bar, total
        self._began, self._start, self._done = time.monotonic(), done, done
        self._warned = False

    def advance(self, count: float) -> None:
        """Add to the amount done."""
        self.update(self._done + count)

    def update(self, done: float) -> None:
        """Set the amount done."""
        self._done = min(done, self._total)
        left = self.seconds_left()
        shown = f"{format_duration(left)} left" if left else ""
        self._progress.update(self._bar, completed=self._done, left=shown)
        if left is not None and left > LONG and not self._warned:
            self._warned = True
            self._progress.console.print(
                f"warning: this takes about {format_duration(left)} more; Ctrl-C stops it, and "
                "re-running the same command resumes it (--quick takes a small size)"
            )

    def seconds_left(self) -> float | None:
        """Seconds left at the pace so far; None while it is unknown."""
        elapsed, done = time.monotonic() - self._began, self._done - self._start
        if elapsed < _SURE or done <= 0:
            return None
        return elapsed / done * (self._total - self._done)


@contextmanager
def progress_bar(
    console: Console, what: str, total: float, unit: str, done: float = 0.0
) -> Iterator[Work]:
    """Show a progress bar while the block runs.

    Args:
        console: Where to print.
        what: Description of the task.
        total: Amount of work.
        unit: What the amount counts.
        done: Amount done by an earlier run.
    """
    counts = TextColumn("{task.completed:,.0f} of {task.total:,.0f} " + unit)
    columns = (TextColumn("{task.description}"), BarColumn(), counts, TimeElapsedColumn())
    with Progress(*columns, TextColumn("{task.fields[left]}"), console=console) as progress:
        bar = progress.add_task(what, total=total, completed=int(min(done, total)), left="")
        yield Work(progress, bar, total, done)
