"""Preparation of one answer under a difficulty plan, with a scripted engine."""

import asyncio
import math
from collections.abc import AsyncGenerator
from types import SimpleNamespace
from typing import Any

from vllm.sampling_params import SamplingParams

from probes.difficulty.strategies import Difficulty, Strategies, Strategy
from probes.drift import MonitoredInput
from server.planning.difficulty import DifficultyPlan, RouterPlan
from server.requests.difficulty import DecisionSource, DifficultyRun
from server.requests.telemetry import Decision, TraceBuffer

EASY, NORMAL, HARD = Difficulty
END = 2
PLAIN = Strategies()
SPOKEN = Strategies(
    easy=Strategy(prompt="Be brief.", temperature=0.5, budget=0.4),
    normal=Strategy(temperature=0.8, budget=1.0),
    hard=Strategy(prompt="Outline.", temperature=0.4, budget=0.5),
)
PROMPT = {"prompt_token_ids": [1] * 10}
LONGER = {"prompt_token_ids": [1] * 14}


class Engine:
    """Sends a decision for a pre-pass, if it has one."""

    def __init__(
        self, decisions: DecisionSource, decided: Difficulty | None, distance: float = math.nan
    ) -> None:
        self.decisions, self.decided, self.distance = decisions, decided, distance
        self.asked: list[tuple[Any, SamplingParams, str, dict[str, Any]]] = []
        self.open_calls = 0
        self.renderer = SimpleNamespace(get_eos_token_id=lambda: END)
        self.model_config = SimpleNamespace(max_model_len=100)
        self.stuck = asyncio.Event()
        self.stuck.set()

    async def generate(
        self, prompt: Any, params: SamplingParams, request_id: str, **kwargs: Any
    ) -> AsyncGenerator[Any, None]:
        self.asked.append((prompt, params, request_id, kwargs))
        self.open_calls += 1
        try:
            await self.stuck.wait()
            if self.decided is not None:
                one = [0.1, 0.1, 0.1]
                one[self.decided] = 0.8
                decision = Decision(self.decided, (one[0], one[1], one[2]), distance=self.distance)
                self.decisions.trace.store_decision(0, decision)
            yield SimpleNamespace(prompt_token_ids=prompt["prompt_token_ids"], outputs=[])
        finally:
            self.open_calls -= 1


class Run:
    """Preparation of one answer."""

    def __init__(
        self,
        strategies: Strategies = SPOKEN,
        decided: Difficulty | None = None,
        shadow: bool = False,
        picked: Difficulty | None = None,
        sets_temperature: bool = True,
        ceiling: int = 50,
        longer: Any = LONGER,
        router: RouterPlan | None = None,
        limits_thinking: bool = False,
        baseline: bool = False,
        monitored: MonitoredInput | None = None,
        distance: float = math.nan,
    ) -> None:
        self.decisions = DecisionSource(TraceBuffer(7), "ipc:///x", 0.05)
        self.engine = Engine(self.decisions, decided, distance)
        self.longer = longer
        self.texts: list[str] = []
        plan = DifficultyPlan(
            *("m/probe", strategies, shadow, picked, sets_temperature, router, limits_thinking),
            baseline=baseline,
            monitored=monitored,
        )
        self.ceiling = ceiling
        self.run = DifficultyRun(plan, ceiling, self.decisions, self.extend)

    async def extend(self, text: str) -> Any:
        self.texts.append(text)
        return self.longer

    async def prepare(self, **sampling: Any) -> tuple[Any, SamplingParams, Any]:
        params = SamplingParams(max_tokens=self.ceiling, **sampling)
        prompt, part = await self.run.prepare(
            self.engine, PROMPT, params, "r", lora_request=None, priority=3
        )
        return prompt, params, part
