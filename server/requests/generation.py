"""Runs a plan: hands it to the engine with each `generate` call and merges the trace back in.

vLLM's own handlers stay in charge of HTTP, rendering and parsing. This module sits on both sides
of them: below, as the engine client they call; above, on the response they return.
"""

import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, aclosing, nullcontext
from contextvars import ContextVar
from typing import Any

from fastapi.responses import JSONResponse, Response, StreamingResponse
from vllm.sampling_params import RequestOutputKind

from server import metrics
from server.planning.plan import Plan
from server.requests.admission import Admission
from server.requests.difficulty import DifficultyRun, Extend, Waiting
from server.requests.merge import summarise, token_reports
from server.requests.sse import only_opens, parse, sse, summary_chunk
from server.requests.telemetry import Telemetry, TraceBuffer
from server.worker.message import KEY, engine_control

current: ContextVar["Generation | None"] = ContextVar("entrostat_generation", default=None)
"""The generation of the HTTP request being handled; None for one without controls."""


class Call:
    """One `generate` call: one prompt, n completions."""

    def __init__(
        self, trace: TraceBuffer, choices: int, difficulty: DifficultyRun | None = None
    ) -> None:
        self.trace = trace
        self.produced = [0] * choices
        """Tokens that left the engine, per completion."""
        self.reported = [0] * choices
        """Tokens whose trace went out in a chunk."""
        self.difficulty = difficulty


class Generation:
    """One HTTP request under control."""

    def __init__(
        self,
        plan: Plan,
        telemetry: Telemetry,
        timeout: float,
        extend: Extend | None = None,
        admission: Admission | None = None,
    ) -> None:
        """Prepare to run a plan.

        Args:
            plan: What to do.
            telemetry: Where traces arrive.
            timeout: Seconds to wait for one.
            extend: Renders the prompt with a text after the question; None if it cannot.
            admission: Where steered requests wait for their turn; None if they need not.
        """
        self.plan = plan
        self._admission = admission
        self._extend = extend
        self._telemetry = telemetry
        self._timeout = timeout
        self._calls: list[Call] = []
        self._lost = False

    # -- below vLLM's handlers -------------------------------------------------------------

    def follow(self, engine: Any, prompt: Any, params: Any, *args: Any, **kwargs: Any) -> Any:
        """Give one engine request its control and count what comes out."""
        call = self._open(params)
        if call.difficulty is not None:
            return self._follow_difficulty(call, engine, prompt, params, *args, **kwargs)
        params = self._controlled(call, params)
        outputs = engine.generate(self._salted(prompt), params, *args, **kwargs)
        return self._count(call, outputs, params.output_kind == RequestOutputKind.DELTA)

    def _open(self, params: Any) -> Call:
        difficulty = self.plan.difficulty
        watched = self.plan.trace != "none" or difficulty is not None
        trace = self._telemetry.open() if watched else TraceBuffer(0)
        run = None
        if difficulty is not None:
            waiting = Waiting(trace, self._telemetry.address, self._timeout)
            run = DifficultyRun(difficulty, params.max_tokens, waiting, self._extend)
        self._calls.append(Call(trace, params.n, run))
        return self._calls[-1]

    def _controlled(self, call: Call, params: Any, difficulty: dict[str, Any] | None = None) -> Any:
        """The same parameters, with the control of the plan."""
        params.extra_args = {
            **(params.extra_args or {}),
            KEY: engine_control(
                law=self.plan.tag,
                parameters=self.plan.parameters,
                trace=0 if self.plan.trace == "none" else call.trace.id,
                address=self._telemetry.address,
                choices=params.n,
                difficulty=difficulty,
                steering=self.plan.steering and self.plan.steering.control,
            ),
        }
        return params

    def _salted(self, prompt: Any) -> Any:
        return prompt if self.plan.steering is None else self.plan.steering.salted(prompt)

    async def _follow_difficulty(
        self, call: Call, engine: Any, prompt: Any, params: Any, request_id: str, **kwargs: Any
    ) -> AsyncGenerator[Any, None]:
        """Learn the class of the question before the answer or with it, and answer by it."""
        run = call.difficulty
        assert run is not None
        delta = params.output_kind == RequestOutputKind.DELTA
        prompt, part = await run.prepare(engine, prompt, params, request_id, **kwargs)
        params = self._controlled(call, params, part)
        outputs = engine.generate(self._salted(prompt), params, request_id, **kwargs)
        async with aclosing(self._count(call, outputs, delta)) as counted:
            async for output in counted:
                for completion in output.outputs:
                    await run.explain_end(completion, call.produced[completion.index])
                yield output

    async def _count(
        self, call: Call, outputs: AsyncGenerator[Any, None], delta: bool
    ) -> AsyncGenerator[Any, None]:
        # The engine is asked when its answer is first awaited, so nothing is asked before its turn,
        # and the place is kept until the engine is told of an answer that nobody reads any more.
        async with self._turn(), aclosing(outputs):
            async for output in outputs:
                for completion in output.outputs:
                    count = len(completion.token_ids)
                    before = call.produced[completion.index] if delta else 0
                    call.produced[completion.index] = before + count
                yield output

    def _turn(self) -> AbstractAsyncContextManager[None]:
        if self.plan.steering is None or self._admission is None:
            return nullcontext()
        return self._admission.admit(self.plan.steering.control["key"])

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
            if call.difficulty is not None:
                report.difficulty = await call.difficulty.report(completion)
                if report.difficulty.source == "fallback":
                    report.fallback = report.fallback or "probe_unavailable"
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
            if self.plan.trace != "none" or self.plan.difficulty is not None:
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
        if self.plan.trace == "none":  # nothing was recorded but the class, which a header tells
            run = self._calls[0].difficulty if self._calls else None
            if run is not None:
                headers |= _label_header((await run.report(0)).label)
            response.headers.update(headers)
            return response
        reports = await self.reports()
        labels = [one["difficulty"]["label"] for one in reports.values() if one["difficulty"]]
        headers |= _label_header(labels[0] if labels else None)
        body = json.loads(bytes(response.body))
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
                if self.plan.trace == "none":
                    yield event
                    continue
                kind, data = parse(event)
                if data == "[DONE]":
                    if last is not None:
                        yield sse(summary_chunk(last, await self.reports()))
                    yield event
                elif not isinstance(data, dict):
                    yield event  # a keep-alive comment
                elif "choices" in data:
                    last = data if data["choices"] else last
                    yield await self._with_tokens(event, data)
                elif kind == "response.completed":
                    reports = await self.reports()
                    data["response"]["entropy"] = reports.get(len(reports) - 1)
                    yield f"event: {kind}\n" + sse(data)
                else:
                    yield event
        finally:
            self.close()

    async def _with_tokens(self, event: str, chunk: dict[str, Any]) -> str:
        changed = False
        for choice in chunk["choices"]:
            if only_opens(choice):
                continue
            if (addition := await self.chunk_report(choice["index"])) is not None:
                choice["entropy"] = addition
                changed = True
        return sse(chunk) if changed else event


def _label_header(label: str | None) -> dict[str, str]:
    return {} if label is None else {"x-entropy-difficulty": label}


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
