"""A controlled HTTP request against the fake engine, and its response."""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from typing import Any

from fastapi.responses import JSONResponse, Response, StreamingResponse
from prometheus_client import REGISTRY
from vllm.entrypoints.serve.engine.protocol import ErrorInfo, ErrorResponse, OpenAIBaseModel
from vllm.sampling_params import SamplingParams

from server.requests.generation import ControlledEngine, Generation
from server.requests.merge import ClosingStream, add_reports
from server.requests.telemetry import Telemetry
from server.wire.report import Report
from server.wire.request import Trace
from tests.unit.server.fake_engine import (
    FakeEngine,
    Json,
    Step,
    entropy_of,
    plan,
)

Stream = Callable[..., AsyncIterator[Any]]


class Body(OpenAIBaseModel):
    """The result of a vLLM handler, reduced to the fields that reports need."""

    choices: list[OpenAIBaseModel] | None = None


class Run:
    """One controlled HTTP request against the fake engine."""

    def __init__(
        self, script: list[Step], trace: Trace = "tokens", timeout: float = 0.2, **faults: Any
    ) -> None:
        self.telemetry = Telemetry()
        self.engine = FakeEngine(self.telemetry, script, **faults)
        self.controlled = ControlledEngine(self.engine)
        self.kept: list[tuple[str, int, Report]] = []
        """Id, index and report of every choice that the response has."""
        self.generation = Generation(
            plan(trace),
            self.telemetry,
            timeout,
            on_report=lambda *answer: self.kept.append(answer),
        )

    async def events(self, handler: Stream, *arguments: Any) -> AsyncGenerator[Any, None]:
        """The events of a streaming vLLM handler, with reports."""

        async def handle() -> Any:
            return handler(self.controlled, *arguments)

        with self.generation.activate():
            events: AsyncGenerator[Any, None] = await add_reports(handle)()
        return events

    async def stream(self, handler: Stream, *arguments: Any) -> list[Any]:
        """All events that a streaming client receives."""
        response = StreamingResponse(await self.events(handler, *arguments))
        closing = ClosingStream(response, self.generation)
        received = list[Any]()

        async def send(message: Any) -> None:
            pass

        async def listen() -> Any:
            await asyncio.Event().wait()

        async def tee(events: Any) -> AsyncIterator[str]:
            async with aclosing(events):
                async for event in events:
                    received.append(event)
                    yield ""

        closing.body_iterator = tee(closing.body_iterator)
        await closing({"type": "http", "asgi": {"spec_version": "2.4"}}, listen, send)
        return received

    async def answer(self, body: Json, *calls: SamplingParams, status: int = 200) -> Response:
        """The response that a non-streaming client receives."""

        async def handle() -> Any:
            for number, call in enumerate(calls):
                async for _ in self.controlled.generate("prompt", call, str(number)):
                    pass
            if status != 200:
                error = ErrorInfo(message="too long", type="BadRequestError", code=status)
                return ErrorResponse(error=error)
            return Body(**body)

        with self.generation.activate():
            result = await add_reports(handle)()
        self.generation.close()
        content = result.model_dump(exclude_unset=True)
        headers = {"x-request-id": "7", **self.generation.headers()}
        return JSONResponse(content, status_code=status, headers=headers)


def bodies(events: list[str]) -> list[Json]:
    """Payloads of the events that have a JSON body."""
    lines = [line[6:] for event in events for line in event.splitlines() if line[:6] == "data: "]
    return [json.loads(line) for line in lines if line != "[DONE]"]


def token_chunks(events: list[str], index: int) -> list[Json]:
    """Tokens of one choice from all chunks, in order."""
    return [
        token
        for body in bodies(events)
        for choice in body["choices"]
        if choice["index"] == index
        for token in (choice.get("entropy") or {}).get("tokens") or []
    ]


def summary(events: list[str], index: int) -> Json:
    """The summary of one choice, from its last chunk."""
    (found,) = [
        choice["entropy"]
        for body in bodies(events)
        for choice in body["choices"]
        if choice["index"] == index and choice["finish_reason"] is not None
    ]
    return dict(found)


def expected_tokens(trace: int, choice: int, count: int) -> list[Json]:
    entropies = [entropy_of(trace, choice, index) for index in range(count)]
    return [{"entropy": h, "temperature": 0.5, "varentropy": 2 * h} for h in entropies]


def fallbacks(reason: str) -> float:
    """Value of the fallback counter for a reason in this process."""
    return REGISTRY.get_sample_value("entrostat_fallbacks_total", {"reason": reason}) or 0.0
