"""Samples several answers to one prompt and yields the one that wins the vote."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, NamedTuple

from vllm.sampling_params import RequestOutputKind

from probes.selective.scores import StopRule
from probes.selective.votes import answer_key, count_votes, is_decided
from server.wire.report import VoteGroupReport, VoteReport
from server.wire.request import VoteControl

if TYPE_CHECKING:  # it imports this module
    from server.requests.generation import Call, Generation

_ROWS = 20
"""Groups in the table of a report."""
_MAX_ANSWER = 200
"""Characters of an answer in a report."""


class VoteOutcome(NamedTuple):
    """The result of a vote."""

    report: VoteReport
    winner: "Call"
    extra_tokens: int
    """Tokens of all other samples."""


class _Samples:
    """The answers to one prompt while they are sampled."""

    def __init__(self, control: VoteControl) -> None:
        self.control = control
        self.calls: dict[int, Call] = {}
        self.latest: dict[int, Any] = {}
        """Last output of each sample, its whole text so far."""
        self.keys: dict[int, str | None] = {}
        """Answers of the samples that ended."""
        self.stopped: StopRule = "none"
        self._begun = asyncio.Event()

    async def draw(self, generation: "Generation", arguments: "_Arguments") -> None:
        """Sample until all have ended or the vote is decided; abort the rest.

        The first sample begins alone: the others find its prompt in the prefix cache.
        """
        numbers = range(self.control.n)
        tasks = {asyncio.create_task(self._sample(generation, arguments, k)) for k in numbers}
        pending = set(tasks)
        try:
            while pending:
                done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
                keys = [self.keys[number] for number in sorted(self.keys)]
                if pending and is_decided(keys, len(pending), self.control.stop):
                    self.stopped = self.control.stop
                    return
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _sample(self, generation: "Generation", arguments: "_Arguments", number: int) -> None:
        if number:
            await self._begun.wait()
        params = arguments.params.clone()
        params.output_kind = RequestOutputKind.CUMULATIVE
        if params.seed is not None:
            params.seed = (params.seed + number) % (1 << 63)
        call = self.calls[number] = generation.open_call(params)
        request_id = f"{arguments.request_id}-{number}"
        outputs = generation.run_call(
            call, arguments.engine, arguments.prompt, params, request_id, **arguments.further
        )
        try:
            async with aclosing(outputs):
                async for output in outputs:
                    self.latest[number] = output
                    self._begun.set()
        finally:
            self._begun.set()
        text = self.latest[number].outputs[0].text
        self.keys[number] = await asyncio.to_thread(answer_key, text, self.control.answer)

    def outcome(self) -> tuple[VoteOutcome, Any]:
        """The result, and the last output of the winner."""
        ended = sorted(self.keys)
        groups = count_votes([self.keys[number] for number in ended])
        winner = ended[groups[0].members[0] if groups else 0]
        table = [
            VoteGroupReport(answer=group.key[:_MAX_ANSWER], votes=len(group.members))
            for group in groups[:_ROWS]
        ]
        tokens = sum(call.produced[0] for call in self.calls.values())
        report = VoteReport(
            answer=table[0].answer if table else None,
            n=self.control.n,
            finished=len(ended),
            agreement=len(groups[0].members) / len(ended) if groups else None,
            stopped=self.stopped,
            tokens=tokens,
            table=table,
            no_answer=sum(self.keys[number] is None for number in ended),
        )
        call = self.calls[winner]
        return VoteOutcome(report, call, tokens - call.produced[0]), self.latest[winner]


class _Arguments(NamedTuple):
    """Arguments of the engine call that is replaced."""

    engine: Any
    prompt: Any
    params: Any
    request_id: str
    further: dict[str, Any]


async def vote(
    generation: "Generation",
    control: VoteControl,
    engine: Any,
    prompt: Any,
    params: Any,
    request_id: str,
    **further: Any,
) -> AsyncGenerator[Any, None]:
    """Replace an engine call by a vote; yields one output, with the whole winning answer.

    Args:
        generation: Of the request; gets the outcome.
        control: The vote.
        engine: The engine client.
        prompt: As for `EngineClient.generate`.
        params: Of one answer.
        request_id: As for `EngineClient.generate`.
        **further: Likewise.
    """
    samples = _Samples(control)
    await samples.draw(generation, _Arguments(engine, prompt, params, request_id, further))
    outcome, output = samples.outcome()
    generation.settle_vote(outcome)
    output.request_id = request_id
    yield output
