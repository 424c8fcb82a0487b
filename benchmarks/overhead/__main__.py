"""Overhead of Entrostat compared with stock vLLM: `python -m benchmarks.overhead`.

Both are alive in one run on the same cores, and one at a time is under load while the others are
frozen. A round visits every arm once, in random order, so that drift of the machine hits all alike;
an arm's figure is its throughput over that of stock vLLM in the same round. A second process of
stock vLLM shows what the method itself can tell apart.
"""

import asyncio
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import httpx
import typer
from rich.console import Console
from rich.progress import Progress

from benchmarks import machine
from benchmarks.arms import Arm, arms
from benchmarks.overhead.report import Samples, Section, estimate, estimate_peer, write
from benchmarks.servers import Server, side_by_side
from server.commands.default_model import DEFAULT_MODEL, default_model
from server.settings import settings

MAX_TOKENS = 64
_FLAGS = {
    "eager": ["--enforce-eager"],
    "compiled": ["--no-enforce-eager"],
}
_COMMON = ["--kv-cache-memory-bytes", str(1 << 30), "--disable-uvicorn-access-log"]


def main(
    modes: Annotated[str, typer.Option(help="eager, compiled or both.")] = "eager,compiled",
    rounds: Annotated[int, typer.Option(min=2, help="Visits to every arm.")] = 15,
    batches: Annotated[str, typer.Option(help="Concurrent requests, by commas.")] = "1,16",
    twin: Annotated[bool, typer.Option(help="Also measure a second stock process.")] = True,
    arm: Annotated[
        list[str] | None,
        typer.Option(help="An arm to measure beside stock vLLM; repeat for more. Default: all."),
    ] = None,
    output: Annotated[Path, typer.Option(help="Folder of the results.")] = Path(
        "benchmarks/results"
    ),
    name: Annotated[str, typer.Option(help="Of the files.")] = "overhead",
) -> None:
    """Measure every arm and write NAME.md, NAME.json and NAME.png."""
    if unknown := set(modes.split(",")) - set(_FLAGS):
        raise typer.BadParameter(f"unknown mode {', '.join(unknown)}", param_hint="--modes")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the servers are stopped too
    facts = machine.describe("benchmarks.overhead")
    facts |= {"model": DEFAULT_MODEL, "rounds": rounds, "max_tokens": MAX_TOKENS}
    checkpoint, sections = default_model(settings().cache), []
    for mode in modes.split(","):
        flags = [*_COMMON, *_FLAGS[mode]]
        with (
            tempfile.TemporaryDirectory(prefix="entrostat-bench-") as logs,
            side_by_side(checkpoint, DEFAULT_MODEL, flags, Path(logs), twin=twin) as servers,
        ):
            sizes = [int(size) for size in batches.split(",")]
            everything = choose(arms(hapo=_has_statistics(servers["ours"])), arm or [])
            sections += list(measure(mode, servers, everything, rounds, sizes))
        write(facts, sections, output / name, Console())


def choose(everything: list[Arm], names: list[str]) -> list[Arm]:
    """The processes of stock vLLM and the arms with these names; all arms without a name.

    Raises:
        typer.BadParameter: No arm has the name.
    """
    known = [one.name for one in everything]
    if unknown := set(names) - set(known):
        message = f"unknown: {', '.join(sorted(unknown))}; known: {'; '.join(known)}"
        raise typer.BadParameter(message, param_hint="--arm")
    return [one for one in everything if not names or one.server != "ours" or one.name in names]


def measure(
    mode: str, servers: dict[str, Server], everything: list[Arm], rounds: int, batches: list[int]
) -> Iterator[Section]:
    """Visit every arm in every round; yields what each batch size says.

    Args:
        mode: Names it.
        servers: Alive and frozen.
        everything: The arms, stock among them; those whose server is not there are left out.
        rounds: Visits to each.
        batches: Concurrent requests.

    Raises:
        RuntimeError: The engines are on different cores, or a request did not get what it asked.
    """
    cores = {name: server.cores() for name, server in servers.items()}
    if len({str(bound) for bound in cores.values()}) > 1:
        raise RuntimeError(f"the engines are bound to different cores: {cores}")
    _leave(cores["ours"] or [])
    everything = [arm for arm in everything if arm.server in servers]
    samples: dict[int, Samples] = {batch: defaultdict(list) for batch in batches}
    chance = random.Random(0)
    idle: dict[str, float] = {}
    with Progress(transient=True) as progress:
        task = progress.add_task(mode, total=(rounds + 1) * len(batches) * len(everything))
        for lap in range(rounds + 1):
            for batch in batches:
                fitting = [arm for arm in everything if arm.fits(batch)]
                for arm in chance.sample(fitting, len(fitting)):
                    speed = _visit(servers[arm.server], arm, batch)
                    if lap > 0:  # the first lap fills caches and compiles the remaining kernels
                        samples[batch][arm.name].append(speed)
                    progress.advance(task)
            idle = idle or {name: _idle_load(server) for name, server in servers.items()}
    for batch in batches:
        fitting = [arm for arm in everything if arm.fits(batch)]
        estimates = [estimate(arm, samples[batch]) for arm in fitting]
        peers = [
            estimate_peer(arm, samples[batch]) for arm in fitting if arm.peer in samples[batch]
        ]
        yield Section(mode, batch, cores["ours"], idle, estimates, peers)


def _leave(cores: list[int]) -> None:
    """Keep this process, which makes the load, off the engines' cores where there are others."""
    others = set(range(os.cpu_count() or 1)) - set(cores)
    os.sched_setaffinity(0, others or set(cores))


def _has_statistics(server: Server) -> bool:
    server.wake()
    cards = httpx.get(f"{server.url}/v1/entropy/artifacts").raise_for_status().json()["data"]
    server.freeze()
    return any(card["kind"] == "entropy-statistics" and card["usable"] for card in cards)


def _idle_load(server: Server) -> float:
    server.wake()
    time.sleep(1.0)
    load = server.idle_load()
    server.freeze()
    return load


def _visit(server: Server, arm: Arm, batch: int) -> float:
    """Output tokens per second of one batch, after a short one that warms the caches."""
    server.wake()
    try:
        asyncio.run(_send(server, arm, batch, 4))
        return asyncio.run(_send(server, arm, batch, MAX_TOKENS))
    finally:
        server.freeze()


async def _send(server: Server, arm: Arm, batch: int, max_tokens: int) -> float:
    bodies = [json.dumps(body) for body in arm.bodies(DEFAULT_MODEL, batch, max_tokens)]
    headers = {"content-type": "application/json"}
    async with httpx.AsyncClient(
        base_url=server.url, headers=headers, timeout=300, trust_env=False
    ) as client:
        begin = time.perf_counter()
        answers = await asyncio.gather(
            *(client.post("/v1/chat/completions", content=body) for body in bodies)
        )
        elapsed = time.perf_counter() - begin
    for body, answer in zip(bodies, answers, strict=True):
        _check(json.loads(body), answer, max_tokens * arm.samples)
    return batch * max_tokens / elapsed


def _check(request: dict[str, Any], answer: httpx.Response, max_tokens: int) -> None:
    """A figure counts only if every request got what it asked for, in full."""
    if answer.status_code != 200:
        raise RuntimeError(f"{answer.status_code}: {answer.text}")
    body, control = answer.json(), request.get("entropy", {})
    tokens = body["usage"]["completion_tokens"]
    if tokens != max_tokens:
        raise RuntimeError(f"{tokens} tokens came back, not {max_tokens}")
    if fallback := answer.headers.get("x-entropy-fallback"):
        raise RuntimeError(f"decoded without its control: {fallback}")
    if control.get("trace") == "tokens":
        measured = len(body["choices"][0]["entropy"]["tokens"])
        if measured != max_tokens:
            raise RuntimeError(f"{measured} tokens measured, not {max_tokens}")


if __name__ == "__main__":
    typer.run(main)
