"""Samples several answers to one prompt; the base of `vote` and `semantic`."""

import asyncio
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import aclosing
from typing import Any, Literal, NamedTuple

from vllm.sampling_params import RequestOutputKind

from probes.confidence import lowest_window
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


class WeakRule(NamedTuple):
    """Which samples have no vote."""

    window: int
    """Tokens."""
    threshold: float
    """Lowest window of self-certainty that a vote needs, nats."""
    stop: int | None
    """Token with which the worker ends the others; None lets them end by themselves."""


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
        self.weak: set[int] = set()
        """Samples that ended and have no vote."""
        self._rule: WeakRule | None = None
        self._begun = asyncio.Event()

    @property
    def tokens(self) -> int:
        """Of all samples so far, and of what the model says about them."""
        return sum(call.produced[0] for call in self.calls.values()) + self.reply_tokens

    @property
    def cached_tokens(self) -> int:
        """Prompt tokens of all samples that the prefix cache had."""
        return sum(output.num_cached_tokens or 0 for output in self.latest.values())

    async def draw(self, numbers: Iterable[int] | None = None) -> None:
        """Sample until all have ended or the vote is decided; abort the rest.

        The first sample begins alone: the others find its prompt in the prefix cache.

        Args:
            numbers: Of the samples; None is all.
        """
        own = range(len(self._params)) if numbers is None else numbers
        tasks = {asyncio.create_task(self._sample(number)) for number in own}
        pending = set(tasks)
        try:
            while pending:
                done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
                keys = [self.keys[number] for number in sorted(self.keys)]
                left = len(self._params) - len(keys)
                if left and is_decided(keys, left, self._stop):
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
        if (rule := self._rule) is not None and rule.stop is not None:
            call.weak = {"window": rule.window, "threshold": rule.threshold, "stop": rule.stop}
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
        key = await asyncio.to_thread(answer_key, text, self._kind)
        if rule is not None:
            (lowest,) = await self.lowest_windows([number], rule.window)
            self._judge(rule, {number: lowest})
        self.keys[number] = None if number in self.weak else key

    def require(self, rule: WeakRule, lowest: Mapping[int, float | None]) -> None:
        """Take the vote from weak samples, and end those that begin from now on.

        Args:
            rule: Which ones are weak.
            lowest: Lowest window of all samples that ended, from `lowest_windows`.
        """
        self._rule = rule
        self._judge(rule, lowest)
        for number in self.weak:
            self.keys[number] = None

    def _judge(self, rule: WeakRule, lowest: Mapping[int, float | None]) -> None:
        for number, value in lowest.items():
            if value is not None and value < rule.threshold:
                self.weak.add(number)

    async def lowest_windows(self, numbers: Iterable[int], window: int) -> list[float | None]:
        """Lowest window of self-certainty of samples, nats; None if a token was not measured.

        Args:
            numbers: Of the samples.
            window: Tokens.
        """
        found = await self.measured(numbers, "self_certainty")
        return await asyncio.to_thread(lambda: [lowest_window(one or (), window) for one in found])

    async def measured(
        self, numbers: Iterable[int], field: Literal["logprob", "self_certainty"]
    ) -> list[list[float] | None]:
        """What was measured at the tokens of samples, nats; None if a token was not measured.

        Args:
            numbers: Of the samples.
            field: Which value.
        """
        deadline = time.monotonic() + self._calls.timeout
        return [await _measured(self.calls[number], field, deadline) for number in numbers]

    async def mean_logprobs(self, numbers: Iterable[int]) -> list[float]:
        """Mean log-probability of the tokens of samples at T = 1; NaN if a token was not measured.

        Args:
            numbers: Of the samples.
        """
        found = await self.measured(numbers, "logprob")
        return [math.fsum(one) / len(one) if one else math.nan for one in found]

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


async def _measured(call: Call, field: str, deadline: float) -> list[float] | None:
    await call.trace.wait(0, 0, call.produced[0], deadline)
    return await asyncio.to_thread(_values, call, field)


def _values(call: Call, field: str) -> list[float] | None:
    found = [getattr(token, field) for token in call.trace.get(0, 0, call.produced[0])]
    complete = len(found) == call.produced[0] and found and all(map(math.isfinite, found))
    return found if complete else None
