"""A controlled HTTP request against the fake engine, and what its client reads."""

import json
from collections.abc import AsyncIterator, Callable
from typing import Any

from fastapi.responses import JSONResponse, Response, StreamingResponse
from prometheus_client import REGISTRY
from vllm.sampling_params import SamplingParams

from server.requests.generation import ControlledEngine, Generation, current
from server.requests.telemetry import Telemetry
from tests.unit.server.fake_engine import (
    FakeEngine,
    Json,
    Step,
    entropy_of,
    plan,
)

Stream = Callable[..., AsyncIterator[str]]


class Run:
    """One controlled HTTP request against the fake engine."""

    def __init__(
        self, script: list[Step], trace: str = "tokens", timeout: float = 0.2, **faults: Any
    ) -> None:
        self.telemetry = Telemetry()
        self.engine = FakeEngine(self.telemetry, script, **faults)
        self.controlled = ControlledEngine(self.engine)
        self.generation = Generation(plan(trace), self.telemetry, timeout)
        current.set(self.generation)

    async def stream(self, handler: Stream, *arguments: Any) -> list[str]:
        """Everything that a streaming client receives."""
        response = StreamingResponse(handler(self.controlled, *arguments))
        self.response = await self.generation.finish(response)
        assert isinstance(self.response, StreamingResponse)
        return [str(event) async for event in self.response.body_iterator]

    async def answer(self, body: Json, *calls: SamplingParams, status: int = 200) -> Response:
        """What a client that does not stream receives."""
        for number, call in enumerate(calls):
            async for _ in self.controlled.generate("prompt", call, str(number)):
                pass
        response = JSONResponse(body, status_code=status, headers={"x-request-id": "7"})
        return await self.generation.finish(response)


def bodies(events: list[str]) -> list[Json]:
    """Payloads of the events that have one."""
    lines = [line[6:] for event in events for line in event.splitlines() if line[:6] == "data: "]
    return [json.loads(line) for line in lines if line != "[DONE]"]


def token_chunks(events: list[str], index: int) -> list[Json]:
    """Tokens in the chunks of one choice, in order."""
    return [
        token
        for body in bodies(events)
        for choice in body["choices"]
        if choice["index"] == index
        for token in (choice.get("entropy") or {}).get("tokens") or []
    ]


def expected_tokens(trace: int, choice: int, count: int) -> list[Json]:
    return [
        {"entropy": entropy_of(trace, choice, index), "temperature": 0.5} for index in range(count)
    ]


def fallbacks(reason: str) -> float:
    """How often that was counted in this process."""
    return REGISTRY.get_sample_value("entrostat_fallbacks_total", {"reason": reason}) or 0.0
