"""Patience that does not depend on what else the machine does."""

import time
from collections.abc import Callable


def wait_until(condition: Callable[[], object], seconds: float = 240, pause: float = 0.05) -> None:
    """Wait for what an idle machine does at once.

    Args:
        condition: Called until it is true.
        seconds: After which it never will be; far longer than a busy machine takes.
        pause: Seconds between two calls.

    Raises:
        AssertionError: It never was.
    """
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise AssertionError(f"not true after {seconds:g} s")
        time.sleep(pause)
