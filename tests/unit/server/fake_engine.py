"""A scripted engine, and the SSE output of vLLM's handlers."""

import json
import math
from collections.abc import AsyncGenerator, AsyncIterator
from types import SimpleNamespace
from typing import Any

from vllm.sampling_params import RequestOutputKind, SamplingParams

from probes.laws import EntropyTargetLaw, law_row
from server.planning.plan import Plan
from server.requests.telemetry import Telemetry
from server.wire.request import Trace
from server.worker.message import KEY
from tests.unit.server.support import frame

Json = dict[str, Any]
Step = list[tuple[int, int]]
"""One engine output: (completion, number of new tokens)."""
ONE_BY_ONE: list[Step] = [[(0, 1)], [(0, 1)], [(0, 1)]]


def plan(trace: Trace = "tokens") -> Plan:
    law = EntropyTargetLaw(entropy_target=1.0, temperature_min=0.5)
    return Plan("steady", law, *law_row(law), trace)


def params(n: int = 1, kind: RequestOutputKind = RequestOutputKind.DELTA) -> SamplingParams:
    return SamplingParams(n=n, output_kind=kind)


def entropy_of(trace: int, choice: int, index: int) -> float:
    """Entropy measured by the fake worker, distinct for every token of every completion."""
    return trace + choice / 4 + index / 64  # exact in float32


class FakeEngine:
    """Generates tokens from a script and sends their records, like engine and worker.

    Args:
        telemetry: Where records go.
        script: Steps of every call.
        lost: (choice, index) of records that never arrive.
        failed: (choice, index) of tokens whose control failed.
        ahead: Tokens whose records arrive before the output that has them, or behind the end: those
            of accepted drafts, and of the step that asynchronous scheduling has on its way.
    """

    name = "the fake"
    renderer: Any = None
    """Tokenizer that routes use to get the id of the end token."""

    def __init__(
        self,
        telemetry: Telemetry,
        script: list[Step],
        lost: set[tuple[int, int]] | None = None,
        failed: set[tuple[int, int]] | None = None,
        ahead: int = 0,
    ) -> None:
        self.telemetry, self.script = telemetry, script
        self.lost, self.failed, self.ahead = lost or set(), failed or set(), ahead
        self.params: list[Any] = []
        self.open_calls = 0

    async def generate(
        self, prompt: Any, params: Any, request_id: str
    ) -> AsyncGenerator[Any, None]:
        self.params.append(params)
        self.open_calls += 1
        try:
            control = (params.extra_args or {}).get(KEY)
            produced = [0] * params.n
            last = {choice: at for at, step in enumerate(self.script) for choice, _ in step}
            for at, step in enumerate(self.script):
                for choice, count in step:
                    indices = range(produced[choice], produced[choice] + count + self.ahead)
                    produced[choice] += count
                    if control is not None and control["trace"]:
                        self.measure(control["trace"], choice, indices)
                ends = {choice for choice, _ in step if last[choice] == at}
                yield self.output(params, step, produced, ends)
        finally:
            self.open_calls -= 1

    def measure(self, trace: int, choice: int, indices: range) -> None:
        for index in indices:
            if (choice, index) in self.lost:
                continue
            values = (entropy_of(trace, choice, index), 0.5)
            if (choice, index) in self.failed:
                values = (math.nan, math.nan)
            self.telemetry.handle_frame(frame((trace, choice, index, *values)))

    @staticmethod
    def output(params: Any, step: Step, produced: list[int], ends: set[int]) -> Any:
        delta = params.output_kind == RequestOutputKind.DELTA
        return SimpleNamespace(
            prompt_token_ids=[1, 2],
            num_cached_tokens=1,
            outputs=[
                SimpleNamespace(
                    index=choice,
                    token_ids=[7] * (count if delta else produced[choice]),
                    finish_reason="stop" if choice in ends else None,
                    stop_reason=None,
                )
                for choice, count in step
            ],
        )


def data(body: Json) -> str:
    return f"data: {json.dumps(body)}\n\n"


DONE = "data: [DONE]\n\n"


def envelope(choices: list[Json]) -> Json:
    kind = "chat.completion.chunk"
    return {"id": "x", "object": kind, "created": 1, "model": "m", "choices": choices}


def piece(index: int, delta: Json, finish: str | None = None) -> Json:
    return {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish}


def chat_stream(engine: Any, params: Any) -> AsyncIterator[str]:
    """vLLM's chat stream: role chunks with the first token, text, usage, `[DONE]`.

    As in vLLM, the engine is called at once and read while the stream is.
    """
    return _chat_events(engine.generate("prompt", params, "chatcmpl-1"), params.n)


async def _chat_events(outputs: Any, num_choices: int) -> AsyncIterator[str]:
    first = True
    async for output in outputs:
        if first:
            first = False
            for choice in range(num_choices):
                yield data(envelope([piece(choice, {"role": "assistant", "content": ""})]))
        for completion in output.outputs:
            part = piece(completion.index, {"content": "é"}, completion.finish_reason)
            yield data(envelope([part]))
    yield data({**envelope([]), "usage": {"total_tokens": 9}})
    yield DONE


def completion_stream(engine: Any, params: Any, num_prompts: int = 1) -> AsyncIterator[str]:
    """vLLM's completion stream over several prompts, with choices numbered across them."""
    calls = [engine.generate(f"p{i}", params.clone(), f"cmpl-{i}") for i in range(num_prompts)]
    return _completion_events(calls, params.n)


async def _completion_events(calls: list[Any], num_choices: int) -> AsyncIterator[str]:
    for at, call in enumerate(calls):
        async for output in call:
            for completion in output.outputs:
                index = at * num_choices + completion.index
                choice = {"index": index, "text": "x", "logprobs": None}
                choice["finish_reason"] = completion.finish_reason
                yield data({**envelope([choice]), "object": "text_completion"})
    yield DONE


async def responses_stream(engine: Any, params: Any, num_turns: int = 1) -> AsyncIterator[Any]:
    """vLLM's Responses stream: event objects; each tool call is another `generate`.

    As in vLLM, the engine is called only once the stream is read.
    """
    yield SimpleNamespace(type="response.created", response=SimpleNamespace(output=[]))
    for turn in range(num_turns):
        async for _ in engine.generate("prompt", params.clone(), f"resp-{turn}"):
            yield SimpleNamespace(type="response.output_text.delta", delta="x")
    yield SimpleNamespace(type="response.completed", response=SimpleNamespace(id="r"))


def messages_stream(engine: Any, params: Any) -> AsyncIterator[str]:
    """vLLM's Messages stream: named events, with the usage in the second to last."""
    return _message_events(engine.generate("prompt", params, "chatcmpl-1"))


async def _message_events(outputs: Any) -> AsyncIterator[str]:
    def event(kind: str, **fields: Any) -> str:
        return f"event: {kind}\n{data({'type': kind, **fields})}"

    yield event("message_start", message={"id": "m", "content": []})
    yield event("content_block_start", index=0, content_block={"type": "text", "text": ""})
    async for _ in outputs:
        yield event("content_block_delta", index=0, delta={"type": "text_delta", "text": "é"})
    yield event("content_block_stop", index=0)
    yield event("message_delta", delta={"stop_reason": "end_turn"}, usage={"output_tokens": 3})
    yield event("message_stop")
