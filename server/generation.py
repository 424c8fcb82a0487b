"""Runs a plan: hands it to the engine with each `generate` call and merges the trace back in.

vLLM's own handlers stay in charge of HTTP, rendering and parsing. This module sits on both sides
of them: below, as the engine client they call; above, on the response they return.
"""

import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextvars import ContextVar
from typing import Any

from fastapi.responses import JSONResponse, Response, StreamingResponse
from vllm.sampling_params import RequestOutputKind

from server import metrics
from server.control import KEY, engine_control
from server.plan import Plan
from server.report import summarise, token_reports
from server.telemetry import Telemetry, TraceBuffer

current: ContextVar["Generation | None"] = ContextVar("entrostat_generation", default=None)
"""The generation of the HTTP request being handled; None for one without controls."""


class Call:
    """One `generate` call: one prompt, n completions."""

    def __init__(self, trace: TraceBuffer, choices: int) -> None:
        self.trace = trace
        self.produced = [0] * choices
        """Tokens that left the engine, per completion."""
        self.reported = [0] * choices
        """Tokens whose trace went out in a chunk."""


class Generation:
    """One HTTP request under control."""

    def __init__(self, plan: Plan, telemetry: Telemetry, timeout: float) -> None:
        self.plan = plan
        self._telemetry = telemetry
        self._timeout = timeout
        self._calls: list[Call] = []
        self._lost = False

    # -- below vLLM's handlers -------------------------------------------------------------

    def follow(self, engine: Any, prompt: Any, params: Any, *args: Any, **kwargs: Any) -> Any:
        """Give one engine request its control and count what comes out."""
        traced = self.plan.trace != "none"
        call = Call(self._telemetry.open() if traced else TraceBuffer(0), params.n)
        self._calls.append(call)
        params.extra_args = {
            **(params.extra_args or {}),
            KEY: engine_control(
                law=self.plan.tag,
                parameters=self.plan.parameters,
                trace=call.trace.id,
                address=self._telemetry.address,
                choices=params.n,
            ),
        }
        outputs = engine.generate(prompt, params, *args, **kwargs)
        return self._count(call, outputs, params.output_kind == RequestOutputKind.DELTA)

    async def _count(
        self, call: Call, outputs: AsyncGenerator[Any, None], delta: bool
    ) -> AsyncGenerator[Any, None]:
        try:
            async for output in outputs:
                for completion in output.outputs:
                    count = len(completion.token_ids)
                    before = call.produced[completion.index] if delta else 0
                    call.produced[completion.index] = before + count
                yield output
        finally:
            await outputs.aclose()

    # -- above them ------------------------------------------------------------------------

    def close(self) -> None:
        """Forget the traces."""
        for call in self._calls:
            self._telemetry.close(call.trace)

    def _choices(self) -> Iterator[tuple[int, Call, int]]:
        """Position in the answer, call, and completion of that call."""
        position = 0
        for call in self._calls:
            for completion in range(len(call.produced)):
                yield position, call, completion
                position += 1

    def _place(self, position: int) -> tuple[Call, int] | None:
        for at, call, completion in self._choices():
            if at == position:
                return call, completion
        return None

    async def _complete(self, call: Call, completion: int, start: int) -> None:
        """Wait for the trace to catch up with the answer, once: a lost record stays lost."""
        if not self._lost:
            deadline = time.monotonic() + self._timeout
            stop = call.produced[completion]
            self._lost = not await call.trace.wait(completion, start, stop, deadline)

    async def reports(self) -> dict[int, dict[str, Any]]:
        """Final report of every choice, by its position in the answer."""
        result = {}
        for position, call, completion in self._choices():
            await self._complete(call, completion, 0)
            tokens = call.trace.get(completion, 0, call.produced[completion])
            report = summarise(self.plan, tokens, call.produced[completion])
            metrics.observe(report)
            result[position] = report.model_dump()
        return result

    async def chunk_report(self, position: int) -> dict[str, Any] | None:
        """What to add to a chunk of a stream: the tokens since the last one."""
        if self.plan.trace != "tokens" or (place := self._place(position)) is None:
            return None
        call, completion = place
        start, stop = call.reported[completion], call.produced[completion]
        if start == stop:
            return None
        await self._complete(call, completion, start)
        call.reported[completion] = stop
        tokens = token_reports(call.trace.get(completion, start, stop))
        return {"tokens": [token.model_dump() for token in tokens]}

    def headers(self) -> dict[str, str]:
        """For clients that drop unknown fields."""
        return {} if self.plan.profile is None else {"x-entropy-profile": self.plan.profile}

    async def finish(self, response: Response) -> Response:
        """Merge the trace into what vLLM's handler returned."""
        if isinstance(response, StreamingResponse):
            response.headers.update(self.headers())
            if self.plan.trace != "none":
                response.body_iterator = self._stream(response.body_iterator)
            return response
        try:
            if response.status_code != 200:
                return response
            return await self._merge(response)
        finally:
            self.close()

    async def _merge(self, response: Response) -> Response:
        headers = self.headers()
        if self.plan.trace == "none":
            response.headers.update(headers)
            return response
        body = json.loads(bytes(response.body))
        reports = await self.reports()
        for choice in body.get("choices", []):
            choice["entropy"] = reports.get(choice["index"])
        if "output" in body:  # the Responses API has one answer and no choices
            body["entropy"] = reports.get(len(reports) - 1)
        fallbacks = {report["fallback"] for report in reports.values()} - {None}
        if fallbacks:
            headers["x-entropy-fallback"] = ",".join(sorted(fallbacks))
        kept = {k: v for k, v in response.headers.items() if k != "content-length"}
        return JSONResponse(body, headers=kept | headers, background=response.background)

    async def _stream(self, events: Any) -> AsyncIterator[str]:
        last: dict[str, Any] | None = None
        try:
            async for event in events:
                kind, data = _parse(event)
                if data == "[DONE]":
                    if last is not None:
                        yield _sse(_summary_chunk(last, await self.reports()))
                    yield event
                elif not isinstance(data, dict):
                    yield event  # a keep-alive comment
                elif "choices" in data:
                    last = data if data["choices"] else last
                    yield await self._with_tokens(event, data)
                elif kind == "response.completed":
                    reports = await self.reports()
                    data["response"]["entropy"] = reports.get(len(reports) - 1)
                    yield f"event: {kind}\n" + _sse(data)
                else:
                    yield event
        finally:
            self.close()

    async def _with_tokens(self, event: str, chunk: dict[str, Any]) -> str:
        changed = False
        for choice in chunk["choices"]:
            if _only_opens(choice):
                continue
            if (addition := await self.chunk_report(choice["index"])) is not None:
                choice["entropy"] = addition
                changed = True
        return _sse(chunk) if changed else event


class ControlledEngine:
    """An engine client for vLLM's handlers that applies the current generation's plan."""

    def __init__(self, engine: Any) -> None:
        self._engine = engine

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def generate(self, prompt: Any, sampling_params: Any, *args: Any, **kwargs: Any) -> Any:
        """`EngineClient.generate`, with the plan of the HTTP request if it has one."""
        generation = current.get()
        if generation is None:
            return self._engine.generate(prompt, sampling_params, *args, **kwargs)
        return generation.follow(self._engine, prompt, sampling_params, *args, **kwargs)


def _only_opens(choice: dict[str, Any]) -> bool:
    """Whether this part of a chunk names the role and says nothing yet; its token comes next."""
    delta = choice.get("delta") or {}
    return "role" in delta and not delta.get("content") and choice.get("finish_reason") is None


def _sse(data: dict[str, Any]) -> str:
    return f"data: {json.dumps(data, ensure_ascii=False, separators=(',', ':'))}\n\n"


def _parse(event: str) -> tuple[str | None, Any]:
    """Event name and payload of a server-sent event; payload None for a comment."""
    kind = None
    for line in event.splitlines():
        if line.startswith("event: "):
            kind = line[7:]
        elif line.startswith("data: "):
            text = line[6:]
            return kind, text if text == "[DONE]" else json.loads(text)
    return kind, None


def _summary_chunk(last: dict[str, Any], reports: dict[int, dict[str, Any]]) -> dict[str, Any]:
    """A last chunk without text that carries the summary of every choice."""
    empty: dict[str, Any] = {"delta": {}} if "delta" in last["choices"][0] else {"text": ""}
    chunk: dict[str, Any] = {
        key: last[key] for key in ("id", "object", "created", "model") if key in last
    }
    chunk["choices"] = [
        {
            "index": position,
            **empty,
            "logprobs": None,
            "finish_reason": None,
            "entropy": {**report, "tokens": None},
        }
        for position, report in reports.items()
    ]
    return chunk
