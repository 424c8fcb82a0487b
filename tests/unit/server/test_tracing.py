"""Spans of controlled requests, read back from OpenTelemetry's in-memory exporter."""

import sys
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from server import tracing

PARENT = {"traceparent": f"00-{'a' * 32}-{'b' * 16}-01"}


@pytest.fixture
def exported() -> Iterator[InMemorySpanExporter]:
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracing.set_tracer(provider.get_tracer("test"))
    yield exporter
    tracing.set_tracer(None)


def test_without_an_endpoint_there_is_nothing() -> None:
    config = SimpleNamespace(observability_config=SimpleNamespace(otlp_traces_endpoint=None))
    tracing.start(config)
    assert tracing.clock() == 0
    arguments = {"priority": 1}
    with tracing.request_span(PARENT, 0) as request:
        request.set(gen_ai__request__model="m")
        assert not request.is_recording
        with request.open("plan", controls=["vote"]) as plan:
            assert plan is request
        assert request.engine_arguments(arguments) is arguments
        request.end(fallback="x")


def test_spans_are_children_of_the_request_and_it_of_the_clients_span(
    exported: InMemorySpanExporter,
) -> None:
    begin = tracing.clock()
    with (
        tracing.request_span(PARENT, begin) as request,
        request.open("plan", begin, controls=["vote"]) as plan,
    ):
        request.set(gen_ai__request__model="m", profile=None)
        headers = plan.engine_arguments({"priority": 1, "trace_headers": None})
    child, parent = exported.get_finished_spans()
    assert (child.name, parent.name) == ("entrostat.plan", "entrostat.request")
    assert child.parent is not None
    assert child.parent.span_id == parent.context.span_id
    assert parent.parent is not None
    assert f"{parent.parent.span_id:016x}" == "b" * 16
    assert f"{parent.context.trace_id:032x}" == "a" * 32
    assert (dict(parent.attributes or {}), dict(child.attributes or {})) == (
        {"gen_ai.request.model": "m"},
        {"entrostat.controls": ("vote",)},
    )
    assert child.start_time == parent.start_time == begin
    assert headers["priority"] == 1
    assert headers["trace_headers"]["traceparent"].split("-")[2] == f"{child.context.span_id:016x}"


def test_a_failed_block_names_its_error_and_a_held_span_ends_later(
    exported: InMemorySpanExporter,
) -> None:
    with tracing.request_span({}, 0) as request:
        request.held = True
    assert exported.get_finished_spans() == ()
    with pytest.raises(ValueError, match="x"), request.open("turn"):
        raise ValueError("x")
    request.end(gen_ai__usage__output_tokens=3)
    turn, ended = exported.get_finished_spans()
    assert dict(turn.attributes or {}) == {"error.type": "ValueError"}
    assert dict(ended.attributes or {}) == {"gen_ai.usage.output_tokens": 3}


def test_the_servers_modules_need_no_opentelemetry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    with tracing.request_span(PARENT, tracing.clock()) as request, request.open("plan") as plan:
        assert not plan.is_recording
