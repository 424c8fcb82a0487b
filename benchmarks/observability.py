"""What metrics, the decision log and spans cost: `python -m benchmarks.observability`.

As `benchmarks.overhead`, with two more servers of Entrostat: one writes the decision log with the
bodies of the requests, one exports spans. Metrics are always on; an arm also reads them every
second, as Prometheus does at its fastest. Beside the throughput, the processor time that the API
server takes for a request, which the rest of the machine hardly changes.
"""

import asyncio
import os
import signal
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from benchmarks import machine
from benchmarks.arms import STOCK, Arm
from benchmarks.overhead.__main__ import MAX_TOKENS, measure, send
from benchmarks.overhead.report import Section, pool, write
from benchmarks.servers import Server, side_by_side
from server.commands.default_model import DEFAULT_MODEL, default_model
from server.settings import settings

_FLAGS = ["--enforce-eager", "--disable-uvicorn-access-log"]
_DYNATEMP = {"temperature": {"type": "dynatemp"}}
_BATCHES, _BATCH = 20, 16
"""Of requests of one token, to measure what the API server takes for a request."""
_EXPORT_SECONDS = 6.0
"""After which OpenTelemetry has exported its spans."""
_TITLE = "What metrics, the decision log and spans cost"
_METHOD = """\
Servers are alive together, with the same flags and their engines bound to the same cores: stock
vLLM, stock vLLM once more, Entrostat, Entrostat with `--decision-log` and `--log-prompts`, and
Entrostat with `--otlp-traces-endpoint`. One at a time is under load, the others are frozen
(SIGSTOP). A round visits every arm once in random order: a short batch to warm the caches, then
{max_tokens} tokens for each of the concurrent chat requests (`temperature` 1, `ignore_eos`, no
streaming). Only requests with a control have a line in the log and spans of ours, so each server is
asked without a control and with `dynatemp` and its summary. Starts of all servers: {restarts}, now
one, now the other first, with {rounds} rounds each. tokens/s is the median of all rounds; the ratio
is the median over a start's rounds of the throughput over stock's in the same round, and the mean
of the starts; low and high are the least and the largest start, of a single start its 95 %
interval, a bootstrap over rounds. Two processes of one program differ by some percent for as long
as they live: the second stock process shows how much. Below each table arms are compared with
another one. Those of one process are free of that difference: the control with its line, and with
its spans, over no control there, to be read beside `dynatemp over no control`, which has
neither."""


def arms() -> list[Arm]:
    """Who is asked for what."""
    return [
        STOCK,
        Arm("stock vLLM, second process", "twin"),
        Arm("no control", "ours", None, 0.99),
        Arm("dynatemp", "ours", _DYNATEMP, peer="no control"),
        Arm("dynatemp, metrics read", "ours", _DYNATEMP, peer="dynatemp", scraped=True),
        Arm("log on, no control", "log", None, peer="no control"),
        Arm("log on, dynatemp", "log", _DYNATEMP, peer="log on, no control"),
        Arm("spans on, no control", "spans", None, peer="no control"),
        Arm("spans on, dynatemp", "spans", _DYNATEMP, peer="spans on, no control"),
    ]


def main(
    rounds: Annotated[int, typer.Option(min=2, help="Visits to every arm, per start.")] = 5,
    batches: Annotated[str, typer.Option(help="Concurrent requests, by commas.")] = "16",
    restarts: Annotated[int, typer.Option(min=1, help="Times all servers are started anew.")] = 3,
    kv_cache: Annotated[int, typer.Option(help="MiB of every server's KV cache.")] = 256,
    twin: Annotated[bool, typer.Option(help="Also measure a second stock process.")] = True,
    output: Annotated[Path, typer.Option(help="Folder of the results.")] = Path(
        "benchmarks/results"
    ),
) -> None:
    """Measure every arm and write observability.md, .json and .png after every start."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the servers are stopped too
    facts = machine.describe("benchmarks.observability")
    facts |= {"model": DEFAULT_MODEL, "rounds": rounds, "max_tokens": MAX_TOKENS}
    sizes = [int(size) for size in batches.split(",")]
    runs: dict[int, list[Section]] = {size: [] for size in sizes}
    costs: dict[str, list[float]] = {}
    for lap in range(restarts):
        sections, found = _start(lap, rounds, sizes, kv_cache, twin=twin)
        for section in sections:
            runs[section.batch].append(section)
        for name, milliseconds in found.items():
            costs.setdefault(name, []).append(milliseconds)
        facts |= {"restarts": lap + 1, "milliseconds": costs}
        sections = [pool(arms(), runs[size]) if lap else runs[size][0] for size in sizes]
        stem = output / "observability"
        more = _table(costs)
        write(facts, sections, stem, Console(), title=_TITLE, method=_METHOD, more=more)
        print("\n".join(more))


def _table(costs: dict[str, list[float]]) -> list[str]:
    """Processor time per request, as lines of the page."""
    rows = [
        f"| {name} | {statistics.mean(found):.2f} | {min(found):.2f} to {max(found):.2f} |"
        for name, found in costs.items()
    ]
    return [
        "",
        "## Processor time of the API server",
        "",
        f"All processes of a server but its engine and workers, for {_BATCHES} batches of {_BATCH} "
        f"requests of one token and the {_EXPORT_SECONDS:g} seconds after them, in milliseconds "
        "per request: the mean of the starts, the least and the largest.",
        "",
        "| arm | ms per request | low to high |",
        "|---|--:|--:|",
        *rows,
    ]


def _milliseconds(server: Server, arm: Arm) -> float:
    """Processor time that the API server takes for one request of one token."""
    server.wake()
    try:
        asyncio.run(send(server, arm, _BATCH, 1))
        before = server.api_seconds()
        for _ in range(_BATCHES):
            asyncio.run(send(server, arm, _BATCH, 1))
        time.sleep(_EXPORT_SECONDS)
        return 1000 * (server.api_seconds() - before) / (_BATCHES * _BATCH)
    finally:
        server.freeze()


def _start(
    lap: int, rounds: int, sizes: list[int], kv_cache: int, *, twin: bool
) -> tuple[list[Section], dict[str, float]]:
    """Start all servers, measure, and check that lines and spans were written."""
    checkpoint = default_model(settings().cache)
    flags = [*_FLAGS, "--kv-cache-memory-bytes", str(kv_cache << 20)]
    with tempfile.TemporaryDirectory(prefix="entrostat-bench-") as folder, sink() as received:
        log = Path(folder) / "decisions.jsonl"
        others = {
            "log": ["--decision-log", str(log), "--log-prompts"],
            "spans": ["--otlp-traces-endpoint", received["url"]],
        }
        with side_by_side(
            *(checkpoint, DEFAULT_MODEL, flags, Path(folder)),
            twin=twin,
            others=others,
            backwards=bool(lap % 2),
            memory=2.5 + kv_cache / 1024,
        ) as servers:
            sections = list(measure("eager", servers, arms(), rounds, sizes))
            known = [arm for arm in arms() if arm.server in servers]
            costs = {arm.name: _milliseconds(servers[arm.server], arm) for arm in known}
        lines = len(log.read_text().splitlines())
        asked = 2 * (rounds + 1) * sum(sizes) + (_BATCHES + 1) * _BATCH  # each warmed up
        if lines != asked or received["bytes"] == 0:
            raise RuntimeError(f"{lines} lines of {asked}, {received['bytes']} bytes of spans")
    return sections, costs


@contextmanager
def sink() -> Iterator[dict[str, Any]]:
    """An OTLP endpoint that counts the bytes it is sent; sets the exporter's variables."""
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
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield received
    finally:
        server.shutdown()
        server.server_close()


if __name__ == "__main__":
    typer.run(main)
