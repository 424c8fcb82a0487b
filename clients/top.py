"""`entrostat top`: what a running server does, in the terminal."""

import sys
import time
from collections.abc import Iterator, Mapping
from typing import Annotated

import httpx
import typer
from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from clients.connection import DEFAULT_URL, ClientError
from clients.drift import drifts
from clients.render import printable
from clients.scrape import Scrape, scrape

_SHOWN = 6
"""Values of a label that are shown."""
Row = tuple[str, str]


def top(
    url: Annotated[
        str, typer.Option(envvar="OPENAI_BASE_URL", help="Base URL of the server, with its /v1.")
    ] = DEFAULT_URL,
    interval: Annotated[
        float, typer.Option(min=0.2, max=3600.0, help="Seconds between two readings.")
    ] = 2.0,
    once: Annotated[
        bool, typer.Option("--once", help="Print the totals since the start, and end.")
    ] = False,
) -> None:
    """Show what the controls of a running server do, from its `/metrics`. Ctrl-C ends it.

    Requests, entropy, choices of difficulty, fallbacks, abstentions, coverage and drift: the totals
    since the server started and, unless `--once`, the last interval. Needs no API key.
    """
    out = Console(highlight=False)
    try:
        with httpx.Client() as client:
            now = scrape(client, url)
            if once:
                out.print(frame(now, None, 0.0))
            else:
                _watch(client, url, now, interval, out)
    except ClientError as error:
        print(f"entrostat top: {printable(str(error))}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None


def _watch(client: httpx.Client, url: str, now: Scrape, interval: float, out: Console) -> None:
    """Refresh until interrupted; a server that is away for a while is waited for."""
    before, at = now, time.monotonic()
    with Live(frame(now, None, 0.0), console=out, auto_refresh=False, screen=True) as live:
        while True:
            time.sleep(interval)
            try:
                now = scrape(client, url)
            except ClientError as error:
                shown = frame(before, None, 0.0)
                shown.caption = escape(printable(str(error)))
            else:
                seconds = time.monotonic() - at
                shown = frame(now, now.since(before), seconds)
                before, at = now, time.monotonic()
            live.update(shown, refresh=True)


def frame(now: Scrape, last: Scrape | None, seconds: float) -> Table:
    """One view of the server.

    Args:
        now: Its metrics.
        last: What was counted in the last interval; None shows the totals only.
        seconds: Length of the interval.
    """
    versions = [now.label("entrostat_info", name) for name in ("version", "vllm")]
    table = Table(title=_clean("Entrostat {} on vLLM {}".format(*versions)), expand=True)
    table.add_column("", style="bold", no_wrap=True)
    table.add_column("since the start")
    recent = {} if last is None else dict(_rows(last, seconds))
    if last is not None:
        table.add_column(f"last {seconds:.0f} s")
    for name, text in _rows(now, None):
        table.add_row(name, _clean(text), *([_clean(recent[name])] if recent else []))
    return table


def _rows(now: Scrape, seconds: float | None) -> Iterator[Row]:
    requests = now.total("entrostat_requests_total")
    rate = f" ({requests / seconds:.1f} per s)" if seconds else ""
    yield "requests with controls", f"{requests:.0f}{rate}"
    yield "  by law", _parts(now.by("entrostat_requests_total", "law"))
    yield "  by profile", _parts(now.by("entrostat_requests_total", "profile"))
    yield "  refused", _parts(now.by("entrostat_refused_total", "control"))
    yield "entropy per token", _mean(now, "entrostat_entropy_nats", "nats")
    yield "temperature", _mean(now, "entrostat_temperature", "")
    yield "tokens", _tokens(now)
    yield "difficulty", _parts(now.by("entrostat_strategies_total", "difficulty"))
    yield "predicted accuracy", _mean(now, "entrostat_predicted_accuracy", "")
    yield "inquiry turns", _parts(now.by("entrostat_inquiry_turns_total", "action"))
    yield "decisions", _parts(now.by("entrostat_decisions_total", "outcome"))
    yield "abstentions", _parts(now.by("entrostat_abstentions_total", "outcome"))
    yield "votes", _parts(now.by("entrostat_votes_total", "outcome"))
    yield "fallbacks", _parts(now.by("entrostat_fallbacks_total", "reason"))
    yield "feedback", _feedback(now)
    yield "coverage", _coverage(now)
    yield "decision log", _log(now)
    yield "drift of inputs", _drift(now) if seconds is None else ""
    if seconds is None:
        yield "now", _gauges(now)
    else:
        yield "now", ""


def _parts(sums: Mapping[str, float]) -> str:
    """`a 3, b 1`; the rest is summed up."""
    shown = [f"{name} {value:.0f}" for name, value in list(sums.items())[:_SHOWN]]
    rest = list(sums.values())[_SHOWN:]
    return ", ".join([*shown, *([f"others {sum(rest):.0f}"] if rest else [])]) or "-"


def _mean(now: Scrape, name: str, unit: str) -> str:
    count = now.total(f"{name}_count")
    if not count:
        return "-"
    return f"{now.total(f'{name}_sum') / count:.3f} {unit}".strip() + f" in {count:.0f} answers"


def _tokens(now: Scrape) -> str:
    tokens = now.total("entrostat_tokens_total")
    if not tokens:
        return "-"
    shares = ", ".join(
        f"{name} {now.total(f'entrostat_{name}_tokens_total') / tokens:.0%}"
        for name in ("heated", "cooled", "clamped")
    )
    return f"{tokens:.0f}: {shares}"


def _feedback(now: Scrape) -> str:
    verdicts = now.total("entrostat_feedback_total")
    if not verdicts:
        return "-"
    right = now.total("entrostat_feedback_total", right="true")
    return f"{right:.0f} of {verdicts:.0f} right ({right / verdicts:.0%})"


def _coverage(now: Scrape) -> str:
    sets = now.total("entrostat_feedback_sets_total")
    if not sets:
        return "-"
    covered = now.total("entrostat_feedback_covered_total") / sets
    level = now.total("entrostat_feedback_levels_total") / sets
    return f"{covered:.1%} of {sets:.0f} sets, level {level:.1%}"


def _drift(now: Scrape) -> str:
    """`m/probe state 0.03 (PSI of 812)`, the largest first."""
    ordered = sorted(drifts(now), key=lambda one: -one.psi)[:_SHOWN]
    shown = [f"{one.artifact} {one.input} {one.psi:.2f} (PSI of {one.seen})" for one in ordered]
    return ", ".join(shown) or "-"


def _log(now: Scrape) -> str:
    written = now.total("entrostat_decision_log_lines_total")
    lost = now.total("entrostat_decision_log_lost_lines_total")
    return f"{written:.0f} lines" + (f", {lost:.0f} lost" if lost else "")


def _gauges(now: Scrape) -> str:
    running = now.total("vllm:num_requests_running")
    waiting = now.total("vllm:num_requests_waiting")
    steered = now.total("entrostat_steered_requests_in_flight")
    failures = now.total("entrostat_worker_failures")
    alarms = now.by("entrostat_coverage_alarm", "artifact")
    found = [f"{running:.0f} running, {waiting:.0f} waiting, {steered:.0f} steered"]
    found += [f"{failures:.0f} worker failures"] if failures else []
    found += [f"ALARM: coverage of {', '.join(alarms)}"] if alarms else []
    return "; ".join(found)


def _clean(text: str) -> str:
    """A text with names from the server: no markup, no control characters."""
    return escape(printable(text))
