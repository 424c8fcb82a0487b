"""Progress of long work: a bar with the time left, durations in words, a warning for long runs."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

LONG = 4 * 3600.0
"""Seconds; work that takes longer is warned of."""
_SURE = 20.0
"""Seconds of work before its end is predicted."""


def in_words(seconds: float) -> str:
    """A duration to read, such as `2 days and 3 hours`, `1 hour and 20 minutes`, `40 seconds`."""
    minutes, rest = divmod(round(seconds), 60)
    if not minutes:
        return _counted(rest, "second")
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    parts = [(days, "day"), (hours, "hour"), (minutes, "minute")]
    first = next(place for place, (count, _) in enumerate(parts) if count)
    words = [_counted(count, unit) for count, unit in parts[first : first + 2] if count]
    return " and ".join(words)


def _counted(count: int, unit: str) -> str:
    return f"{count} {unit}" + ("" if count == 1 else "s")


class Work:
    """Work under way, shown as a bar with the time left."""

    def __init__(self, progress: Progress, bar: TaskID, total: float, done: float) -> None:
        """Begin to count the time."""
        self._progress, self._bar, self._total = progress, bar, total
        self._began, self._start, self._done = time.monotonic(), done, done
        self._warned = False

    def advance(self, count: float) -> None:
        """Count more of it as done."""
        self.update(self._done + count)

    def update(self, done: float) -> None:
        """Set how much of it is done."""
        self._done = min(done, self._total)
        left = self.seconds_left()
        shown = "" if left is None else f"{in_words(left)} left"
        self._progress.update(self._bar, completed=self._done, left=shown)
        if left is not None and left > LONG and not self._warned:
            self._warned = True
            self._progress.console.print(
                f"warning: this takes about {in_words(left)} more; Ctrl-C stops it, and re-running "
                "the same command resumes it (--quick takes a small size)"
            )

    def seconds_left(self) -> float | None:
        """Seconds at the pace so far; None while that is not known."""
        elapsed, done = time.monotonic() - self._began, self._done - self._start
        if elapsed < _SURE or done <= 0:
            return None
        return elapsed / done * (self._total - self._done)


@contextmanager
def working(
    console: Console, what: str, total: float, unit: str, done: float = 0.0
) -> Iterator[Work]:
    """Show a bar while a block works.

    Args:
        console: Where to.
        what: Is done.
        total: How much of it there is.
        unit: What is counted.
        done: How much of it was done before.
    """
    counts = TextColumn("{task.completed:,.0f} of {task.total:,.0f} " + unit)
    columns = (TextColumn("{task.description}"), BarColumn(), counts, TimeElapsedColumn())
    with Progress(*columns, TextColumn("{task.fields[left]}"), console=console) as progress:
        bar = progress.add_task(what, total=total, completed=int(min(done, total)), left="")
        yield Work(progress, bar, total, done)
