"""Memory of the page and of the server while every control is used for a long time.

`LONG_TESTS=1 pytest -s tests/browser/test_memory.py` takes half an hour; `MEMORY_MINUTES` shortens
it.
"""

import os
import statistics
import time
from contextlib import suppress
from itertools import cycle
from typing import Any, NamedTuple

import psutil
import pytest

from tests.browser.actions import ask, expect, fill, open_panel, request, switch_on
from tests.conftest import Server
from tests.long import is_long

MINUTES = float(os.environ.get("MEMORY_MINUTES", "30"))
MIB = 1 << 20
UNDO_NODES, UNDO_STEPS = 2, 1000
"""Nodes that Chromium keeps to undo the writing of one message, in any text area; the last so many
messages."""


class Reading(NamedTuple):
    """Memory at one time."""

    minutes: float
    heap: float
    """Live objects of the page, MiB."""
    nodes: int
    """Of the document, without those that undo a message."""
    server: float
    """Resident memory of all processes of the server, MiB."""


def resident(server: Server) -> float:
    """Resident memory of the processes of a server, MiB."""
    first = psutil.Process(server.process.pid)
    found = 0
    for process in (first, *first.children(recursive=True)):
        with suppress(psutil.NoSuchProcess):  # it ended
            found += process.memory_info().rss
    return found / MIB


def read(page: Any, session: Any, server: Server, begin: float, messages: int) -> Reading:
    session.send("HeapProfiler.collectGarbage")
    heap = session.send("Runtime.getHeapUsage")["usedSize"] / MIB
    nodes = session.send("Memory.getDOMCounters")["nodes"] - UNDO_NODES * min(messages, UNDO_STEPS)
    minutes = (time.monotonic() - begin) / 60
    return Reading(round(minutes, 1), round(heap, 2), nodes, round(resident(server), 1))


def use(page: Any, control: str) -> None:
    """Ask twice with one control, then clear the conversation."""
    switch_on(page, f"entropy.{control}")
    if control == "vote":
        fill(page, "entropy.vote.n", "3")
    if control == "semantic":
        fill(page, "entropy.semantic.n", "3")
    if control == "temperature":
        fill(page, "entropy.temperature.type", "edt")
    if control == "inquiry":
        fill(page, "entropy.inquiry.task", "smollm2-135m/animals")
    for text in ("Name a color.", "Yes"):
        ask(page, text)
    page.locator(f'[data-path="entropy.{control}"]').get_by_role("checkbox").first.uncheck()
    page.get_by_role("button", name="Clear").click()


def decide(page: Any) -> None:
    page.get_by_role("button", name="Decisions").click()
    page.get_by_label("Text to decide about").fill("The parcel is late.")
    fill(page, "decision.questions.0.instructions", "Which team?")
    for place, name in enumerate(("billing", "shipping")):
        fill(page, f"decision.questions.0.choices.{place}.value", name)
    page.get_by_role("button", name="Decide", exact=True).click()
    expect(page.get_by_label("Decision Which team?")).to_be_visible()
    page.get_by_role("button", name="Chat").click()


@pytest.mark.skipif(not is_long(), reason="LONG_TESTS=1 runs it")
@pytest.mark.timeout(0)
def test_memory_does_not_grow(page: Any, served: Server) -> None:
    session = page.context.new_cdp_session(page)
    request(page, max_tokens="8")
    open_panel(page, "Controls")
    begin, readings = time.monotonic(), list[Reading]()
    controls = cycle(("temperature", "difficulty", "inquiry", "vote", "semantic", "confidence"))
    while time.monotonic() < begin + 60 * MINUTES:
        for _ in range(6):
            use(page, next(controls))
        decide(page)
        messages = 12 * (len(readings) + 1)
        readings.append(read(page, session, served, begin, messages))
        print(*readings[-1], flush=True)
    third = len(readings) // 3
    assert third >= 3, "too short to tell growth from warming up"
    before, after = readings[third : 2 * third], readings[2 * third :]
    for field, slack in (("heap", 0.5), ("nodes", 50), ("server", 16)):
        earlier, later = (
            statistics.median(getattr(one, field) for one in part) for part in (before, after)
        )
        assert later <= earlier + slack, (field, earlier, later)
