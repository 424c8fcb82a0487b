"""The page of `benchmarks.gpu`, and what it makes of an engine that ends."""

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from importlib.metadata import packages_distributions
from pathlib import Path
from types import SimpleNamespace

import pytest
import typer

from benchmarks import machine
from benchmarks.gpu import checks, steps
from benchmarks.gpu.__main__ import page, sizes_of
from benchmarks.gpu.checks import Child, Setting, Verdict
from tests.integration.runners.engines import GPU_ENGINES, Engine

SETTING = Setting("cpu", Path("model"))
ROOT = Path(__file__).resolve().parents[3]
OURS = ("benchmarks", "probes", "server", "tests")


def test_the_page_has_a_row_for_every_verdict() -> None:
    verdicts = [Verdict("truth", True, "0 wrong"), Verdict("identity", False, "3 of 4")]
    seconds = {"traffic": 61.2, "identity": 30.4}
    lines = page(machine.describe("benchmarks.gpu"), SETTING, verdicts, seconds)
    assert lines[-2:] == ["| truth | pass | 0 wrong |", "| identity | FAIL | 3 of 4 |"]
    assert "- time: traffic 61 s, identity 30 s; 92 s in all" in lines


@pytest.mark.parametrize(
    ("script", "named"),
    [
        ("echo 'NVIDIA A, 24564 MiB, 580.65'", "NVIDIA A, 24564 MiB, 580.65"),
        ("echo one; echo two", "one and two"),
        ("exit 9", "unknown"),
        (None, "unknown"),
    ],
)
def test_the_page_of_a_gpu_names_the_card(
    script: str | None, named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if script is not None:
        program = tmp_path / "nvidia-smi"
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    lines = page(machine.describe("benchmarks.gpu"), SETTING._replace(device="cuda"), [], {})
    (line,) = (line for line in lines if line.startswith("- device: "))
    assert line.startswith(f"- device: {named}; model: model; engine: V2 with ")


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


@pytest.mark.parametrize(
    ("device", "twin", "ours", "word", "figures"),
    [
        ("cpu", [], [1, 2, 3], "pass", "12 of 12 answers equal stock vLLM's"),
        ("cpu", [], [1, 2, 4], "FAIL", "8 of 12 answers equal stock vLLM's"),
        ("cuda", [1, 2, 3], [1, 2, 4], "FAIL", "8 of 12 answers equal stock vLLM's"),
        ("cuda", [1, 2, 5], [1, 2, 4], "pass", "8 of 8 answers equal stock vLLM's; 4 more differ"),
        ("cuda", [1, 2, 5], [1, 3, 3], "FAIL", "4 of 8 answers equal stock vLLM's; 4 more differ"),
        ("cuda", [7, 8, 9], [1, 2, 3], "FAIL", "0 of 0 answers equal stock vLLM's; 12 more"),
    ],
)
def test_only_answers_that_stock_vllm_repeats_are_compared_with_ours(
    device: str,
    twin: list[int],
    ours: list[int],
    word: str,
    figures: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Engine:
        def __init__(self, answers: list[int]) -> None:
            self.answers = answers

        def ask(self, name: str, **rest: int) -> list[int]:
            return self.answers

        def stop(self) -> None:
            pass

        def result(self) -> str:
            return "ready"

    started = iter([[1, 2, 3], *([twin] if twin else []), ours])
    monkeypatch.setattr(checks, "Child", lambda *_: Engine(next(started)))
    found = checks.identity(SETTING._replace(device=device, prompts=3), drafts=False)
    assert found.word == word
    assert found.figures.startswith(figures)
    assert next(started, None) is None, "every engine was started"


def statements(nodes: Iterable[ast.AST]) -> Iterator[ast.AST]:
    """Every node that runs, those of a type checker left out."""
    for node in nodes:
        if not (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"):
            yield node
            yield from statements(ast.iter_child_nodes(node))


def imported(modules: Iterable[str], seen: set[str]) -> Iterator[str]:
    """Packages of others that our modules import, and those that they import."""
    for module in modules:
        path = ROOT / module.replace(".", "/")
        file = path.with_suffix(".py") if path.with_suffix(".py").exists() else path / "__init__.py"
        if module.partition(".")[0] not in OURS:
            yield module.partition(".")[0]
        elif module not in seen and file.exists():
            seen.add(module)
            names = set[str]()
            for node in statements(ast.parse(file.read_text()).body):
                if isinstance(node, ast.Import):
                    names |= {alias.name for alias in node.names}
                elif isinstance(node, ast.ImportFrom):
                    names |= {f"{node.module}.{alias.name}" for alias in node.names}
                    names.add(str(node.module))
            yield from imported(names, seen)


def test_the_lock_for_a_gpu_has_every_package_that_the_checks_import() -> None:
    """`make test-gpu` installs nothing else: none of what only other tests need."""
    locked = re.findall(r"^([\w.-]+)==", (ROOT / "requirements/gpu.lock").read_text(), re.M)
    programs = ("benchmarks.gpu.__main__", "benchmarks.gpu.engine", "server.engine.plugin")
    hooked = ("server.engine.runner_v2", "tests.integration.runners.traffic")
    foreign = {*imported((*programs, *hooked), set())} - sys.stdlib_module_names
    assert {"torch", "transformers", "vllm"} < foreign, "the imports are followed"
    packages = {**packages_distributions(), "vllm": ["vllm"]}
    named = {
        name: {re.sub(r"[._-]+", "-", one).lower() for one in packages[name]} for name in foreign
    }
    assert {name for name, ours in named.items() if not ours & {*locked}} == set()


@pytest.mark.parametrize("engine", GPU_ENGINES.values(), ids=GPU_ENGINES)
def test_the_engines_of_a_check_fit_on_one_card(engine: Engine) -> None:
    """vLLM's default share, 0.92, is more than a second engine finds free."""
    together = len([*checks.STOCK, "ours"])
    assert together * engine.options()["gpu_memory_utilization"] <= 0.92
    assert "gpu_memory_utilization" not in Setting("cuda", Path("model")).options()


OF_VLLM = "vllm/v1/worker/utils.py:9: UserWarning: called a synchronizing CUDA operation (Trig\n"
OF_TESTS = OF_VLLM.replace("vllm/v1/worker/utils", "/x/tests/integration/runners/inprocess")
OF_OURS = OF_VLLM.replace("vllm/v1/worker/utils", "/x/server/engine/slots")
COPIED = (
    "/x/server/engine/step.py:52: UserWarning: Tensor.to: a non_blocking H2D copy that may be "
    "silently synchronous (the CPU tensor is not pinned). Implicit GPU<->CPU sync detected\n"
)


@pytest.mark.parametrize(
    ("stderr", "word", "waits"),
    [
        ("", "pass", "0 waits;"),
        (OF_VLLM + OF_TESTS, "pass", "0 waits;"),
        (OF_OURS * 2, "FAIL", "1 waits: server/engine/slots.py:9;"),
        (COPIED + OF_OURS, "FAIL", "2 waits: server/engine/slots.py:9, server/engine/step.py:52;"),
    ],
)
def test_no_line_of_the_engine_waits_for_the_device(
    stderr: str, word: str, waits: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("tokens", "steered", "preempted", "aborted", "drafts", "failures")
    found = dict.fromkeys(names, 0) | {"answers": 3, "worst": {}, "wrong": []}
    done = SimpleNamespace(stdout=f"TRAFFIC {json.dumps(found)}\n", stderr=stderr)

    def run(command: list[str], env: dict[str, str], **options: object) -> SimpleNamespace:
        assert env["VLLM_GPU_SYNC_CHECK"] == "warn"
        return done

    monkeypatch.setattr(subprocess, "run", run)
    verdict = checks.traffic(SETTING._replace(device="cuda"), drafts=False)
    assert (verdict.word, waits in verdict.figures) == (word, True)


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
