"""Check controls on a GPU: `python -m benchmarks.gpu`, or `make test-gpu`.

Truth of every report, identity with stock vLLM, steering with CUDA graphs, drafts, the first
controlled request and the overhead; writes a page with a verdict for each. `--device cpu` runs the
same functions with Triton's interpreter, small and without CUDA graphs.
"""

import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from benchmarks import machine
from benchmarks.gpu import checks, steps
from benchmarks.gpu.checks import Setting, Verdict

METHOD = """\
`traffic` compares every answer with Transformers in float64, token by token: greedy tokens,
entropies, temperatures, probes and steering. `identity` compares tokens of uncontrolled requests
with those of stock vLLM, greedy and seeded, alone and in one batch with controlled ones; on a GPU,
those that two processes of stock vLLM give alike. `first request` divides the longest step of a
law's first batch by that of its second. `overhead` is the median over rounds of the throughput over
the mean of two processes of stock vLLM in the same round, its 95 % interval in brackets; it is
`unsure` where the target lies in the interval, widened by what the two processes differ by.
`truncations` compares steps of 16 decoding requests with those under the law `hapo`, `reports`
those with a report with those without, and with `confidence` in it. On a CPU time is CPU time of
the engine's process, and Triton's interpreter runs vLLM's kernels, the same for all, so that the
ratio of tokens per second outside of the interpreter decides. `drafts` counts tokens per step of
one request on text that repeats itself."""

CHECKS: dict[str, Callable[[Setting], list[Verdict]]] = {
    "traffic": lambda setting: [checks.traffic(setting, drafts=False)],
    "traffic-drafts": lambda setting: [checks.traffic(setting, drafts=True)],
    "identity": lambda setting: [checks.identity(setting, drafts=False)],
    "identity-drafts": lambda setting: [checks.identity(setting, drafts=True)],
    "drafts": checks.draft_speed,
    "first": checks.first_request,
    "overhead": checks.overhead,
    "truncations": steps.truncations,
    "reports": steps.reports,
}


def main(
    model: Annotated[
        Path | None, typer.Option(help="Checkpoint; default: the embedded default model.")
    ] = None,
    device: Annotated[str, typer.Option(help="cuda or cpu.")] = "cuda",
    only: Annotated[str, typer.Option(help="Checks to run, by commas.")] = ",".join(CHECKS),
    runner: Annotated[str, typer.Option(help="v2, or v1 on a CPU.")] = "v2",
    batches: Annotated[
        str | None, typer.Option(help="Batch sizes, by commas; default: what suits the device.")
    ] = None,
    rounds: Annotated[
        int | None, typer.Option(min=2, help="Of overhead, truncations, reports.")
    ] = None,
    output: Annotated[Path, typer.Option(help="Page to write, without suffix.")] = Path(
        "benchmarks/results/gpu"
    ),
) -> None:
    """Run the checks, write OUTPUT.md, and exit with code 1 if one fails."""
    if device not in ("cuda", "cpu") or not set(only.split(",")) <= set(CHECKS):
        raise typer.BadParameter(f"--device is cuda or cpu, --only of {', '.join(CHECKS)}")
    facts, setting = machine.describe("benchmarks.gpu"), settings_of(device, model, runner)
    setting = setting._replace(
        batches=sizes_of(batches) if batches else setting.batches,
        rounds=rounds or setting.rounds,
        step_rounds=rounds or setting.step_rounds,
    )
    verdicts, seconds = list[Verdict](), dict[str, float]()
    for name in only.split(","):
        began = time.monotonic()
        found = CHECKS[name](setting)
        seconds[name] = time.monotonic() - began
        for one in found:
            Console().print(f"{one.word}  {one.check}: {one.figures}")
        Console().print(f"      {name} took {seconds[name]:.0f} s")
        verdicts += found
        output.parent.mkdir(parents=True, exist_ok=True)
        output.with_suffix(".md").write_text(
            "\n".join(page(facts, setting, verdicts, seconds)) + "\n"
        )
    raise SystemExit(0 if all(one.passed for one in verdicts) else 1)


def sizes_of(text: str) -> tuple[int, ...]:
    """Batch sizes of a list by commas.

    Raises:
        typer.BadParameter: One is no positive whole number.
    """
    if not all(size.isascii() and size.isdigit() and int(size) > 0 for size in text.split(",")):
        raise typer.BadParameter("positive whole numbers, by commas", param_hint="--batches")
    return tuple(map(int, text.split(",")))


def settings_of(device: str, model: Path | None, runner: str = "v2") -> Setting:
    """The amount of work that suits a device."""
    from server.commands.default_model import default_model
    from server.settings import settings

    checkpoint = model or default_model(settings().cache)
    if device == "cuda":
        return Setting(device, checkpoint)
    small = Setting(device, checkpoint, batches=(1, 8), rounds=5, tokens=8, requests=6, prompts=6)
    return small._replace(is_v1=runner == "v1", step_rounds=20)


def card() -> str:
    """Name, memory and driver of the GPU, by `nvidia-smi`."""
    if (program := shutil.which("nvidia-smi")) is None:
        return "unknown"
    asked = [program, "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    done = subprocess.run(asked, capture_output=True, text=True, check=False)
    return " and ".join(done.stdout.splitlines()) or "unknown"


def page(
    facts: dict[str, object],
    setting: Setting,
    verdicts: list[Verdict],
    seconds: dict[str, float],
) -> list[str]:
    """Markdown: what ran on what and for how long, and a row for each verdict."""
    name, _ = setting.engine()
    device, how = "cpu", f"`{name}` of tests/integration/runners, eager, on a CPU"
    if setting.device == "cuda":
        device, how = card(), "V2 with asynchronous scheduling, compiled, with CUDA graphs"
    took = ", ".join(f"{check} {spent:.0f} s" for check, spent in seconds.items())
    return [
        "# Controls on a GPU" if setting.device == "cuda" else "# The same checks on a CPU",
        "",
        *machine.markdown(facts),
        f"- device: {device}; model: {setting.model.name}; engine: {how}",
        f"- time: {took}; {sum(seconds.values()):.0f} s in all",
        "",
        *METHOD.splitlines(),
        "",
        "| check | verdict | figures |",
        "|---|---|---|",
        *(f"| {one.check} | {one.word} | {one.figures} |" for one in verdicts),
    ]


if __name__ == "__main__":
    typer.run(main)
