"""Applies a plan to the engine calls of vLLM's handlers and counts the tokens they return.

vLLM's handlers do HTTP, rendering and parsing. `ControlledEngine` is the engine client that they
call; `server.requests.merge` processes their results.
"""

import asyncio
import secrets
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

from vllm.sampling_params import RequestOutputKind

from probes.difficulty.strategies import DifficultyWord
from probes.laws import ShuffledLaw, TemperatureLaw
from probes.truncations import Mirostat, Truncation
from server.audit.recorder import Recorder
from server.metrics import observe
from server.planning.plan import Plan
from server.planning.steering import mark_unsteered
from server.requests.admission import Admission, Reservation
from server.requests.difficulty import DecisionSource, DifficultyRun, Extend
from server.requests.phases import PhaseRecord, phase_message
from server.requests.samples import EngineArguments, SampledOutcome
from server.requests.semantic import semantic
from server.requests.telemetry import Telemetry, TraceBuffer
from server.requests.vote import vote
from server.settings import settings
from server.tracing import NO_SPAN
from server.wire.report import Report
from server.worker.message import (
    KEY,
    DifficultyMessage,
    ShuffledMessage,
    TruncationMessage,
    engine_control,
    shuffled_control,
    truncation_control,
)

_current: ContextVar["Generation | None"] = ContextVar("entrostat_generation", default=None)


OnReport = Callable[[str, int, Report], None]
"""Receives the id of a response, the index of a choice and its final report."""


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


class AnswerChoice(NamedTuple):
    """One choice of the response: a completion of a call."""

    call: Call
    completion: int


class Generation:
    """One controlled HTTP request."""

    def __init__(
        self,
        plan: Plan,
        telemetry: Telemetry,
        timeout: float,
        extend: Extend | None = None,
        admission: Admission | None = None,
        on_report: OnReport | None = None,
    ) -> None:
        """Create a generation.

        Args:
            plan: The plan to apply.
            telemetry: Receiver of the traces.
            timeout: Seconds to wait for missing trace records.
            extend: Renders the prompt with a text after the question; None if not possible.
            admission: Queue of steered requests; None if their number is not limited.
            on_report: Called with each final report before the client receives it.

        Raises:
            QueueFull: Too many steered requests are waiting.
        """
        self.plan = plan
        self.timeout = timeout
        self.choices: list[AnswerChoice] = []
        """Choices by their index in the response."""
        self.reports: list[Report] = []
        """Reports of a non-streaming response; set when they are merged."""
        self.sampled: SampledOutcome | None = None
        """Set once all samples of a vote or of `semantic` have ended."""
        self.label: DifficultyWord | None = None
        """Class of the question, if only the class was recorded."""
        self.response_id = ""
        """Id of the response, once it is known."""
        self.closed = False
        self.recorder: Recorder | None = None
        """Writes the line of the decision log; None without one."""
        self.span = NO_SPAN
        """The span of the request."""
        self._on_report = on_report
        self._admission = admission
        self.extend = extend
        self._telemetry = telemetry
        self._calls: list[Call] = []
        self._reservation: Reservation | None = None
        self._counted = False
        """Whether the request is in the count of steered requests."""
        if plan.steering is not None:
            if admission is not None:
                self._reservation = admission.reserve(plan.steering.control["key"])
            self._counted = True
            observe.count_steered(1)

    @contextmanager
    def activate(self) -> Iterator[None]:
        """Apply the plan to engine calls in this block and in tasks created in it."""
        token = _current.set(self)
        try:
            yield
        finally:
            _current.reset(token)

    def close(self) -> None:
        """Close the traces and refuse further engine calls."""
        self.closed = True
        self.release()
        self._end_span()
        if self.recorder is not None:
            self.recorder.end_completion(self._calls, self.choices)
            self.recorder = None
        for call in self._calls:
            self._telemetry.close(call.trace)

    def _end_span(self) -> None:
        if self.span.is_recording:
            tokens = sum(sum(call.produced) for call in self._calls)
            self.span.set(
                gen_ai__response__id=self.response_id or None, gen_ai__usage__output_tokens=tokens
            )
        if self.span.held:
            self.span.end()

    def release(self) -> None:
        """Stop counting as waiting for a steering slot."""
        if self._reservation is not None:
            self._reservation.release()
        if self._counted:
            self._counted = False
            observe.count_steered(-1)

    def finish(self, index: int | None, report: Report) -> None:
        """Record the final report of a choice; its index is None if the response is without it."""
        observe.observe_completion(report)
        self.span.set(fallback=report.fallback)
        if self._on_report is not None and index is not None:
            self._on_report(self.response_id, index, report)
        if self.recorder is not None and index is not None:
            self.recorder.add(self.response_id, index, report)

    def headers(self) -> dict[str, str]:
        """Response headers, for clients that drop unknown fields."""
        found = {} if self.plan.profile is None else {"x-entropy-profile": self.plan.profile}
        labels = [one.difficulty.label for one in self.reports if one.difficulty is not None]
        if label := self.label or (labels[0] if labels else None):
            found["x-entropy-difficulty"] = label
        found |= _selective_headers(self.reports)
        reported = [one.fallback for one in self.reports if one.fallback is not None]
        reasons = {reason for one in reported for reason in one.split(",")}
        if reasons := reasons | {*self.plan.skipped}:
            found["x-entropy-fallback"] = ",".join(sorted(reasons))
        return found

    def generate(
        self, engine: Any, prompt: Any, params: Any, request_id: str, **kwargs: Any
    ) -> Any:
        """Run one engine request with the control of the plan and count its tokens.

        Raises:
            RuntimeError: The generation is closed; the call belongs to another request.
        """
        if self.closed:
            raise RuntimeError("the controlled answer has ended: its plan applies to no other call")
        kwargs = self.span.engine_arguments(kwargs)
        arguments = EngineArguments(engine, prompt, params, request_id, kwargs)
        if self.plan.vote is not None:
            return vote(self, self.plan.vote, arguments)
        if self.plan.semantic is not None:
            return semantic(self, self.plan.semantic, arguments)
        call = self.open_call(params)
        return self.run_call(call, engine, prompt, params, request_id, **kwargs)

    def run_call(
        self, call: Call, engine: Any, prompt: Any, params: Any, request_id: str, **kwargs: Any
    ) -> Any:
        """Run a call that `open_call` opened."""
        if call.difficulty is not None:
            return self._generate_with_difficulty(
                call, engine, prompt, params, request_id, **kwargs
            )
        params = self._add_control(call, prompt, params)
        outputs = engine.generate(self._add_cache_salt(prompt), params, request_id, **kwargs)
        return self._count(call, outputs, params.output_kind == RequestOutputKind.DELTA)

    def choose_sample(self, outcome: SampledOutcome) -> None:
        """Make one of several samples the only choice."""
        self.sampled = outcome
        self.choices = [AnswerChoice(outcome.answer, 0)]

    def open_call(self, params: Any) -> Call:
        """Open the trace of an engine call."""
        plan, difficulty = self.plan, self.plan.difficulty
        named = (difficulty, plan.truncation, plan.phases)  # these need a number for the call
        watched = plan.trace != "none" or any(one is not None for one in named)
        trace = self._telemetry.open() if watched else TraceBuffer(0)
        run = None
        if difficulty is not None:
            decisions = DecisionSource(trace, self._telemetry.address, self.timeout)
            run = DifficultyRun(difficulty, params.max_tokens, decisions, self.extend, self.span)
        call = Call(trace, params.n, run)
        self._calls.append(call)
        self.choices += [AnswerChoice(call, completion) for completion in range(params.n)]
        return call

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
                confidence=self.plan.confidence is not None,
                state=None if self.plan.confidence is None else self.plan.confidence.state,
                truncation=_truncation_control(self.plan.truncation, call.trace.id),
                phases=phases and phase_message(phases, call.phases[0], call.trace.id),
            ),
        }
        if isinstance(self.plan.truncation, Mirostat):  # it replaces those of the model's defaults
            params.top_k, params.top_p, params.min_p = 0, 1.0, 0.0
        return params

    def _add_cache_salt(self, prompt: Any) -> Any:
        steering = self.plan.steering
        if steering is None:
            return mark_unsteered(prompt)
        return steering.add_cache_salt(prompt, settings().cache_secret.get_secret_value())

    async def _generate_with_difficulty(
        self, call: Call, engine: Any, prompt: Any, params: Any, request_id: str, **kwargs: Any
    ) -> AsyncGenerator[Any, None]:
        """Generate with a difficulty plan: classify before the answer or during it."""
        run = call.difficulty
        assert run is not None
        delta = params.output_kind == RequestOutputKind.DELTA
        prompt, part = await run.prepare(engine, prompt, params, request_id, **kwargs)
        params = self._add_control(call, prompt, params, part)
        outputs = engine.generate(self._add_cache_salt(prompt), params, request_id, **kwargs)
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


def _selective_headers(reports: Sequence[Report]) -> dict[str, str]:
    """Whether an answer was withheld, and the probability that the first one is right."""
    found = {}
    if any(one.abstain is not None and one.abstain.abstained for one in reports):
        found["x-entropy-abstained"] = "true"
    first = reports[0].confidence if reports else None
    if first is not None and first.probability is not None:
        found["x-entropy-confidence"] = f"{first.probability:.4f}"
    return found


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


class ControlledEngine:
    """An engine client for vLLM's handlers that applies the current generation's plan."""

    def __init__(self, engine: Any) -> None:
        self._engine = engine

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def generate(self, prompt: Any, sampling_params: Any, *args: Any, **kwargs: Any) -> Any:
        """`EngineClient.generate` with the plan of the current HTTP request, if any."""
        generation = _current.get()
        if generation is None:
            return self._engine.generate(mark_unsteered(prompt), sampling_params, *args, **kwargs)
        return generation.generate(self._engine, prompt, sampling_params, *args, **kwargs)


def current_generation() -> Generation | None:
    """The generation of the current HTTP request; None if it has no controls."""
    return _current.get()
