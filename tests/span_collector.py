"""An OpenTelemetry collector that keeps spans in memory."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


class SpanCollector:
    """Receives spans by OTLP over HTTP."""

    def __init__(self) -> None:
        self._spans: list[Any] = []
        received = self._spans

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                size = int(self.headers["content-length"])
                batch = ExportTraceServiceRequest.FromString(self.rfile.read(size))
                scopes = [scope for one in batch.resource_spans for scope in one.scope_spans]
                received.extend(span for scope in scopes for span in scope.spans)
                self.send_response(200)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)

    @property
    def url(self) -> str:
        """Value of `--otlp-traces-endpoint`."""
        return f"http://127.0.0.1:{self._server.server_port}/v1/traces"

    @property
    def environment(self) -> dict[str, str]:
        """What a server needs to export to it, without waiting for a full batch."""
        return {
            "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf",
            "OTEL_EXPORTER_OTLP_COMPRESSION": "none",
            "OTEL_BSP_SCHEDULE_DELAY": "200",
        }

    def of(self, trace_id: str) -> list[Any]:
        """The spans of a trace, by its id in hexadecimal."""
        return [span for span in self._spans if span.trace_id.hex() == trace_id]

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
