"""The page of `benchmarks.gpu`, and what it makes of an engine that ends."""

import sys
from pathlib import Path

import pytest

from benchmarks import machine
from benchmarks.gpu import checks
from benchmarks.gpu.__main__ import page
from benchmarks.gpu.checks import Child, Setting, Verdict

SETTING = Setting("cpu", Path("model"))


def test_the_page_has_a_row_for_every_verdict() -> None:
    verdicts = [Verdict("truth", True, "0 wrong"), Verdict("identity", False, "3 of 4")]
    lines = page(machine.describe("benchmarks.gpu"), SETTING, verdicts)
    assert lines[-2:] == ["| truth | pass | 0 wrong |", "| identity | FAIL | 3 of 4 |"]


def test_the_overhead_is_the_median_over_rounds_of_the_ratio_in_the_same_round(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A machine that gets slower hits both alike; a law that misses its target fails."""
    clock = {"now": 100.0}

    class Engine:
        def __init__(self, share: float) -> None:
            self.share = share

        def ask(self, name: str, *, law: str | None, **rest: int) -> float:
            clock["now"] *= 0.999
            return clock["now"] * (0.9 if law == "dynatemp" else 1.0) * self.share

        def stop(self) -> None:
            pass

        def result(self) -> str:
            return "ready"

    shares = iter([1.0, 0.999])
    monkeypatch.setattr(checks, "Child", lambda *_: Engine(next(shares)))
    small = SETTING._replace(batches=(1,), rounds=4)
    verdicts = {one.check.rpartition(", ")[2]: one.passed for one in checks.overhead(small)}
    assert verdicts == {"no control": True, "dynatemp": False, "entropy_target": True}


def test_an_engine_that_ends_is_an_error_with_its_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\necho no device >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(broken))
    child = Child({}, {}, tmp_path / "log")
    with pytest.raises(RuntimeError, match="no device"):
        child.result()
    child.stop()
