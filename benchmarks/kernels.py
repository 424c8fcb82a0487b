"""What one decoding step pays for its entropy: `python -m benchmarks.kernels`.

Formulas alone, on logits as large as a batch of the default model's, in a process of its own for
each number of threads (a compiled CPU kernel is made for one number of threads).
"""

import multiprocessing
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from statistics import median
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from benchmarks import machine

VOCAB = 49_152
ROWS = (1, 16, 64)
_THREADS = (1, 2)
_HEADER = ["formula", "threads", *(f"{rows} x {VOCAB:,}" for rows in ROWS)]
_METHOD = """\
Medians in milliseconds per step, all formulas taking turns within a repetition. The worker runs
`decide` once per step for its controlled or traced rows, and then `scale`, the division of their
logits. `entropy` rows are the measurement alone: in the plain log-softmax form, and in the
worker's form before and after compilation."""

Timings = dict[str, dict[int, float]]
"""Milliseconds by formula and rows."""


def main(
    repeats: Annotated[int, typer.Option(min=3, help="Repetitions of every formula.")] = 200,
    output: Annotated[Path, typer.Option(help="Folder of the result.")] = Path(
        "benchmarks/results"
    ),
) -> None:
    """Time the formulas and write kernels.md."""
    facts = machine.describe("benchmarks.kernels")
    rows = [
        [name, str(threads), *(f"{timings[name][count]:.3f}" for count in ROWS)]
        for threads in _THREADS
        if threads <= facts["cores"]
        for timings in [_in_own_process(threads, repeats)]
        for name in timings
    ]
    Console().print(_table(rows))
    output.mkdir(parents=True, exist_ok=True)
    (output / "kernels.md").write_text("\n".join(_page(facts, rows)) + "\n")


def _in_own_process(threads: int, repeats: int) -> Timings:
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn) as pool:
        return pool.submit(measure_all, threads, repeats).result()


def measure_all(threads: int, repeats: int) -> Timings:
    """Time every formula at every batch size on this many threads."""
    import torch

    torch.set_num_threads(threads)
    timings: Timings = {}
    for rows in ROWS:
        for name, figure in _measure(_formulas(rows), repeats).items():
            timings.setdefault(name, {})[rows] = figure
    return timings


def _formulas(rows: int) -> dict[str, Callable[[], object]]:
    import torch

    from probes.entropy import entropy_from_logits, measure
    from probes.laws import NUM_PARAMETERS, DynatempLaw, EntropyTargetLaw, TemperatureLaw, law_row
    from server.engine.kernels import Kernels

    logits = 3 * torch.randn(rows, VOCAB, generator=torch.Generator().manual_seed(0))
    base = torch.ones(rows)
    kernels = Kernels(VOCAB, logits.device)
    kernels.warm_up()
    compiled = torch.compile(measure, dynamic=True)

    def decide(law: TemperatureLaw) -> Callable[[], object]:
        tag, row = law_row(law)
        laws, solve = torch.full((rows,), float(tag)), law.needs_logits
        parameters = torch.tensor(row).expand(rows, NUM_PARAMETERS).contiguous()
        return lambda: kernels.decide(logits, base, laws, parameters, solve=solve)

    return {
        "softmax, to compare": lambda: logits.softmax(-1),
        "entropy, log-softmax": lambda: entropy_from_logits(logits),
        "entropy, worker's form": lambda: measure(logits),
        "entropy, compiled": lambda: compiled(logits),
        "decide, closed laws": decide(DynatempLaw()),
        "decide, entropy target": decide(EntropyTargetLaw(entropy_target=1.0)),
        "scale": lambda: logits.div_(base.unsqueeze(-1)),
    }


def _measure(formulas: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    import torch

    samples: dict[str, list[float]] = {name: [] for name in formulas}
    with torch.inference_mode():
        for lap in range(-3, repeats):
            for name, formula in formulas.items():
                begin = time.perf_counter()
                formula()
                elapsed = time.perf_counter() - begin
                if lap >= 0:
                    samples[name].append(1000 * elapsed)
    return {name: median(values) for name, values in samples.items()}


def _table(rows: list[list[str]]) -> Table:
    table = Table(title="milliseconds per step", title_justify="left")
    for column in _HEADER:
        table.add_column(column, justify="left" if column == "formula" else "right")
    for position, row in enumerate(rows):
        last = position + 1 == len(rows) or rows[position + 1][1] != row[1]
        table.add_row(*row, end_section=last)
    return table


def _page(facts: dict[str, object], rows: list[list[str]]) -> list[str]:
    lines = ["# What one decoding step pays for its entropy", "", *machine.markdown(facts), ""]
    lines += [_METHOD, "", "| " + " | ".join(_HEADER) + " |", "|---|" + "--:|" * (1 + len(ROWS))]
    return lines + ["| " + " | ".join(row) + " |" for row in rows]


if __name__ == "__main__":
    typer.run(main)
