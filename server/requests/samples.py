"""Samples several answers to one prompt; the base of `vote` and `semantic`."""

import asyncio
import math
import time
from collections.abc import Iterable, Sequence
from contextlib import aclosing
from typing import Any, NamedTuple

from vllm.sampling_params import RequestOutputKind

from probes.selective.scores import AnswerKind, StopRule
from probes.selective.votes import answer_key, is_decided
from server.requests.calls import Call, EngineArguments, EngineCalls
from server.wire.report import SemanticReport, VoteReport

MAX_ROWS = 20
"""Groups of answers in a report."""
MAX_ANSWER = 200
"""Characters of an answer in a report."""


class SampledOutcome(NamedTuple):
    """What several samples came to."""

    answer: Call
    """The call whose answer is sent."""
    output: Any
    """What vLLM's handler gets: the whole answer."""
    extra_tokens: int
    """Tokens of all other samples."""
    vote: VoteReport | None = None
    semantic: SemanticReport | None = None
    fallback: str | None = None


def seeded(params: Any, number: int) -> Any:
    """The sampling parameters of one of several samples, from those of the request."""
    params = params.clone()
    params.output_kind = RequestOutputKind.CUMULATIVE
    if params.seed is not None:
        params.seed = (params.seed + number) % (1 << 63)
    return params


class Samples:
    """The answers to one prompt while they are sampled."""

    def __init__(
        self,
        calls: EngineCalls,
        arguments: EngineArguments,
        params: Sequence[Any],
        kind: AnswerKind,
        stop: StopRule,
    ) -> None:
        """Start nothing yet.

        Args:
            calls: Makes the calls.
            arguments: Of the call that the samples replace.
            params: Sampling parameters of each sample.
            kind: How answers are read.
            stop: When the rest is aborted.
        """
        self._calls, self._arguments, self._params = calls, arguments, params
        self._kind, self._stop = kind, stop
        self.calls: dict[int, Call] = {}
        self.latest: dict[int, Any] = {}
        """Last output of each sample, its whole text so far."""
        self.keys: dict[int, str | None] = {}
        """Answers of the samples that ended."""
        self.reply_tokens = 0
        """Tokens of what the model says about the samples."""
        self.stopped: StopRule = "none"
        self._begun = asyncio.Event()

    @property
    def tokens(self) -> int:
        """Of all samples so far, and of what the model says about them."""
        return sum(call.produced[0] for call in self.calls.values()) + self.reply_tokens

    @property
    def cached_tokens(self) -> int:
        """Prompt tokens of all samples that the prefix cache had."""
        return sum(output.num_cached_tokens or 0 for output in self.latest.values())

    async def draw(self) -> None:
        """Sample until all have ended or the vote is decided; abort the rest.

        The first sample begins alone: the others find its prompt in the prefix cache.
        """
        numbers = range(len(self._params))
        tasks = {asyncio.create_task(self._sample(number)) for number in numbers}
        pending = set(tasks)
        try:
            while pending:
                done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
                keys = [self.keys[number] for number in sorted(self.keys)]
                if pending and is_decided(keys, len(pending), self._stop):
                    self.stopped = self._stop
                    return
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _sample(self, number: int) -> None:
        if number:
            await self._begun.wait()
        arguments, params = self._arguments, self._params[number]
        call = self.calls[number] = self._calls.open(params)
        request_id = f"{arguments.request_id}-{number}"
        with self._calls.span.open("sample", number=number) as span:
            further = span.engine_arguments(arguments.further)
            outputs = self._calls.run(
                call,
                arguments._replace(params=params, request_id=request_id, further=further),
            )
            async with aclosing(outputs):
                async for output in outputs:
                    self.latest[number] = output
                    self._begun.set()
            span.set(gen_ai__usage__output_tokens=call.produced[0])
        text = self.latest[number].outputs[0].text
        self.keys[number] = await asyncio.to_thread(answer_key, text, self._kind)

    async def mean_logprobs(self, numbers: Iterable[int]) -> list[float]:
        """Mean log-probability of the tokens of samples at T = 1; NaN if a token was not measured.

        Args:
            numbers: Of the samples.
        """
        deadline = time.monotonic() + self._calls.timeout
        return [await _mean_logprob(self.calls[number], deadline) for number in numbers]

    def choose(
        self,
        number: int,
        vote: VoteReport | None = None,
        semantic: SemanticReport | None = None,
        fallback: str | None = None,
    ) -> SampledOutcome:
        """Make a sample the answer."""
        call, output = self.calls[number], self.latest[number]
        extra = self.tokens - call.produced[0]
        output.request_id = self._arguments.request_id
        return SampledOutcome(call, output, extra, vote, semantic, fallback)


async def _mean_logprob(call: Call, deadline: float) -> float:
    await call.trace.wait(0, 0, call.produced[0], deadline)
    found = [token.logprob for token in call.trace.get(0, 0, call.produced[0])]
    complete = len(found) == call.produced[0] and found and all(map(math.isfinite, found))
    return math.fsum(found) / len(found) if complete else math.nan
