"""Applies a plan to the engine calls of vLLM's handlers and counts the tokens they return.

vLLM's handlers do HTTP, rendering and parsing. `ControlledEngine` is the engine client that they
call; `server.requests.merge` processes their results.
"""

from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any, NamedTuple

from probes.difficulty.strategies import DifficultyWord
from server.metrics import observe
from server.planning.plan import Plan
from server.planning.steering import mark_unsteered
from server.requests.admission import Admission
from server.requests.calls import Call, EngineArguments, EngineCalls
from server.requests.difficulty import Extend
from server.requests.samples import SampledOutcome
from server.requests.semantic import semantic
from server.requests.telemetry import Telemetry
from server.requests.vote import vote
from server.wire.report import Report

_current: ContextVar["Generation | None"] = ContextVar("entrostat_generation", default=None)


OnReport = Callable[[str, int, Report], None]
"""Receives the id of a response, the index of a choice and its final report."""


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
        self.calls = EngineCalls(plan, telemetry, timeout, extend, admission)
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
        self._on_report = on_report

    @property
    def plan(self) -> Plan:
        """The plan that is applied."""
        return self.calls.plan

    @property
    def timeout(self) -> float:
        """Seconds to wait for missing trace records."""
        return self.calls.timeout

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
        self.calls.release()
        self._end_span()
        if self.calls.recorder is not None:
            self.calls.recorder.end_completion(self.calls.opened, self.choices)
            self.calls.recorder = None
        self.calls.close()

    def _end_span(self) -> None:
        span = self.calls.span
        if span.is_recording:
            tokens = sum(sum(call.produced) for call in self.calls.opened)
            span.set(
                gen_ai__response__id=self.response_id or None, gen_ai__usage__output_tokens=tokens
            )
        if span.held:
            span.end()

    def finish(self, index: int | None, report: Report) -> None:
        """Record the final report of a choice; its index is None if the response is without it."""
        observe.observe_completion(report)
        self.calls.span.set(fallback=report.fallback)
        if self._on_report is not None and index is not None:
            self._on_report(self.response_id, index, report)
        if self.calls.recorder is not None and index is not None:
            self.calls.recorder.add(self.response_id, index, report)

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
        further = self.calls.span.engine_arguments(kwargs)
        arguments = EngineArguments(engine, prompt, params, request_id, further)
        if self.plan.vote is not None:
            return self._sample(partial(vote, self.calls, self.plan.vote, arguments))
        if self.plan.semantic is not None:
            return self._sample(partial(semantic, self.calls, self.plan.semantic, arguments))
        call = self.calls.open(params)
        self.choices += [AnswerChoice(call, completion) for completion in range(params.n)]
        return self.calls.run(call, arguments)

    async def _sample(
        self, draw: Callable[[], Awaitable[SampledOutcome]]
    ) -> AsyncGenerator[Any, None]:
        """Make one of several samples the only choice; yields its whole answer."""
        self.sampled = await draw()
        self.choices = [AnswerChoice(self.sampled.answer, 0)]
        yield self.sampled.output


def _selective_headers(reports: Sequence[Report]) -> dict[str, str]:
    """Whether an answer was withheld, and the probability that the first one is right."""
    found = {}
    if any(one.abstain is not None and one.abstain.abstained for one in reports):
        found["x-entropy-abstained"] = "true"
    first = reports[0].confidence if reports else None
    if first is not None and first.probability is not None:
        found["x-entropy-confidence"] = f"{first.probability:.4f}"
    return found


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
