"""What steering costs: `python -m benchmarks.steering`.

As `benchmarks.overhead`, with random steering vectors loaded: nobody steered, everybody by one
vector, everybody by a vector of their own. Beside it the same job by other libraries.
"""

import json
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any

import httpx
import torch
import typer
from rich.console import Console

from benchmarks import machine
from benchmarks.arms import PROMPTS, STOCK, Arm
from benchmarks.overhead.__main__ import MAX_TOKENS, measure
from benchmarks.overhead.report import Section, pool, write
from benchmarks.servers import Server, side_by_side
from benchmarks.steering.libraries import Timing
from benchmarks.steering.vectors import save_random, vector_name
from server.commands.default_model import DEFAULT_MODEL, default_model
from server.settings import settings

BATCH = 16
_STRENGTH = 0.5
_FLAGS = ["--no-enforce-eager", "--disable-uvicorn-access-log"]
_METHOD = """\
Servers of stock vLLM and of Entrostat are alive together, with the same flags and their engines
bound to the same cores; one at a time is under load, the others are frozen (SIGSTOP). A round
visits every arm once in random order: a short batch to warm the caches, then {max_tokens} tokens
for each of the concurrent chat requests (`temperature` 1, `ignore_eos`, no streaming). All servers
are started anew {restarts} times, now one, now the other first, with {rounds} rounds each. tokens/s
is the median of all rounds; the ratio is that to stock in the same round: the median of a start's
rounds, and the mean of the starts. Low and high are the least and the largest start. Two processes
of one program differ by some percent for as long as they live, so these lie far apart; the arms of
Entrostat share a process, so what using a vector costs is the difference between them. A verdict is
`unsure` where the target lies between low and high."""
_LIBRARIES = """\
The same {batch} prompts and {max_tokens} tokens each, sampled at temperature 1 in the server's
dtype, with one vector behind {layers}, on the cores beside the engine's
(here one, as it has). A batch in these
libraries is static, and padded to its longest prompt: all start together and end together. `repeng`
and `steering-vectors` steer a whole batch by one vector; requests with vectors of their own go one
after another. The factor is the throughput of Entrostat in the first section over theirs.
`transformers` and a hook is what one writes by hand: a hook that adds a row per request to the last
position."""


def main(
    rounds: Annotated[int, typer.Option(min=2, help="Visits to every arm, per start.")] = 4,
    layers: Annotated[
        str, typer.Option(help="Layers with a vector, by commas, or all; one run for each `/`.")
    ] = "20/all",
    restarts: Annotated[int, typer.Option(min=1, help="Times all servers are started anew.")] = 3,
    libraries: Annotated[bool, typer.Option(help="Also measure other libraries.")] = True,
    twin: Annotated[bool, typer.Option(help="Also measure a second stock process.")] = True,
    kv_cache: Annotated[int, typer.Option(help="MiB of every server's KV cache.")] = 256,
    output: Annotated[Path, typer.Option(help="Folder of the results.")] = Path(
        "benchmarks/results"
    ),
) -> None:
    """Measure every arm and write steering-cost.md, .json and .png."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the servers are stopped too
    facts = machine.describe("benchmarks.steering")
    facts |= {"model": DEFAULT_MODEL, "rounds": rounds, "max_tokens": MAX_TOKENS}
    facts["restarts"] = restarts
    checkpoint, console = default_model(settings().cache), Console()
    flags = [*_FLAGS, "--kv-cache-memory-bytes", str(kv_cache << 20)]
    sections = []
    for part in layers.split("/"):
        numbers, runs = _numbers(part, checkpoint), list[Section]()
        title = f"compiled, vectors behind {_plural(len(numbers))}"
        for lap in range(restarts):
            with tempfile.TemporaryDirectory(prefix="entrostat-bench-") as folder:
                root = Path(folder)
                save_random(root / "artifacts", checkpoint, numbers, BATCH)
                own = ("--artifacts", str(root / "artifacts"))
                with side_by_side(
                    *(checkpoint, DEFAULT_MODEL, flags, root),
                    twin=twin,
                    own=own,
                    backwards=bool(lap % 2),
                ) as servers:
                    _prove(servers["ours"])
                    runs += measure(title, servers, arms(), rounds, [BATCH])
        sections.append(pool(arms(), runs))
        facts["runs"] = facts.get("runs", []) + [run._asdict() for run in runs]
        write(facts, sections, output / "steering-cost", console, title=_TITLE, method=_METHOD)
    if not libraries:
        return
    numbers = _numbers(layers.split("/")[0], checkpoint)
    timings = _libraries(checkpoint, numbers)
    speeds = {row.arm: row.tokens_per_second for row in sections[0].estimates}
    lines = _table(timings, speeds, len(numbers))
    facts["libraries"] = [timing._asdict() for timing in timings]
    stem = output / "steering-cost"
    write(facts, sections, stem, console, title=_TITLE, method=_METHOD, more=lines)
    console.print("\n".join(lines), markup=False, highlight=False)


_TITLE = "What steering costs"
_SHARED, _DISTINCT = "one vector for all", "a vector for each"


def arms() -> list[Arm]:
    """Who is asked for what."""
    each = tuple(_control(number) for number in range(BATCH))
    return [
        STOCK,
        Arm("stock vLLM, second process", "twin"),
        Arm("loaded, unused", "ours", None, 0.99),
        Arm(_SHARED, "ours", _control(0), 0.97),
        Arm(_DISTINCT, "ours", None, 0.95, own=each),
    ]


def _control(number: int, trace: str = "none") -> dict[str, Any]:
    return {"steering": [{"vector": vector_name(number), "strength": _STRENGTH}], "trace": trace}


def _numbers(layers: str, checkpoint: Path) -> list[int]:
    if layers != "all":
        return [int(number) for number in layers.split(",")]
    config = json.loads((checkpoint / "config.json").read_text())
    return list(range(config["num_hidden_layers"]))


def _plural(count: int) -> str:
    return f"{count} layer{'s' if count > 1 else ''}"


def _prove(server: Server) -> None:
    """What is measured has an effect: every vector moves the first token's entropy its own way.

    Raises:
        RuntimeError: It does not.
    """
    server.wake()
    found = set()
    for control in [{"trace": "tokens"}, *(_control(n, "tokens") for n in range(BATCH))]:
        message = {"role": "user", "content": PROMPTS[0]}
        body = {"model": DEFAULT_MODEL, "messages": [message], "max_tokens": 1, "entropy": control}
        answer = httpx.post(f"{server.url}/v1/chat/completions", json=body, timeout=300)
        report = answer.raise_for_status().json()["choices"][0]["entropy"]
        found.add(report["tokens"][0]["entropy"])
    server.freeze()
    if len(found) < BATCH:  # two may round to the same
        raise RuntimeError(f"only {len(found)} of {BATCH + 1} answers differ")


def _libraries(checkpoint: Path, layers: list[int]) -> list[Timing]:
    """Measured in a process of their own, on the cores that this one keeps to."""
    command = [sys.executable, "-m", "benchmarks.steering.libraries", str(checkpoint)]
    done = subprocess.run(
        [*command, *map(str, layers)], check=True, stdout=subprocess.PIPE, text=True
    )
    return [Timing(*row) for row in json.loads(done.stdout)]


def _table(timings: list[Timing], speeds: dict[str, list[float]], layers: int) -> list[str]:
    facts = {"batch": BATCH, "max_tokens": MAX_TOKENS, "layers": _plural(layers)}
    lines = ["", "## Other libraries", "", _LIBRARIES.format(**facts), ""]
    lines += ["| library | job | tokens/s | factor |", "|---|---|--:|--:|"]
    for timing in timings:
        if timing.tokens_per_second is None:
            lines.append(f"| {timing.library} | {timing.remark} | | |")
            continue
        job = _DISTINCT if timing.distinct else _SHARED
        ours = float(torch.tensor(speeds[job]).median())
        factor = ours / timing.tokens_per_second
        how = f"{job}, {timing.remark}"
        lines.append(
            f"| {timing.library} | {how} | {timing.tokens_per_second:.1f} | {factor:.2f} |"
        )
    return lines


if __name__ == "__main__":
    typer.run(main)
