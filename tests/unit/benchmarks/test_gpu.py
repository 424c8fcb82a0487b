"""The page of `benchmarks.gpu`, and what it makes of an engine that ends."""

import sys
from pathlib import Path

import pytest
import typer

from benchmarks import machine
from benchmarks.gpu import checks, steps
from benchmarks.gpu.__main__ import page, sizes_of
from benchmarks.gpu.checks import Child, Setting, Verdict

SETTING = Setting("cpu", Path("model"))


def test_the_page_has_a_row_for_every_verdict() -> None:
    verdicts = [Verdict("truth", True, "0 wrong"), Verdict("identity", False, "3 of 4")]
    lines = page(machine.describe("benchmarks.gpu"), SETTING, verdicts)
    assert lines[-2:] == ["| truth | pass | 0 wrong |", "| identity | FAIL | 3 of 4 |"]


def test_batch_sizes_are_positive_whole_numbers() -> None:
    assert sizes_of("8,64") == (8, 64)
    for wrong in ("8,", "0", "-1", "1.5", "², 1"):
        with pytest.raises(typer.BadParameter, match="positive whole numbers"):
            sizes_of(wrong)


class Drifting:
    """An engine on a machine that gets slower; `share` is how fast it is beside another.

    The interpreter has half of the time of stock vLLM, and more of ours.
    """

    now = 100.0

    def __init__(self, share: float, *, ours: bool) -> None:
        self.share, self.ours = share, ours

    def ask(self, name: str, *, law: str | None, **rest: int) -> list[float]:
        Drifting.now *= 0.999
        outside = Drifting.now * (0.9 if law == "dynatemp" else 1.0) * self.share
        return [outside * (0.4 if self.ours else 0.5), outside]

    def stop(self) -> None:
        pass

    def result(self) -> str:
        return "ready"


def overhead(
    monkeypatch: pytest.MonkeyPatch, setting: Setting, *, twin: float
) -> dict[str, Verdict]:
    """Verdicts by law; the second process of stock vLLM is `twin` times as fast as the first."""
    speeds = iter([1.0, twin, (1 + twin) / 2])
    monkeypatch.setattr(
        checks, "Child", lambda asked, *_: Drifting(next(speeds), ours=asked["ours"])
    )
    return {one.check.rpartition(", ")[2]: one for one in checks.overhead(setting)}


SMALL = SETTING._replace(batches=(1,), rounds=8)


def test_the_overhead_is_the_median_over_rounds_of_the_ratio_in_the_same_round(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A machine that gets slower hits all alike; a law that misses its target fails."""
    found = overhead(monkeypatch, SMALL, twin=1.0)
    words = {law: one.word for law, one in found.items()}
    assert words == {"no control": "pass", "dynatemp": "FAIL", "entropy_target": "pass"}
    assert found["no control"].figures.startswith(("0.79", "0.80"))
    assert "interpreter, which is 50% of stock's time" in found["no control"].figures
    on_gpu = overhead(monkeypatch, SMALL._replace(device="cuda"), twin=1.0)
    assert {one.word for one in on_gpu.values()} == {"FAIL"}, "there every second counts"


@pytest.mark.parametrize("twin", [0.9, 1.1])
def test_a_verdict_within_what_two_stock_processes_differ_by_is_unsure(
    monkeypatch: pytest.MonkeyPatch, twin: float
) -> None:
    found = overhead(monkeypatch, SMALL, twin=twin)
    words = {law: one.word for law, one in found.items()}
    assert words["no control"] == "pass, unsure"
    assert words["dynatemp"] == "FAIL, unsure", "noise makes no failure pass"
    told = found["dynatemp"].figures.partition("a second process of stock over the first: ")[2]
    assert float(told.partition(" ")[0]) == pytest.approx(twin, abs=0.01)


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
    found = {one.check.rpartition(", ")[2]: one for one in steps.truncations(SETTING)}
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


def test_a_report_is_compared_with_no_control_and_confidence_with_the_report(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Engine:
        def ask(self, name: str, *, control: str = "", **rest: int) -> float:
            return {"summary": 1.02, "confidence": 1.12}.get(control, 1.0)

        def stop(self) -> None:
            pass

        def result(self) -> str:
            return "ready"

    monkeypatch.setattr(checks, "Child", lambda *_: Engine())
    found = steps.reports(SETTING)
    assert [one.passed for one in found] == [True, False] * 3
    assert [one.figures[:5] for one in found[:2]] == ["0.980", "0.911"]
