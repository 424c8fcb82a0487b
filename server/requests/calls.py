"""The engine calls of one controlled request: opened, controlled by its plan, run and counted."""

import asyncio
import secrets
from collections.abc import AsyncGenerator, Sequence
from contextlib import AbstractAsyncContextManager, aclosing
from typing import Any, NamedTuple

from vllm.sampling_params import RequestOutputKind

from probes.laws import ShuffledLaw, TemperatureLaw
from probes.truncations import Mirostat, Truncation
from server.audit.recorder import Recorder
from server.metrics import observe
from server.planning.plan import Plan
from server.planning.steering import mark_unsteered
from server.requests.admission import Admission, Reservation
from server.requests.difficulty import DecisionSource, DifficultyRun, Extend
from server.requests.phases import PhaseRecord, phase_message
from server.requests.telemetry import Telemetry, TraceBuffer
from server.served_model import cache_block_size
from server.settings import settings
from server.tracing import NO_SPAN
from server.worker.message import (
    KEY,
    DifficultyMessage,
    ShuffledMessage,
    TruncationMessage,
    WeakMessage,
    engine_control,
    shuffled_control,
    truncation_control,
)


class EngineArguments(NamedTuple):
    """Arguments of `EngineClient.generate`, and the engine itself."""

    engine: Any
    prompt: Any
    params: Any
    request_id: str
    further: dict[str, Any]


class Call:
    """One `generate` call: one prompt, n completions."""

    def __init__(
        self, trace: TraceBuffer, choices: int, difficulty: DifficultyRun | None = None
    ) -> None:
        self.trace = trace
        self.produced = [0] * choices
        """Number of tokens that the engine returned, per completion."""
        self.reported = [0] * choices
        """Number of tokens already reported in a chunk, per completion."""
        self.difficulty = difficulty
        self.temperature: float | None = None
        """Temperature of the sampling parameters, before a law or a strategy applies."""
        self.phases: list[PhaseRecord] = []
        """Which tokens are thinking, per completion; empty without laws by phase."""
        self.weak: WeakMessage | None = None
        """Set before the call runs, if it ends when its tokens grow too unsure."""


class EngineCalls:
    """Makes the engine calls of one HTTP request."""

    def __init__(
        self,
        plan: Plan,
        telemetry: Telemetry,
        timeout: float,
        extend: Extend | None,
        admission: Admission | None,
    ) -> None:
        """Queue for a steering slot, if the plan steers; arguments as of `Generation`.

        Raises:
            QueueFull: Too many steered requests are waiting.
        """
        self.plan = plan
        self.timeout = timeout
        self.extend = extend
        self.opened: list[Call] = []
        self.recorder: Recorder | None = None
        """Writes the line of the decision log; None without one."""
        self.span = NO_SPAN
        """The span of the request."""
        self._telemetry = telemetry
        self._reservation: Reservation | None = None
        self._counted = False
        """Whether the request is in the count of steered requests."""
        if plan.steering is not None:
            if admission is not None:
                self._reservation = admission.reserve(plan.steering.control["key"])
            self._counted = True
            observe.count_steered(1)

    def open(self, params: Any) -> Call:
        """Open the trace of a call."""
        plan, difficulty = self.plan, self.plan.difficulty
        named = (difficulty, plan.truncation, plan.phases)  # these need a number for the call
        watched = plan.trace != "none" or any(one is not None for one in named)
        trace = self._telemetry.open() if watched else TraceBuffer(0)
        run = None
        if difficulty is not None:
            decisions = DecisionSource(trace, self._telemetry.address, self.timeout)
            run = DifficultyRun(difficulty, params.max_tokens, decisions, self.extend, self.span)
        call = Call(trace, params.n, run)
        self.opened.append(call)
        return call

    def run(self, call: Call, arguments: EngineArguments) -> AsyncGenerator[Any, None]:
        """Run an open call with the control of the plan and count its tokens."""
        if call.difficulty is not None:
            return self._run_with_difficulty(call, call.difficulty, arguments)
        engine, prompt, params, request_id, further = arguments
        params = self._add_control(call, prompt, params)
        prompt = self._add_cache_salt(engine, prompt, params)
        outputs = engine.generate(prompt, params, request_id, **further)
        return self._count(call, outputs, params.output_kind == RequestOutputKind.DELTA)

    def release(self) -> None:
        """Stop counting as waiting for a steering slot."""
        if self._reservation is not None:
            self._reservation.release()
        if self._counted:
            self._counted = False
            observe.count_steered(-1)

    def close(self) -> None:
        """Close the traces."""
        for call in self.opened:
            self._telemetry.close(call.trace)

    def _add_control(
        self, call: Call, prompt: Any, params: Any, difficulty: DifficultyMessage | None = None
    ) -> Any:
        """Add the control of the plan to the sampling parameters."""
        call.temperature = params.temperature
        if (phases := self.plan.phases) is not None:
            first = PhaseRecord.of_prompt(phases.marks, prompt.get("prompt_token_ids") or ())
            call.phases = [first.copy() for _ in range(params.n)]
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
                shuffled=_shuffle_control(self.plan.laws, params.seed),
                confidence=self.plan.measures_certainty,
                state=None if self.plan.confidence is None else self.plan.confidence.state,
                truncation=_truncation_control(self.plan.truncation, call.trace.id),
                phases=phases and phase_message(phases, call.phases[0], call.trace.id),
                weak=call.weak,
            ),
        }
        if isinstance(self.plan.truncation, Mirostat):  # it replaces those of the model's defaults
            params.top_k, params.top_p, params.min_p = 0, 1.0, 0.0
        return params

    def _add_cache_salt(self, engine: Any, prompt: Any, params: Any) -> Any:
        steering = self.plan.steering
        if steering is None:
            return mark_unsteered(prompt)
        secret = settings().cache_secret.get_secret_value()
        block_size = 0 if steering.everywhere else cache_block_size(engine.vllm_config)
        return steering.add_cache_salt(prompt, secret, params.max_tokens, block_size)

    async def _run_with_difficulty(
        self, call: Call, run: DifficultyRun, arguments: EngineArguments
    ) -> AsyncGenerator[Any, None]:
        """Generate with a difficulty plan: classify before the answer or during it."""
        engine, prompt, params, request_id, further = arguments
        delta = params.output_kind == RequestOutputKind.DELTA
        prompt, part = await run.prepare(engine, prompt, params, request_id, **further)
        params = self._add_control(call, prompt, params, part)
        prompt = self._add_cache_salt(engine, prompt, params)
        outputs = engine.generate(prompt, params, request_id, **further)
        async with aclosing(self._count(call, outputs, delta)) as counted:
            async for output in counted:
                for completion in output.outputs:
                    await run.set_finish_reason(completion, call.produced[completion.index])
                yield output

    async def _count(
        self, call: Call, outputs: AsyncGenerator[Any, None], delta: bool
    ) -> AsyncGenerator[Any, None]:
        place = self._steering_slot()
        admitted = outputs if place is None else _hold_steering_slot(place, outputs)
        async with aclosing(admitted):
            async for output in admitted:
                if self.recorder is not None:
                    self.recorder.see(call, output, delta)
                for completion in output.outputs:
                    count = len(completion.token_ids)
                    before = call.produced[completion.index] if delta else 0
                    call.produced[completion.index] = before + count
                    if call.phases:
                        call.phases[completion.index].follow(before, completion.token_ids)
                yield output

    def _steering_slot(self) -> AbstractAsyncContextManager[None] | None:
        if self._reservation is None:
            return None
        return self._reservation.admit()


def _shuffle_control(
    laws: Sequence[TemperatureLaw | None], seed: int | None
) -> ShuffledMessage | None:
    """The histogram of the law `shuffled`; a request without a seed gets a random one."""
    law = next((one for one in laws if isinstance(one, ShuffledLaw)), None)
    if law is None:
        return None
    return shuffled_control(
        temperatures=law.temperatures,
        cumulative=law.cumulative(),
        seed=secrets.randbits(63) if seed is None else seed,
    )


def _truncation_control(truncation: Truncation | None, call: int) -> TruncationMessage | None:
    if truncation is None:
        return None
    return truncation_control(kind=truncation.tag, parameters=truncation.row(), call=call)


async def _hold_steering_slot(
    place: AbstractAsyncContextManager[None], outputs: AsyncGenerator[Any, None]
) -> AsyncGenerator[Any, None]:
    """Read the engine's outputs while holding a steering slot.

    The slot is held until the engine has finished, not until the client has read the answer: a
    separate task reads the outputs, so that a client that stops reading blocks no other. vLLM's
    generator sends the request when it is first awaited, so nothing is sent before the slot is
    free, and closing the generator aborts the request.
    """
    queue = asyncio.Queue[Any]()

    async def read() -> None:
        try:
            async with place, aclosing(outputs):
                async for output in outputs:
                    queue.put_nowait(output)
        except Exception as error:
            queue.put_nowait(error)
        else:
            queue.put_nowait(None)

    reader = asyncio.create_task(read(), name="entrostat-steered-answer")
    try:
        while (output := await queue.get()) is not None:
            if isinstance(output, Exception):
                raise output
            yield output
    finally:
        reader.cancel()
        await asyncio.gather(reader, return_exceptions=True)
