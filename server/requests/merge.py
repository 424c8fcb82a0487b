"""Adds reports to the results of vLLM's handlers.

A report stays a pydantic model, which vLLM's route serializes with the response. In streams,
reports are added to vLLM's own events and no event is appended, because clients read fields such as
`usage` from the last event.
"""

import asyncio
import re
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from functools import wraps
from typing import Any

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send
from vllm.entrypoints.anthropic.protocol import AnthropicMessagesResponse
from vllm.entrypoints.serve.engine.protocol import ErrorResponse
from vllm.entrypoints.serve.utils.sse_keep_alive import with_sse_keep_alive

from probes.selective.state import PromptState
from server.metrics import observe
from server.metrics.drift import observe_inputs
from server.requests.generation import AnswerChoice, Generation, current_generation
from server.requests.report import summarize, token_reports
from server.requests.selective import HeldStream, replace_answer
from server.requests.sse import only_sets_role, parse, sse
from server.wire.report import Report, join_fallbacks

KEEP_ALIVE_SECONDS = 15.0
"""A stream that holds back its text sends a comment so often: many proxies close a connection that
is silent for 30 or 60 seconds."""
_FINISHES = re.compile(r'"finish_reason":\s?"')
"""In the text of an answer, JSON escapes these quotes."""
Handler = Callable[..., Awaitable[Any]]

HANDLERS = {
    "openai_serving_chat": "create_chat_completion",
    "openai_serving_chat_batch": "create_batch_chat_completion",
    "openai_serving_completion": "create_completion",
    "openai_serving_responses": "create_responses",
    "anthropic_serving_messages": "create_messages",
}
"""Attribute names of vLLM's handlers in the app state, and the method to wrap."""


class ReportedMessagesResponse(AnthropicMessagesResponse):
    """vLLM's Messages response with a report."""

    entropy: Report | None = None
    """Measurements and applied controls; present if the request has controls."""


def add_reports(handle: Handler) -> Handler:
    """Wrap a handler's method to add the reports of the current generation to its result."""

    @wraps(handle)
    async def handle_and_report(*args: Any, **kwargs: Any) -> Any:
        result = await handle(*args, **kwargs)
        generation = current_generation()
        if generation is None or isinstance(result, ErrorResponse):
            return result
        merge = Merge(generation)
        if isinstance(result, AsyncGenerator):
            events = merge.stream(result)
            if generation.plan.holds_stream:
                return with_sse_keep_alive(events, KEEP_ALIVE_SECONDS)
            return events
        return await merge.answer(result)

    return handle_and_report


class Merge:
    """Adds the reports of one generation."""

    def __init__(self, generation: Generation) -> None:
        self._generation = generation
        self._plan = generation.plan
        self._held = None if self._plan.abstain is None else HeldStream(self._plan.abstain)
        self._lost = False

    async def answer(self, body: Any) -> Any:
        """Add the reports to a non-streaming response.

        Args:
            body: The handler's result: with `choices`, or a single answer (Responses, Messages).
        """
        generation = self._generation
        self._add_usage(getattr(body, "usage", None))
        if self._plan.trace == "none":  # only the class, sent in a header, was recorded
            if self._plan.difficulty is not None and generation.choices:
                call, completion = generation.choices[0]
                assert call.difficulty is not None
                difficulty = await call.difficulty.report(completion)
                generation.label = difficulty.label
                observe.count_strategy(difficulty)
            return body
        reports = []
        generation.response_id = getattr(body, "id", None) or ""
        choices = getattr(body, "choices", None)
        last = len(generation.choices) - 1
        for number, choice in enumerate(generation.choices):
            # Without choices, tool calls cause several engine calls: the last one is the answer.
            index = number if choices is not None else 0 if number == last else None
            reports.append(await self.report(choice, index))
            await asyncio.sleep(0)  # 16,384 choices take a second: yield in between
        generation.reports = reports
        if choices is not None:
            for one in choices:
                one.entropy = reports[one.index] if one.index < len(reports) else None
                if self._plan.abstain is not None:
                    replace_answer(one, one.entropy, self._plan.abstain)
        elif reports:
            if isinstance(body, AnthropicMessagesResponse):
                fields = {name: getattr(body, name) for name in body.model_fields_set}
                return ReportedMessagesResponse(**fields, entropy=reports[-1])
            body.entropy = reports[-1]
        return body

    async def report(self, choice: AnswerChoice, index: int | None = 0) -> Report:
        """Build the final report of a choice.

        Args:
            choice: The choice.
            index: Its index in the response; None if it is not in it.
        """
        call, completion = choice
        await self._wait_for_trace(choice, 0)
        produced = call.produced[completion]
        difficulty, base = None, call.temperature
        if call.difficulty is not None:
            difficulty = await call.difficulty.report(completion)
            strategy = difficulty.strategy if difficulty.mode == "act" else None
            if strategy is not None and base:  # a greedy request stays greedy
                base = strategy.temperature or base
        tokens = call.trace.get(completion, 0, produced)
        if self._plan.monitored is not None:
            observe_inputs(self._plan.monitored, [one.entropy for one in tokens])
        thinking = call.phases[completion].thinking if call.phases else ()
        state = await self._prompt_state(choice)
        report = summarize(self._plan, tokens, produced, base, thinking, state)
        if (sampled := self._generation.sampled) is not None:
            report.vote, report.semantic = sampled.vote, sampled.semantic
            report.fallback = join_fallbacks(report.fallback, sampled.fallback)
            if report.vote is not None and report.vote.answer is None:
                report.fallback = join_fallbacks(report.fallback, "no_answer")
        if difficulty is not None:
            report.difficulty = difficulty
            if difficulty.source == "fallback":
                report.fallback = join_fallbacks(report.fallback, "probe_unavailable")
        self._generation.finish(index, report)
        return report

    async def _prompt_state(self, choice: AnswerChoice) -> PromptState | None:
        """What the confidence probe read at the end of the prompt; None if nothing or lost."""
        confidence, (call, completion) = self._plan.confidence, choice
        if confidence is None or confidence.state is None:
            return None
        if self._lost:
            return call.trace.states.get(completion)
        deadline = time.monotonic() + self._generation.timeout
        found = await call.trace.wait_state(completion, deadline)
        self._lost = found is None
        return found

    def _add_usage(self, usage: Any) -> bool:
        """Add the tokens of all other samples to `usage`; returns whether it changed."""
        outcome = self._generation.sampled
        if outcome is None or usage is None:
            return False
        for field in ("completion_tokens", "total_tokens"):
            if isinstance(usage, dict):
                usage[field] += outcome.extra_tokens
            else:
                setattr(usage, field, getattr(usage, field) + outcome.extra_tokens)
        return True

    async def _wait_for_trace(self, choice: AnswerChoice, start: int) -> None:
        """Wait for the trace to catch up with the answer; after one timeout, do not wait again."""
        if not self._lost:
            deadline = time.monotonic() + self._generation.timeout
            stop = choice.call.produced[choice.completion]
            self._lost = not await choice.call.trace.wait(choice.completion, start, stop, deadline)

    # -- streams -------------------------------------------------------------------------------

    async def stream(self, events: AsyncGenerator[Any, None]) -> AsyncGenerator[Any, None]:
        """Add reports to a handler's events; apply the plan while the handler runs.

        Args:
            events: Server-sent events as text, or the event objects of the Responses API.
        """
        async with aclosing(events):
            while True:
                with self._generation.activate():
                    try:
                        event = await anext(events)
                    except StopAsyncIteration:
                        return
                if self._plan.trace == "none" and self._plan.vote is None:
                    yield event
                elif (added := await self._add_to_event(event)) != "":
                    yield added

    def _stays(self, event: str) -> bool:
        """Whether an event surely gets nothing added, told without parsing it.

        Of a trace in summary, only the last chunk of a choice gets something, and there is one
        event for each token.
        """
        plan = self._plan
        if plan.trace != "summary" or plan.vote or plan.semantic or self._held is not None:
            return False
        if event.startswith("event: "):
            return event.startswith("event: content_block_")
        return bool(self._generation.response_id) and not _FINISHES.search(event)

    async def _add_to_event(self, event: Any) -> Any:
        if not isinstance(event, str):
            if getattr(event, "type", None) == "response.completed" and self._generation.choices:
                self._generation.response_id = event.response.id
                event.response.entropy = await self.report(self._generation.choices[-1])
            return event
        if self._stays(event):
            return event
        kind, data = parse(event)
        if not isinstance(data, dict):  # a keep-alive comment, or [DONE]
            return event
        if kind is not None:
            return await self._message_event(kind, event, data)
        self._generation.response_id = data.get("id") or ""
        changed = self._add_usage(data.get("usage"))
        if self._plan.trace == "none":
            return sse(data) if changed else event
        for part in data.get("choices") or ():
            if (addition := await self._choice_report(part)) is not None:
                part["entropy"] = addition
                changed = True
        if self._held is not None:
            return self._held.feed(data)
        return sse(data) if changed else event

    async def _choice_report(self, part: dict[str, Any]) -> dict[str, Any] | None:
        """The report of one choice of a chunk: its tokens, plus the summary in its last chunk."""
        position = part["index"]
        if only_sets_role(part) or position >= len(self._generation.choices):
            return None
        choice = self._generation.choices[position]
        tokens = await self._new_tokens(choice)
        if part.get("finish_reason") is None:
            return None if tokens is None else {"tokens": tokens}
        summary = await self.report(choice, position)
        return {**summary.model_dump(exclude={"tokens"}), "tokens": tokens}

    async def _message_event(self, kind: str, event: str, data: dict[str, Any]) -> str:
        """Add tokens to Messages API deltas, and the summary to `message_delta`."""
        if kind == "message_start":
            self._generation.response_id = data["message"]["id"]
        if not self._generation.choices:
            return event
        choice = self._generation.choices[0]
        if kind == "message_delta":
            summary = await self.report(choice)
            tokens = await self._new_tokens(choice)
            data["entropy"] = {**summary.model_dump(exclude={"tokens"}), "tokens": tokens}
        elif kind == "content_block_delta":
            if (tokens := await self._new_tokens(choice)) is None:
                return event
            data["entropy"] = {"tokens": tokens}
        else:
            return event
        return f"event: {kind}\n{sse(data)}"

    async def _new_tokens(self, choice: AnswerChoice) -> list[dict[str, Any]] | None:
        """Tokens since the last chunk; None if there are none or the trace is not `tokens`."""
        call, completion = choice
        start, stop = call.reported[completion], call.produced[completion]
        if self._plan.trace != "tokens" or start == stop:
            return None
        await self._wait_for_trace(choice, start)
        call.reported[completion] = stop
        return [one.model_dump() for one in token_reports(call.trace.get(completion, start, stop))]


class ClosingStream(StreamingResponse):
    """A stream that always closes its generation, even if it never starts."""

    def __init__(self, response: StreamingResponse, generation: Generation) -> None:
        super().__init__(
            response.body_iterator, response.status_code, background=response.background
        )
        self.raw_headers = response.raw_headers
        self._generation = generation

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the stream, then close the generation."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._generation.close()
