"""`entrostat top`: what a frame shows, and what it says when there is no server."""

import io

import httpx
import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from rich.console import Console

from clients.connection import ClientError
from clients.scrape import Scrape, scrape
from clients.top import frame, top
from tests.unit.http_fake import JsonHandler, http_server


def page(
    requests: int = 12, profile: str = "none", entropies: tuple[float, ...] = (0.5, 1.5)
) -> str:
    """The metrics of a server."""
    registry = CollectorRegistry()
    info = Gauge("entrostat_info", "x", ["version", "vllm"], registry=registry)
    info.labels("1.2", "0.32").set(1)
    counted = Counter("entrostat_requests", "x", ["law", "profile"], registry=registry)
    counted.labels("edt", profile).inc(requests)
    entropy = Histogram("entrostat_entropy_nats", "x", registry=registry)
    for one in entropies:
        entropy.observe(one)
    fallbacks = Counter("entrostat_fallbacks", "x", ["reason"], registry=registry)
    fallbacks.labels("trace_lost").inc(3)
    fallbacks.labels("no_entropy").inc(0)
    for name, value in (("sets", 10), ("covered", 8), ("levels", 9)):
        told = Counter(f"entrostat_feedback_{name}", "x", ["artifact"], registry=registry)
        told.labels("m/teams").inc(value)
    alarm = Gauge("entrostat_coverage_alarm", "x", ["artifact"], registry=registry)
    alarm.labels("m/teams").set(1)
    names = ["artifact", "input", "bin"]
    share = Gauge("entrostat_drift_reference_share", "x", names, registry=registry)
    seen = Counter("entrostat_drift_observations", "x", names, registry=registry)
    for artifact, counts in (("m/probe", (5, 15)), ("m/same", (30, 30)), ("m/unused", (0, 0))):
        for number, count in enumerate(counts):
            share.labels(artifact, "state", str(number)).set(0.5)
            seen.labels(artifact, "state", str(number)).inc(count)
    return generate_latest(registry).decode()


def read(text: str, status: int = 200) -> Scrape:
    def answer(request: httpx.Request) -> httpx.Response:
        assert request.url.path == "/metrics"
        return httpx.Response(status, text=text)

    with httpx.Client(transport=httpx.MockTransport(answer)) as client:
        return scrape(client, "http://server/v1")


def shown(now: Scrape, last: Scrape | None = None, seconds: float = 0.0) -> list[str]:
    """The lines of a frame, without borders."""
    file = io.StringIO()
    Console(file=file, width=160).print(frame(now, last, seconds))
    return [" ".join(line.replace("│", " ").split()) for line in file.getvalue().splitlines()]


def test_a_frame_shows_counts_means_and_coverage() -> None:
    lines = shown(read(page()))
    assert "Entrostat 1.2 on vLLM 0.32" in lines
    assert "requests with controls 12" in lines
    assert "by law edt 12" in lines
    assert "entropy per token 1.000 nats in 2 answers" in lines
    assert "fallbacks trace_lost 3" in lines
    assert "coverage 80.0% of 10 sets, level 90.0%" in lines
    assert "drift of inputs m/probe state 0.27 (PSI of 20), m/same state 0.00 (PSI of 60)" in lines
    assert any(line.endswith("ALARM: coverage of m/teams") for line in lines)


def test_the_last_interval_is_what_was_counted_in_it() -> None:
    before, now = read(page(12)), read(page(32, entropies=(0.5, 1.5, 2.5)))
    lines = shown(now, now.since(before), 4.0)
    assert "requests with controls 32 20 (5.0 per s)" in lines
    assert "entropy per token 1.500 nats in 3 answers 2.500 nats in 1 answers" in lines
    assert "fallbacks trace_lost 3 -" in lines


def test_after_a_restart_the_interval_is_the_time_since() -> None:
    before, now = read(page(12)), read(page(5))
    assert now.since(before).total("entrostat_requests_total") == 5


def test_names_from_the_server_are_text() -> None:
    lines = shown(read(page(profile="[red]x[/red]\x1b[2J")))
    assert "by profile [red]x[/red][2J 12" in lines


@pytest.mark.parametrize(
    ("text", "status", "message"),
    [
        ("nothing", 404, "no metrics at http://server/metrics"),
        ("{]", 200, "is not a page of metrics"),
        ("vllm:num_requests_running 1\n", 200, "none of ours"),
    ],
)
def test_what_is_no_server_of_ours_is_said(text: str, status: int, message: str) -> None:
    with pytest.raises(ClientError, match=message):
        read(text, status)


def test_one_frame_is_printed_for_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    class Metrics(JsonHandler):
        def do_GET(self) -> None:
            content = page().encode()
            self.send_response(200)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

    with http_server(Metrics) as url:
        top(f"{url}/v1", interval=2.0, once=True)
    out = capsys.readouterr().out
    assert "trace_lost 3" in out
    assert "\x1b" not in out


def test_a_server_that_is_away_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        top("http://127.0.0.1:9/v1", interval=2.0, once=True)
    assert end.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("entrostat top: no metrics at http://127.0.0.1:9/metrics")
    assert error.count("\n") == 1
