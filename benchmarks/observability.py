"""What metrics, the decision log and spans cost: `python -m benchmarks.observability`.

The engine does none of the three: the API server's process counts, writes and exports. So its CPU
time per request is measured, which other work on the machine hardly touches, unlike throughput.
"""

import asyncio
import json
import os
import random
import signal
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Annotated, Any

import httpx
import numpy as np
import typer
from rich.progress import track

from benchmarks import machine
from benchmarks.arms import STOCK, Arm
from benchmarks.servers import Server, side_by_side
from server.commands.default_model import DEFAULT_MODEL, default_model
from server.settings import settings

BATCH, BATCHES, MAX_TOKENS = 16, 3, 8
_EXPORT_MILLISECONDS = 100
"""After which spans are exported; 5,000 by default."""
_FLAGS = ["--enforce-eager", "--disable-uvicorn-access-log"]
_KV_CACHE = 256
"""MiB of each server."""
_CONTROL = {"temperature": {"type": "dynatemp"}}
_READ = "metrics read after each"
_METHOD = f"""\
Servers are alive together: stock vLLM, stock vLLM once more, Entrostat, Entrostat with
`--decision-log` and `--log-prompts`, and Entrostat with `--otlp-traces-endpoint`; one at a time
is awake. A round visits every arm once in random order: a few requests to warm the caches, then
{BATCHES} times {BATCH} concurrent chat requests of {MAX_TOKENS} tokens. The figure is CPU time
of all processes of the server but its engine and worker, per request: median over rounds, with
the 95 % interval of the median in brackets. `more` is the median over rounds of the difference
to the arm named beside it, in the same round. The second stock process shows how much two
processes of one program differ. Requests with a control ask for `dynatemp` and its report; only
they have a line in the log and spans of ours. Spans are exported every {_EXPORT_MILLISECONDS}
ms instead of 5 s, so that each visit pays for its own."""


def arms() -> list[Arm]:
    """Who is asked for what, and what it is compared with."""
    return [
        STOCK,
        Arm("stock vLLM, second process", "twin", peer=STOCK.name),
        Arm("no control", "ours", peer=STOCK.name),
        Arm("control", "ours", _CONTROL, peer="no control"),
        Arm(f"control, {_READ}", "ours", _CONTROL, peer="control"),
        Arm("log on, no control", "log", peer="no control"),
        Arm("log on, control", "log", _CONTROL, peer="log on, no control"),
        Arm("spans on, no control", "spans", peer="no control"),
        Arm("spans on, control", "spans", _CONTROL, peer="spans on, no control"),
    ]


def main(
    rounds: Annotated[int, typer.Option(min=2, help="Visits to every arm.")] = 20,
    twin: Annotated[bool, typer.Option(help="Also measure a second stock process.")] = True,
    output: Annotated[Path, typer.Option(help="Page to write, without suffix.")] = Path(
        "benchmarks/results/observability"
    ),
) -> None:
    """Measure every arm and write OUTPUT.md and OUTPUT.json."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the servers are stopped too
    facts = machine.describe("benchmarks.observability")
    facts |= {"model": DEFAULT_MODEL, "rounds": rounds}
    checkpoint = default_model(settings().cache)
    flags = [*_FLAGS, "--kv-cache-memory-bytes", str(_KV_CACHE << 20)]
    with tempfile.TemporaryDirectory(prefix="entrostat-bench-") as folder, sink() as received:
        log = Path(folder) / "decisions.jsonl"
        others = {
            "log": ["--decision-log", str(log), "--log-prompts"],
            "spans": ["--otlp-traces-endpoint", received["url"]],
        }
        where = (checkpoint, DEFAULT_MODEL, flags, Path(folder))
        memory = 2.5 + _KV_CACHE / 1024
        with side_by_side(*where, twin=twin, others=others, memory=memory) as servers:
            found = measure(servers, rounds)
        lines = len(log.read_text().splitlines())
        if lines != (asked := (rounds + 1) * (BATCH * BATCHES + 1)) or received["bytes"] == 0:
            raise RuntimeError(f"{lines} lines of {asked}, {received['bytes']} bytes of spans")
    output.parent.mkdir(parents=True, exist_ok=True)
    output.with_suffix(".json").write_text(json.dumps(facts | {"seconds": found}) + "\n")
    lines_of_page = page(facts, found)
    output.with_suffix(".md").write_text("\n".join(lines_of_page) + "\n")
    print("\n".join(lines_of_page))


def measure(servers: dict[str, Server], rounds: int) -> dict[str, list[float]]:
    """CPU seconds of the API server per request in every round, by arm."""
    found: dict[str, list[float]] = defaultdict(list)
    chance = random.Random(0)
    for lap in track(range(rounds + 1), "rounds", transient=True):
        known = [arm for arm in arms() if arm.server in servers]
        for arm in chance.sample(known, len(known)):
            server = servers[arm.server]
            server.wake()
            try:
                asyncio.run(_send(server, arm, 1))
                begin = server.api_seconds()
                for _ in range(BATCHES):
                    asyncio.run(_send(server, arm, BATCH))
                if arm.name.endswith(_READ):
                    httpx.get(f"{server.url}/metrics", trust_env=False).raise_for_status()
                time.sleep(3 * _EXPORT_MILLISECONDS / 1000)
                if lap:  # the first one fills caches
                    found[arm.name].append((server.api_seconds() - begin) / BATCH / BATCHES)
            finally:
                server.freeze()
    return found


async def _send(server: Server, arm: Arm, batch: int) -> None:
    bodies = arm.bodies(DEFAULT_MODEL, batch, MAX_TOKENS)
    async with httpx.AsyncClient(base_url=server.url, timeout=300, trust_env=False) as client:
        for answer in await asyncio.gather(
            *(client.post("/v1/chat/completions", json=body) for body in bodies)
        ):
            answer.raise_for_status()


def page(facts: dict[str, object], found: dict[str, list[float]]) -> list[str]:
    """Markdown: how it was measured, and a row for each arm."""
    rows = []
    for arm in (arm for arm in arms() if arm.name in found):
        mine = np.array(found[arm.name]) * 1000
        row = f"| {arm.name} | {_spread(mine)} |"
        if arm.peer is None:
            rows.append(f"{row} | |")
        else:
            rows.append(f"{row} {_spread(mine - 1000 * np.array(found[arm.peer]))} | {arm.peer} |")
    return [
        "# What metrics, the decision log and spans cost",
        "",
        *machine.markdown(facts),
        f"- model: {facts['model']}, on vLLM's V1 runner; {facts['rounds']} rounds",
        "",
        *_METHOD.splitlines(),
        "",
        "| requests | CPU ms per request | more | than |",
        "|---|--:|--:|---|",
        *rows,
    ]


def _spread(values: Sequence[float] | np.ndarray[Any, Any]) -> str:
    draws = np.random.default_rng(0).choice(values, (10_000, len(values)))
    low, high = np.quantile(np.median(draws, axis=1), [0.025, 0.975])
    return f"{float(np.median(values)):.2f} ({low:.2f} to {high:.2f})"


@contextmanager
def sink() -> Iterator[dict[str, Any]]:
    """An OTLP endpoint that counts the bytes it is sent; sets the exporter's protocol."""
    received: dict[str, Any] = {"bytes": 0}

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            received["bytes"] += len(self.rfile.read(int(self.headers["content-length"])))
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    received["url"] = f"http://127.0.0.1:{server.server_port}/v1/traces"
    os.environ["OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"] = "http/protobuf"
    os.environ["OTEL_BSP_SCHEDULE_DELAY"] = str(_EXPORT_MILLISECONDS)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield received
    finally:
        server.shutdown()
        server.server_close()


if __name__ == "__main__":
    typer.run(main)
