"""Classifies the difficulty of a question and applies the strategy of its class."""

import math
import time
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from typing import Any, Literal, NamedTuple

from vllm.sampling_params import SamplingParams

from probes.difficulty.strategies import Difficulty, DifficultyWord, Rule, Strategy
from probes.laws import NO_LAW, NO_ROW
from server.metrics import observe
from server.metrics.drift import observe_inputs
from server.planning.difficulty import DifficultyPlan
from server.requests.telemetry import Decision, TraceBuffer
from server.tracing import NO_SPAN, Span
from server.wire.report import DifficultyReport, StrategyReport
from server.worker.message import KEY, DifficultyMessage, difficulty_control, engine_control

Source = Literal["probe", "effort", "fallback"]
Extend = Callable[[str], Awaitable[Any | None]]
"""Renders the prompt with a text after the question; None if the result is too long."""


class DecisionSource(NamedTuple):
    """Where the decisions of one engine call arrive, and how long to wait for each."""

    trace: TraceBuffer
    address: str
    timeout: float
    """Seconds."""

    async def wait(self, choice: int) -> Decision | None:
        """Wait for the decision of a completion; None after the timeout."""
        return await self.trace.wait_decision(choice, time.monotonic() + self.timeout)


_Figures = tuple[float, float, float]
"""One number for each class, indexed by `Difficulty`."""


class Verdict(NamedTuple):
    """The strategy of a question and what chose it."""

    difficulty: Difficulty | None
    """None if the decision of the engine did not arrive in time."""
    probabilities: _Figures | None
    source: Source
    accuracy: _Figures | None = None
    """Expected by strategy; None without a router."""
    tokens: _Figures | None = None
    """Expected by strategy, over the mean length under the strategy normal."""

    @classmethod
    def from_decision(cls, decision: Decision | None) -> "Verdict":
        """Convert the decision of a probe; None becomes the source `fallback`."""
        if decision is None:
            return cls(None, None, "fallback")
        probabilities, accuracy, tokens = (
            None if any(math.isnan(value) for value in figures) else figures
            for figures in (decision.probabilities, decision.accuracy, decision.tokens)
        )
        return cls(decision.difficulty, probabilities, "probe", accuracy, tokens)


class DifficultyRun:
    """Applies a difficulty plan to one engine call."""

    def __init__(
        self,
        plan: DifficultyPlan,
        ceiling: int,
        decisions: DecisionSource,
        extend: Extend | None,
        span: Span = NO_SPAN,
    ) -> None:
        """Create a run.

        Args:
            plan: The difficulty plan of the request.
            ceiling: The request's `max_tokens`.
            decisions: Where decisions arrive.
            extend: Adds a strategy's text to the prompt; None if that is not possible.
            span: Of the request.
        """
        self._plan = plan
        self._ceiling = ceiling
        self._decisions = decisions
        self._extend = extend
        self._span = span
        self._verdict: Verdict | None = None
        """Set before the answer; None if the engine decides while it answers."""
        self._prepass_tokens: int | None = None
        self._thinking_tokens: int | None = None
        """Limit of the thinking; None if no strategy sets one."""
        self._lost = False

    async def prepare(
        self, engine: Any, prompt: Any, params: SamplingParams, request_id: str, **kwargs: Any
    ) -> tuple[Any, DifficultyMessage | None]:
        """Classify now and change prompt and parameters, or let the engine classify.

        Returns:
            The prompt to answer, and the difficulty control for the worker or None.
        """
        plan, end = self._plan, engine.renderer.get_eos_token_id()
        if plan.picked is None and _engine_can_classify(plan, params, end):
            return prompt, _engine_control(plan, params, self._decisions.trace.id, end)
        if plan.picked is not None:
            self._verdict = Verdict(plan.picked, None, "effort")
        else:
            with self._span.open("prepass", probe=plan.probe) as span:
                kwargs = span.engine_arguments(kwargs)
                self._verdict = await self._run_prepass(engine, prompt, request_id, **kwargs)
                span.set(
                    difficulty=None if (found := self._verdict.difficulty) is None else found.word,
                    gen_ai__usage__input_tokens=self._prepass_tokens,
                )
        if plan.shadow:
            return prompt, None
        assert self._verdict.difficulty is not None
        strategy = plan.strategies.for_class(self._verdict.difficulty)
        return await self._apply_strategy(strategy, engine, prompt, params), None

    async def _run_prepass(
        self, engine: Any, prompt: Any, request_id: str, **kwargs: Any
    ) -> Verdict:
        """Classify in a separate pass, whose prefix the answer then reuses from the cache."""
        control = engine_control(
            law=NO_LAW,
            parameters=NO_ROW,
            trace=0,
            address=self._decisions.address,
            choices=1,
            difficulty=difficulty_control(
                probe=self._plan.probe,
                trace=self._decisions.trace.id,
                price=_price(self._plan),
            ),
        )
        params = SamplingParams(temperature=0.0, max_tokens=1, extra_args={KEY: control})
        start = time.perf_counter()
        outputs = engine.generate(prompt, params, f"{request_id}-prepass", **kwargs)
        async with aclosing(outputs):  # a client that leaves now stops this pass, too
            async for output in outputs:
                self._prepass_tokens = len(output.prompt_token_ids or ())
        decision = await self._decisions.wait(0)
        observe.observe_prepass(time.perf_counter() - start, self._prepass_tokens or 0)
        if decision is None:
            return Verdict(Difficulty.NORMAL, None, "fallback")  # the safe class
        self._observe(decision)
        return Verdict.from_decision(decision)

    def _observe(self, decision: Decision | None) -> None:
        """Count how far the prompt is from the training questions."""
        if decision is not None and self._plan.monitored is not None:
            observe_inputs(self._plan.monitored, [decision.distance])

    async def _apply_strategy(
        self, strategy: Strategy, engine: Any, prompt: Any, params: SamplingParams
    ) -> Any:
        """Set temperature and budget; return the prompt with the strategy's text."""
        params.max_tokens = max(params.min_tokens, strategy.max_tokens(self._ceiling))
        if self._plan.sets_temperature and params.temperature > 0:
            params.temperature = strategy.temperature
        if self._plan.limits_thinking and params.thinking_token_budget is None:
            self._thinking_tokens = strategy.thinking_tokens(self._ceiling)
            params.thinking_token_budget = self._thinking_tokens
        if not strategy.prompt or self._extend is None:
            return prompt
        longer = await self._extend(strategy.prompt)
        if longer is None:
            return prompt
        room = engine.model_config.max_model_len - len(longer["prompt_token_ids"])
        if room < 1:
            return prompt
        params.max_tokens = min(params.max_tokens, room)
        return longer

    async def set_finish_reason(self, completion: Any, produced: int) -> None:
        """Set the finish reason `length` of an answer that the worker ended at its budget.

        Args:
            completion: Completion in vLLM's output, modified in place.
            produced: Number of tokens of this completion so far.
        """
        ended = completion.finish_reason == "stop" and completion.stop_reason is None
        if not ended or self._verdict is not None or self._plan.shadow:
            return
        decision = await self._decision(completion.index)
        if decision is None:
            return
        limit = self._plan.strategies.for_class(decision.difficulty).max_tokens(self._ceiling)
        if produced == limit < self._ceiling:
            completion.finish_reason = "length"

    async def _decision(self, choice: int) -> Decision | None:
        """Wait for the decision; after one timeout, do not wait again."""
        if self._lost:
            return self._decisions.trace.decisions.get(choice)
        decision = await self._decisions.wait(choice)
        self._lost = decision is None
        return decision

    async def report(self, choice: int) -> DifficultyReport:
        """Build the difficulty report of a completion."""
        verdict = self._verdict
        if verdict is None:
            decision = await self._decision(choice)
            verdict = Verdict.from_decision(decision)
            if choice == 0:  # further ones have the same prompt
                self._observe(decision)
        return _describe(
            self._plan, verdict, self._ceiling, self._prepass_tokens, self._thinking_tokens
        )


def _engine_can_classify(plan: DifficultyPlan, params: SamplingParams, end: int | None) -> bool:
    """Whether the engine can classify while it answers, without a pre-pass.

    A pre-pass is needed if a strategy changes the prompt or limits the thinking, or if the answer
    cannot be ended at its budget: the class is known too late to change `max_tokens` in the engine.

    Args:
        plan: The difficulty plan of the request.
        params: Sampling parameters of the answer.
        end: The model's end-of-sequence token; None if it has none.
    """
    if plan.shadow:
        return True
    changes = plan.strategies.change_prompt or plan.limits_thinking
    return not changes and can_be_ended(params, end)


def can_be_ended(params: SamplingParams, end: int | None) -> bool:
    """Whether the worker may end an answer before its limit.

    Args:
        params: Sampling parameters of the answer.
        end: The model's end-of-sequence token; None if it has none.
    """
    must_go_on = params.ignore_eos or params.min_tokens > 0
    return not must_go_on and params.structured_outputs is None and end is not None


def _engine_control(
    plan: DifficultyPlan, params: SamplingParams, trace: int, end: int | None
) -> DifficultyMessage:
    """Build the control that lets the worker classify and act.

    Args:
        plan: The difficulty plan of the request.
        params: Sampling parameters of the answer; `max_tokens` is the ceiling.
        trace: Id of the call's trace.
        end: As in `_engine_can_classify`.
    """
    if plan.shadow:
        return difficulty_control(probe=plan.probe, trace=trace, price=_price(plan))
    strategies, ceiling = plan.strategies.all, params.max_tokens
    budgets = [strategy.max_tokens(ceiling) for strategy in strategies]
    return difficulty_control(
        probe=plan.probe,
        trace=trace,
        temperatures=[s.temperature if plan.sets_temperature else 0.0 for s in strategies],
        budgets=[tokens if tokens < ceiling else 0 for tokens in budgets],  # 0: vLLM enforces it
        stop=end or 0,
        price=_price(plan),
    )


def _price(plan: DifficultyPlan) -> float:
    """The price for the worker; negative if the class chooses."""
    return -1.0 if plan.router is None else plan.router.price


def _describe(
    plan: DifficultyPlan,
    verdict: Verdict,
    ceiling: int,
    prepass_tokens: int | None,
    thinking_tokens: int | None,
) -> DifficultyReport:
    """Build the difficulty report.

    Args:
        plan: The difficulty plan of the request.
        verdict: The class and its source.
        ceiling: The request's `max_tokens`.
        prepass_tokens: Prompt tokens of the pre-pass; None without one.
        thinking_tokens: Limit of the thinking that was set; None without one.
    """
    applied = None
    if verdict.difficulty is not None:
        strategy = plan.strategies.for_class(verdict.difficulty)
        applied = StrategyReport(
            temperature=strategy.temperature if plan.sets_temperature else None,
            max_tokens=strategy.max_tokens(ceiling),
            prompt=bool(strategy.prompt),
            thinking_tokens=thinking_tokens,
        )
    router = plan.router if verdict.source == "probe" else None
    rule: Rule = "diffadapt" if router is None else "worth"
    unit = 1.0 if router is None else router.normal_tokens
    return DifficultyReport(
        label=None if verdict.difficulty is None else verdict.difficulty.word,
        probabilities=None if router else _by_word(verdict.probabilities),
        labels=rule if verdict.source == "probe" else None,
        price=None if router is None else router.price,
        expected_accuracy=None if router is None else _by_word(verdict.accuracy),
        expected_tokens=None if router is None else _by_word(verdict.tokens, unit),
        mode="shadow" if plan.shadow else "act",
        baseline=plan.baseline or None,
        source=verdict.source,
        strategy=applied,
        prepass_tokens=prepass_tokens,
    )


def _by_word(figures: _Figures | None, unit: float = 1.0) -> dict[DifficultyWord, float] | None:
    return None if figures is None else {one.word: figures[one] * unit for one in Difficulty}
