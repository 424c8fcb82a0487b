"""The checks of `benchmarks.gpu`: each returns a verdict with the figures that it rests on."""

import json
import random
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tests.integration.runners.engines import ENGINES, GPU_ENGINES, Engine

ROOT = Path(__file__).parents[2]
TARGETS = {None: 0.99, "dynatemp": 0.98, "entropy_target": 0.94}
"""Least throughput over stock vLLM's, by law; None is a request without control."""
STOCK = ("stock", "twin")
"""Processes of stock vLLM. What the second differs by from the first, no control has caused."""
MAX_STEP_BATCH = 64
"""Most requests of a step that `benchmarks.gpu.steps` measures."""
_WAITS = re.compile(r"(server/engine/\w+\.py:\d+): UserWarning: .*synchron")
"""Of `VLLM_GPU_SYNC_CHECK`: a line of ours for which the host waits, or may wait."""
FIRST_RATIO = 1.5
"""Most that the longest step of a first controlled request may take over that of a second."""


class Setting(NamedTuple):
    """Where the checks run, and how much they do."""

    device: str
    """`cuda`, or `cpu`: Triton's interpreter runs the kernels, without CUDA graphs."""
    model: Path
    batches: tuple[int, ...] = (1, 16, 64, 256)
    rounds: int = 7
    step_rounds: int = 30
    tokens: int = 64
    requests: int = 40
    prompts: int = 30
    is_v1: bool = False

    def engine(self, *, drafts: bool = False) -> tuple[str, Engine]:
        """Name and description of the engine under test."""
        if self.device == "cuda":
            name = "gpu-drafts" if drafts else "gpu"
            return name, GPU_ENGINES[name]
        name = "v1" if self.is_v1 else "v2-drafts" if drafts else "v2"
        return name, ENGINES[name]

    @property
    def wall(self) -> bool:
        """Whether time is that of the clock; on a CPU, which others may use, it is CPU time."""
        return self.device == "cuda"

    def options(self) -> dict[str, Any]:
        """Arguments of `vllm.LLM` that every engine gets, stock vLLM's and ours."""
        return {
            "dtype": "auto" if self.device == "cuda" else "float32",
            "max_model_len": 512,
            "block_size": 32,
            "max_num_seqs": max(*self.batches, 2 * self.prompts, MAX_STEP_BATCH),
            "kv_cache_memory_bytes": (4 << 30) if self.device == "cuda" else (1 << 29),
            "distributed_executor_backend": "uni",
            "enable_prefix_caching": False,
        }


class Verdict(NamedTuple):
    """What a check found."""

    check: str
    passed: bool
    figures: str
    unsure: bool = False
    """Whether another run may find the opposite."""

    @property
    def word(self) -> str:
        """For a reader."""
        return ("pass" if self.passed else "FAIL") + (", unsure" if self.unsure else "")


class Child:
    """A `benchmarks.gpu.engine`."""

    def __init__(self, asked: dict[str, Any], env: dict[str, str], log: Path) -> None:
        command = [sys.executable, "-m", "benchmarks.gpu.engine", json.dumps(asked)]
        self._log = log
        with log.open("wb") as errors:
            self._process = subprocess.Popen(
                command,
                cwd=ROOT,
                env=env,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )

    def result(self) -> Any:
        """The next answer.

        Raises:
            RuntimeError: The process ended; with the end of its log.
        """
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("RESULT "):
                return json.loads(line.removeprefix("RESULT "))
        raise RuntimeError(f"an engine ended:\n{self._log.read_text(errors='replace')[-3000:]}")

    def ask(self, name: str, **arguments: Any) -> Any:
        """Have a method of `Bench` called."""
        assert self._process.stdin is not None
        print(json.dumps([name, arguments]), file=self._process.stdin, flush=True)
        return self.result()

    def stop(self) -> None:
        """End the process."""
        with self._process as process:  # closes the pipes, and waits
            process.kill()


@contextmanager
def engines(
    setting: Setting, *kinds: str, drafts: bool = False, compiled_laws: bool = False
) -> Iterator[dict[str, Child]]:
    """Run some of `stock`, `twin` and `ours`, started at the same time."""
    _, engine = setting.engine(drafts=drafts)
    with tempfile.TemporaryDirectory(prefix="entrostat-gpu-") as logs:
        found: dict[str, Child] = {}
        try:
            for kind in kinds:
                env = engine.environment()
                if kind in STOCK:
                    env["VLLM_PLUGINS"] = ""
                if compiled_laws:
                    env.pop("TORCHDYNAMO_DISABLE", None)
                asked = {
                    "ours": kind == "ours",
                    "engine": engine._asdict(),
                    "model": str(setting.model),
                    "options": setting.options(),
                }
                found[kind] = Child(asked, env, Path(logs) / f"{kind}.log")
            for child in found.values():
                child.result()
            yield found
        finally:
            for child in found.values():
                child.stop()


def traffic(setting: Setting, *, drafts: bool) -> Verdict:
    """Random traffic, every answer compared with transformers: truth, laws, probes, steering.

    On a GPU vLLM warns of every line that waits for the device; ours must not.
    """
    name, engine = setting.engine(drafts=drafts)
    env = engine.environment() | {"VLLM_GPU_SYNC_CHECK": "warn"}
    command = [sys.executable, "-m", "tests.integration.runners.traffic", name]
    command += ["--seed", "5", "--requests", str(setting.requests), "--model", str(setting.model)]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    check = "traffic with drafts" if drafts else "traffic"
    lines = [line for line in done.stdout.splitlines() if line.startswith("TRAFFIC ")]
    if not lines:
        return Verdict(check, False, f"the engine ended: {done.stderr[-300:]}")
    found = json.loads(lines[-1].removeprefix("TRAFFIC "))
    worst = ", ".join(f"{key} {value:.1e}" for key, value in found["worst"].items())
    counts = ("answers", "tokens", "steered", "preempted", "aborted", "drafts", "failures")
    figures = ", ".join(f"{found[key]} {key}" for key in counts)
    waits = sorted({line[1] for line in _WAITS.finditer(done.stderr)})
    figures += f", {len(waits)} waits{': ' if waits else ''}{', '.join(waits)}"
    passed = not found["wrong"] and not waits and found["failures"] == 0 and found["answers"] > 0
    return Verdict(check, passed, f"{figures}; wrong {len(found['wrong'])}; worst: {worst}")


def identity(setting: Setting, *, drafts: bool) -> Verdict:
    """Uncontrolled requests give the tokens of stock vLLM, alone and beside controlled ones.

    On a GPU each process chooses kernels by timing them, and a sum in another order may change a
    token: answers in which two processes of stock vLLM differ do not count.
    """
    same = apart = 0
    kinds = STOCK if setting.device == "cuda" else STOCK[:1]
    with engines(setting, *kinds, "ours", drafts=drafts) as several:
        for options in ({"temperature": 0.0}, {"seed": 17, "top_p": 0.95}):
            for beside in (False, True):
                asked = {"count": setting.prompts, "tokens": 24, "options": options}
                found = [child.ask("tokens", beside=beside, **asked) for child in several.values()]
                for *stock, ours in zip(*found, strict=True):
                    alike = stock[0] == stock[-1]
                    apart += not alike
                    same += alike and ours == stock[0]
    whole = 4 * setting.prompts - apart
    figures = f"{same} of {whole} answers equal stock vLLM's"
    if apart:
        figures += f"; {apart} more differ between two processes of stock vLLM"
    check = "identity with drafts" if drafts else "identity"
    return Verdict(check, same == whole > apart, figures)


def draft_speed(setting: Setting) -> list[Verdict]:
    """Tokens per step with drafts on text that repeats itself; without drafts it is 1."""
    with engines(setting, "ours", drafts=True) as only:
        return [
            Verdict(
                f"drafts, {law or 'no control'}, T0 = {base}",
                gained > 1.0,
                f"{gained:.2f} tokens per step",
            )
            for base in (0.0, 0.5)
            for law in TARGETS
            for gained in [
                only["ours"].ask("tokens_per_step", tokens=48, law=law, temperature=base)
            ]
        ]


def overhead(setting: Setting) -> list[Verdict]:
    """Throughput over the mean of two processes of stock vLLM, in turns, by batch size and law.

    A verdict is unsure if the target lies in the interval, widened by what the two processes of
    stock differ by. On a CPU the ratio outside of Triton's interpreter decides: it runs the same
    kernels for all, and would hide what a request under a law costs.
    """
    with engines(setting, *STOCK, "ours", compiled_laws=True) as all_three:
        return [
            verdict
            for batch in setting.batches
            for verdict in _overhead(setting, batch, _speeds(setting, all_three, batch))
        ]


def _overhead(
    setting: Setting, batch: int, speeds: dict[tuple[str, str | None], list[list[float]]]
) -> Iterator[Verdict]:
    """What a batch size costs, by law; `speeds` are those of `_speeds`."""
    stock, twin = (np.array(speeds[kind, None]) for kind in STOCK)
    decides = 0 if setting.wall else 1
    apart = (twin / stock)[:, decides]
    unseen = abs(float(np.median(apart)) - 1)
    mean = (stock + twin) / 2
    interpreted = 1 - np.median(mean[:, 0] / mean[:, 1])
    for law, target in TARGETS.items():
        ratios = np.array(speeds["ours", law]) / mean
        low, high = interval(ratios[:, decides])
        figures = f"{spread(ratios[:, 0])} of stock's tokens/s"
        if interpreted > 0:
            figures += (
                f"; {spread(ratios[:, 1])} outside of Triton's interpreter, which is "
                f"{interpreted:.0%} of stock's time"
            )
        yield Verdict(
            f"overhead, batch {batch}, {law or 'no control'}",
            bool(np.median(ratios[:, decides]) >= target),
            f"{figures} (>= {target}; a second process of stock over the first: {spread(apart)})",
            unsure=low - unseen < target < high + unseen,
        )


def _speeds(
    setting: Setting, children: dict[str, Child], batch: int
) -> dict[tuple[str, str | None], list[list[float]]]:
    """What `Bench.speed` returns in every round, by engine and law; each round has its order."""
    arms = [*((kind, None) for kind in STOCK), *(("ours", law) for law in TARGETS)]
    speeds: dict[tuple[str, str | None], list[list[float]]] = {arm: [] for arm in arms}
    asked = {"batch": batch, "tokens": setting.tokens, "wall": setting.wall}
    chance = random.Random(0)
    for lap in range(setting.rounds + 1):
        for kind, law in chance.sample(arms, len(arms)):
            speed = children[kind].ask("speed", law=law, **asked)
            if lap:  # the first one fills caches
                speeds[kind, law].append(speed)
    return speeds


def spread(ratios: Any) -> str:
    """Median, and its interval."""
    low, high = interval(ratios)
    return f"{float(np.median(ratios)):.3f} ({low:.3f} to {high:.3f})"


def interval(ratios: Any) -> tuple[float, float]:
    """The 95 % interval of the median over rounds, by bootstrap."""
    draws = np.random.default_rng(0).choice(ratios, (10_000, len(ratios)))
    low, high = np.quantile(np.median(draws, axis=1), [0.025, 0.975]).tolist()
    return low, high


def first_request(setting: Setting) -> list[Verdict]:
    """The longest step of a first controlled request over that of a second, by law and batch."""
    ratios: dict[str, list[float]] = {}
    sizes = [size for size in (1, 4, 8) if size <= max(setting.batches)]
    with engines(setting, "ours", compiled_laws=True) as only:
        for batch in sizes:  # vLLM's own kernels for these shapes
            only["ours"].ask("longest_step", batch=batch, law=None, wall=setting.wall)
        for law in ("none", "fixed", "hapo", "edt", "dynatemp", "entropy_target"):
            for batch in sizes:
                first, second = (
                    only["ours"].ask("longest_step", batch=batch, law=law, wall=setting.wall)
                    for _ in range(2)
                )
                ratios.setdefault(law, []).append(first / second)
    return [
        Verdict(
            f"first request, {law}",
            max(found) <= FIRST_RATIO,
            ", ".join(f"{ratio:.2f}" for ratio in found)
            + f" of a second one's longest step at batch {', '.join(map(str, sizes))} "
            f"(<= {FIRST_RATIO})",
        )
        for law, found in ratios.items()
    ]
