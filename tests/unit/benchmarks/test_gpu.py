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
    """A machine that gets slower hits both alike; a law that misses its target fails.

    The interpreter has half of the time of stock vLLM, and more of ours.
    """
    clock = {"now": 100.0}

    class Engine:
        def __init__(self, share: float) -> None:
            self.share = share

        def ask(self, name: str, *, law: str | None, **rest: int) -> list[float]:
            clock["now"] *= 0.999
            outside = clock["now"] * (0.9 if law == "dynatemp" else 1.0) * self.share
            return [outside * (0.5 if self.share == 1.0 else 0.4), outside]

        def stop(self) -> None:
            pass

        def result(self) -> str:
            return "ready"

    shares = iter([1.0, 0.999] * 2)
    monkeypatch.setattr(checks, "Child", lambda *_: Engine(next(shares)))
    small = SETTING._replace(batches=(1,), rounds=4)
    found = {one.check.rpartition(", ")[2]: one for one in checks.overhead(small)}
    verdicts = {law: one.passed for law, one in found.items()}
    assert verdicts == {"no control": True, "dynatemp": False, "entropy_target": True}
    assert found["no control"].figures.startswith("0.79")
    assert "interpreter, which is 50% of stock's time" in found["no control"].figures
    on_gpu = checks.overhead(small._replace(device="cuda"))
    assert not any(one.passed for one in on_gpu), "there every second counts"


def test_a_truncation_that_costs_more_than_its_share_fails(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Engine:
        def ask(self, name: str, *, control: str, **rest: int) -> float:
            return {"mirostat": 1.05, "p_less": 1.02}.get(control, 1.0)

        def stop(self) -> None:
            pass

        def result(self) -> str:
            return "ready"

    monkeypatch.setattr(checks, "Child", lambda *_: Engine())
    found = {one.check.rpartition(", ")[2]: one for one in checks.truncations(SETTING)}
    assert [one.passed for one in found.values()] == [False, True, True]
    assert found["mirostat"].figures.startswith("0.952 ")


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
