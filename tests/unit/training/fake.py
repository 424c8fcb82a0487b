"""Servers that answer from the seed: what a real one draws, without a model."""

import json
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.unit.http_fake import JsonHandler, http_server

Json = dict[str, Any]
GREETING = "Hello"  # what a fleet says to see whether entropy is measured


def answer(seed: int) -> Json:
    """One choice; its tokens follow from the seed alone."""
    draw = random.Random(seed)
    tokens = [
        {"entropy": draw.lognormvariate(-1.0, 2.0), "temperature": 1.0}
        for _ in range(draw.randint(50, 150))
    ]
    return {
        "index": 0,
        "finish_reason": "stop",
        "message": {"role": "assistant", "content": f"answer {seed}"},
        "entropy": {"num_tokens": len(tokens), "tokens": tokens, "fallback": None},
    }


class Fake:
    """The server's side of a test."""

    url: str

    def __init__(self, checkpoint: Path | None) -> None:
        self.model = "tiny"
        self.root = str(checkpoint)
        self.measures = True
        """Whether answers carry `entropy`, as an Entrostat server's do."""
        self.reply: Callable[[Json], Json] = lambda body: answer(body["seed"])
        """From a request to its one choice."""
        self.delay = 0.0
        self.refusals: list[tuple[int, str]] = []
        """Answered instead, once each, before anything else."""
        self.fallbacks: list[str] = []
        """Put into the next answers."""
        self.routes: dict[str, Callable[[Json], Json]] = {}
        """What other paths answer to a POST."""
        self.asked: list[Json] = []
        self.busy = 0
        self.busiest = 0
        self.lock = threading.Lock()

    @property
    def seeds(self) -> list[int]:
        return [body["seed"] for body in self.asked]


class _Handler(JsonHandler):
    fake: Fake

    def do_GET(self) -> None:
        if self.path == "/version":
            self.send_json(200, {"version": "0.32.0"})
        elif self.path == "/v1/models":
            self.send_json(200, {"data": [{"id": self.fake.model, "root": self.fake.root}]})
        else:
            self.send_json(404, {"error": {"message": "Not Found"}})

    def do_POST(self) -> None:
        fake = self.fake
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if self.path in fake.routes:
            self.send_json(200, fake.routes[self.path](body))
            return
        choice = fake.reply(body)
        if not fake.measures:
            del choice["entropy"]
        if body["messages"][0]["content"] != GREETING:
            with fake.lock:
                fake.asked.append(body)
                fake.busy += 1
                fake.busiest = max(fake.busy, fake.busiest)
                refusal = fake.refusals.pop(0) if fake.refusals else None
                fallback = fake.fallbacks.pop(0) if fake.fallbacks else None
            time.sleep(fake.delay)
            with fake.lock:
                fake.busy -= 1
            if refusal is not None:
                self.send_json(refusal[0], {"error": {"message": refusal[1]}})
                return
            if fallback is not None:
                choice["entropy"]["fallback"] = fallback
        self.send_json(200, {"id": "x", "object": "chat.completion", "choices": [choice]})


@contextmanager
def running(checkpoint: Path | None = None) -> Iterator[Fake]:
    fake = Fake(checkpoint)
    with http_server(_Handler, fake=fake) as url:
        fake.url = url
        yield fake
