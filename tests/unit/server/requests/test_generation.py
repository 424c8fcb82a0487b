import asyncio
from contextlib import nullcontext
from typing import Any

import pytest

from probes.laws import NO_LAW, NO_ROW, EntropyTargetLaw, ShuffledLaw
from probes.truncations import Mirostat, PLess, Truncation
from server.planning.laws import PhasePlan
from server.planning.thinking import ThinkingMarks
from server.requests.generation import ControlledEngine, Generation
from server.requests.telemetry import Telemetry
from server.worker.message import KEY, EngineControl
from tests.unit.server.fake_engine import (
    ONE_BY_ONE,
    FakeEngine,
    params,
    plan,
)
from tests.unit.server.requests.generation_run import (
    Run,
)

# -- below vLLM's handlers ---------------------------------------------------------------------


async def test_a_request_without_controls_reaches_the_engine_unchanged() -> None:
    engine = FakeEngine(Telemetry(), ONE_BY_ONE)
    own = params()
    async for _ in ControlledEngine(engine).generate("p", own, "r"):
        pass
    assert engine.params == [own]
    assert own.extra_args is None
    assert engine.telemetry.num_open == 0


async def test_every_engine_call_has_the_control_and_keeps_its_other_arguments() -> None:
    run = Run(ONE_BY_ONE)
    own = params(n=1)
    own.extra_args = {"other": 1}
    with run.generation.activate():
        async for _ in run.controlled.generate("p", own, "r"):
            pass
    extra = run.engine.params[0].extra_args
    assert extra["other"] == 1
    assert isinstance(extra[KEY], EngineControl)
    assert extra[KEY] == {
        "law": EntropyTargetLaw.tag,
        "parameters": list(plan().parameters),
        "trace": 1,
        "address": run.telemetry.address,
        "choices": 1,
        "difficulty": None,
        "steering": None,
        "shuffled": None,
        "truncation": None,
        "confidence": False,
        "state": None,
        "phases": None,
        "weak": None,
    }


@pytest.mark.parametrize("one", [PLess(), Mirostat(surprise_target=2.0)])
async def test_a_truncation_reaches_the_worker_and_mirostat_replaces_the_models_own(
    one: Truncation,
) -> None:
    run = Run(ONE_BY_ONE, trace="none")
    run.generation.calls.plan = run.generation.plan._replace(truncation=one)
    calls = []
    for _ in range(2):
        own = params(n=1)
        own.top_k, own.top_p, own.min_p = 20, 0.8, 0.05  # of the model's generation config
        with run.generation.activate():
            async for _output in run.controlled.generate("p", own, "r"):
                pass
        message = own.extra_args[KEY]
        assert message["truncation"]["kind"] == one.tag
        assert message["truncation"]["parameters"] == list(one.row())
        assert message["trace"] == 0
        calls.append(message["truncation"]["call"])
        replaced = (0, 1.0, 0.0) if isinstance(one, Mirostat) else (20, 0.8, 0.05)
        assert (own.top_k, own.top_p, own.min_p) == replaced
    assert calls[0] != calls[1]
    assert 0 not in calls


@pytest.mark.parametrize("phase", ["answer", "thinking"])
@pytest.mark.parametrize("seed", [None, 0, 5])
async def test_a_histogram_reaches_the_worker_with_the_seed_of_the_request(
    seed: int | None, phase: str
) -> None:
    law = ShuffledLaw(temperatures=(0.5, 1.0), weights=(1.0, 3.0))
    thinking = PhasePlan(law, law.tag, NO_ROW, ThinkingMarks(1, 2))
    own: Any = {"law": law} if phase == "answer" else {"phases": thinking}
    messages = []
    for _ in range(2):
        run = Run(ONE_BY_ONE)
        run.generation.calls.plan = plan()._replace(**own)
        wanted = params(n=1)
        wanted.seed = seed
        with run.generation.activate():
            async for _output in run.controlled.generate({}, wanted, "r"):
                pass
        messages.append(run.engine.params[0].extra_args[KEY]["shuffled"])
    assert messages[0]["temperatures"] == [0.5, 1.0]
    assert messages[0]["cumulative"] == [0.25, 1.0]
    seeds = {message["seed"] for message in messages}
    assert seeds == {seed} if seed is not None else len(seeds) == 2


@pytest.mark.parametrize(("prompt", "inside"), [([5, 1], True), ([5, 1, 9, 2], False)])
async def test_laws_by_phase_reach_the_worker_with_the_phase_of_the_prompt(
    prompt: list[int], inside: bool
) -> None:
    run = Run(ONE_BY_ONE, trace="none")
    phases = PhasePlan(None, NO_LAW, NO_ROW, ThinkingMarks(1, 2))
    run.generation.calls.plan = run.generation.plan._replace(phases=phases)
    calls = []
    for _ in range(2):
        own = params(n=2)
        with run.generation.activate():
            async for _output in run.controlled.generate({"prompt_token_ids": prompt}, own, "r"):
                pass
        message = own.extra_args[KEY]["phases"]
        assert (message["start"], message["end"], message["thinking"]) == (1, 2, inside)
        calls.append(message["call"])
    assert calls[0] != calls[1]
    assert 0 not in calls


async def test_a_request_without_a_trace_requests_none_from_the_worker() -> None:
    run = Run(ONE_BY_ONE, trace="none")
    await run.answer({"choices": []}, params())
    assert run.engine.params[0].extra_args[KEY]["trace"] == 0
    assert run.engine.params[0].extra_args[KEY]["law"] == EntropyTargetLaw.tag


async def test_every_method_except_generate_is_forwarded_to_the_engine() -> None:
    assert Run(ONE_BY_ONE).controlled.name == "the fake"


async def test_concurrent_requests_do_not_share_a_plan() -> None:
    async def request(controlled: bool) -> bool:
        engine = FakeEngine(Telemetry(), ONE_BY_ONE)
        generation = Generation(plan(), engine.telemetry, 1.0)
        with generation.activate() if controlled else nullcontext():
            await asyncio.sleep(0)
            async for _ in ControlledEngine(engine).generate("p", params(), "r"):
                await asyncio.sleep(0)
        return engine.params[0].extra_args is not None

    wanted = [True, False] * 4
    assert await asyncio.gather(*(request(controlled) for controlled in wanted)) == wanted


async def test_an_engine_call_after_the_answer_is_refused_and_the_plan_is_reset() -> None:
    run = Run(ONE_BY_ONE)
    with run.generation.activate():
        run.generation.close()
        with pytest.raises(RuntimeError, match="has ended"):
            run.controlled.generate("p", params(), "r")
    own = params()
    async for _ in run.controlled.generate("p", own, "r"):
        pass
    assert own.extra_args is None


async def test_a_client_salt_with_our_prefix_does_not_reach_the_engine() -> None:
    seen = []

    class Engine(FakeEngine):
        def generate(self, prompt: Any, *rest: Any) -> Any:
            seen.append(prompt["cache_salt"])
            return super().generate(prompt, *rest)

    engine = ControlledEngine(Engine(Telemetry(), ONE_BY_ONE))
    for salt in ("entrostat:0123", "own"):
        engine.generate({"prompt_token_ids": [1], "cache_salt": salt}, params(), "r")
    assert seen[0] != "entrostat:0123"
    assert seen[1] == "own"
