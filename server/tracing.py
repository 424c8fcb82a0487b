"""OpenTelemetry spans of controlled requests, on the exporter of `--otlp-traces-endpoint`.

Without an endpoint there are no spans, and this module imports nothing of OpenTelemetry. The spans
have numbers and ids; never a text of a prompt, an answer or a conversation.
"""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

_tracer: Any = None
"""OpenTelemetry's tracer; None without an endpoint."""


def set_tracer(tracer: Any) -> None:
    """Make spans with a tracer, or none from now on."""
    global _tracer  # one per process, as in OpenTelemetry
    _tracer = tracer


def start(config: Any) -> None:
    """Make spans if vLLM exports its own.

    Args:
        config: vLLM's config, whose engine client has opened the exporter.
    """
    if config.observability_config.otlp_traces_endpoint is not None:
        from opentelemetry.trace import get_tracer

        set_tracer(get_tracer("entrostat"))


def clock() -> int:
    """Nanoseconds since the epoch for `Span.open`; 0 without spans."""
    return 0 if _tracer is None else time.time_ns()


class Span:
    """A span, or nothing: without an endpoint every method returns at once."""

    def __init__(self, span: Any = None) -> None:
        self._span = span
        self.held = False
        """Whether somebody else ends the span later than the block that it was opened for."""

    @property
    def is_recording(self) -> bool:
        """Whether there is a span."""
        return self._span is not None

    @contextmanager
    def open(self, name: str, begin: int = 0, **attributes: Any) -> "Iterator[Span]":
        """A child of this span for the time of a block; an exception marks it as failed.

        Args:
            name: After `entrostat.`.
            begin: When it began, by `clock`; default: now.
            **attributes: See `set`.
        """
        if self._span is None:
            yield self
            return
        from opentelemetry.trace import set_span_in_context

        with _ended(_started(name, begin, set_span_in_context(self._span))) as span:
            span.set(**attributes)
            yield span

    def set(self, **attributes: Any) -> None:
        """Set attributes; those of None are left out.

        Args:
            **attributes: Names with `__` for a dot. A name without one is ours: `entrostat.` is
                put before it.
        """
        if self._span is None:
            return
        for name, value in attributes.items():
            if value is not None:
                dotted = name.replace("__", ".")
                self._span.set_attribute(dotted if "." in dotted else f"entrostat.{name}", value)

    def engine_arguments(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """Arguments of an engine call whose own span, vLLM's `llm_request`, is a child of this."""
        if self._span is None:
            return arguments
        from opentelemetry.trace import set_span_in_context
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        headers: dict[str, str] = {}
        TraceContextTextMapPropagator().inject(headers, set_span_in_context(self._span))
        return {**arguments, "trace_headers": headers}

    def end(self, **attributes: Any) -> None:
        """End the span."""
        if self._span is not None:
            self.set(**attributes)
            self._span.end()


NO_SPAN = Span()
"""What everything is a child of without an endpoint."""


@contextmanager
def request_span(headers: Mapping[str, str], begin: int) -> Iterator[Span]:
    """The span of a controlled request, a child of the span that its `traceparent` names.

    Args:
        headers: Of the request.
        begin: When it began, by `clock`.
    """
    if _tracer is None:
        yield NO_SPAN
        return
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    parent = TraceContextTextMapPropagator().extract(headers)
    with _ended(_started("request", begin, parent)) as span:
        yield span


def _started(name: str, begin: int, context: Any) -> Span:
    return Span(_tracer.start_span(f"entrostat.{name}", context, start_time=begin or None))


@contextmanager
def _ended(span: Span) -> Iterator[Span]:
    """End a span after a block, unless it is held; a failed block says so in it."""
    try:
        yield span
    except BaseException as error:
        span.held = False
        span.set(error__type=type(error).__name__)
        raise
    finally:
        if not span.held:
            span.end()
