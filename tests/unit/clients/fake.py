"""A server that speaks the wire from a script: what it answers is what the test says."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.unit.http_fake import JsonHandler, http_server

Json = dict[str, Any]


def chunk(text: str, entropy: Json | None = None, index: int = 0) -> Json:
    choice: Json = {"index": index, "delta": {"content": text}, "finish_reason": None}
    if entropy is not None:
        choice["entropy"] = entropy
    return envelope([choice], "chat.completion.chunk")


def envelope(choices: list[Json], kind: str) -> Json:
    return {"id": "x", "object": kind, "created": 0, "model": "fake", "choices": choices}


def tokens(*entropies: float | None, temperature: float = 1.0) -> Json:
    """What a chunk on the way carries."""
    return {"tokens": [{"entropy": h, "temperature": temperature} for h in entropies]}


SUMMARY: Json = {
    "profile": "adaptive",
    "law": "hapo",
    "entropy_mean": 1.25,
    "entropy_max": 2.0,
    "temperature_mean": 0.98,
    "num_tokens": 3,
    "num_clamped": None,
    "tokens": None,
    "fallback": None,
}
HELLO: list[Json] = [
    chunk(""),
    chunk("Hel", tokens(0.5)),
    chunk("lo", tokens(1.25, 2.0)),
    chunk("", SUMMARY),
]

WHOLE = envelope(
    [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "Hello"},
            "finish_reason": "stop",
            "entropy": SUMMARY | tokens(0.5, 1.25, 2.0),
        }
    ],
    "chat.completion",
)
"""What `HELLO` streams."""


class Fake:
    """The server's side of a test: set what it answers, read what it was asked."""

    url: str

    def __init__(self) -> None:
        self.events: list[Json] = HELLO
        self.refusal: tuple[int, str] | None = None
        self.requests: list[Json] = []
        self.answers: list[Json] = []
        """What requests without a stream get, in order; then `WHOLE`."""
        self.artifacts: list[Json] = []


class _Handler(JsonHandler):
    fake: Fake

    def do_GET(self) -> None:
        if self.path == "/v1/entropy/artifacts":
            self.send_json(200, {"object": "list", "data": self.fake.artifacts})
            return
        known = self.path in ("/v1/models", "/ready")
        card = {"id": "fake", "object": "model", "created": 0, "owned_by": "test"}
        self.send_json(200 if known else 404, {"object": "list", "data": [card]})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        request = json.loads(body)
        self.fake.requests.append(request)
        if self.fake.refusal is not None:
            status, message = self.fake.refusal
            self.send_json(status, {"error": {"message": message, "param": "entropy"}})
            return
        if not request.get("stream"):
            self.send_json(200, self.fake.answers.pop(0) if self.fake.answers else WHOLE)
            return
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.end_headers()
        for event in self.fake.events:
            self.wfile.write(f"data: {json.dumps(event)}\n\n".encode())
        self.wfile.write(b"data: [DONE]\n\n")


@contextmanager
def running() -> Iterator[Fake]:
    fake = Fake()
    with http_server(_Handler, fake=fake) as url:
        fake.url = f"{url}/v1"
        yield fake
