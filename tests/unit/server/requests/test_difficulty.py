"""Selection of the class and its effect on prompt and parameters, with a scripted engine."""

import asyncio
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from vllm.sampling_params import StructuredOutputsParams

from probes.difficulty.strategies import Difficulty, RouterSpec
from server.errors import BadControl
from server.planning.difficulty import RouterPlan, plan_difficulty
from server.planning.refusals import RequestParams
from server.requests.telemetry import Decision
from server.wire.request import DifficultyControl
from server.worker.message import KEY
from tests.unit.server.requests.difficulty_run import (
    EASY,
    END,
    HARD,
    LONGER,
    NORMAL,
    PLAIN,
    PROMPT,
    SPOKEN,
    Run,
)
from tests.unit.server.support import artifacts, save_probe

# -- in the engine -----------------------------------------------------------------------------


async def test_without_strategy_texts_the_probe_reads_the_prompt_of_the_answer_itself() -> None:
    run = Run(PLAIN)
    prompt, params, part = await run.prepare(temperature=1.0)
    assert prompt is PROMPT
    assert (params.max_tokens, params.temperature) == (50, 1.0)
    assert not run.engine.asked
    assert part == {
        "probe": "m/probe",
        "trace": 7,
        "temperatures": [0.5, 0.8, 0.4],
        "budgets": [20, 0, 25],  # 0: vLLM enforces the maximum
        "stop": END,
        "price": -1.0,  # the class chooses
    }


async def test_the_temperature_of_the_request_overrides_the_strategy_in_the_engine() -> None:
    _, _, part = await Run(PLAIN, sets_temperature=False).prepare(temperature=1.3)
    assert part["temperatures"] == [0.0, 0.0, 0.0]


async def test_shadow_mode_changes_nothing_even_if_strategies_have_texts() -> None:
    run = Run(SPOKEN, shadow=True)
    prompt, params, part = await run.prepare(temperature=1.0)
    assert prompt is PROMPT
    assert params.max_tokens == 50
    assert (part["temperatures"], part["budgets"]) == ([0.0] * 3, [0] * 3)
    assert not run.engine.asked


@pytest.mark.parametrize(
    "sampling",
    [
        {"ignore_eos": True},
        {"min_tokens": 4},
        {"structured_outputs": StructuredOutputsParams(json={})},
    ],
)
async def test_an_answer_that_cannot_simply_end_gets_its_budget_from_a_pre_pass(
    sampling: dict[str, Any],
) -> None:
    run = Run(PLAIN, decided=EASY)
    _, params, part = await run.prepare(**sampling)
    assert part is None
    assert params.max_tokens == 20
    assert len(run.engine.asked) == 1


async def test_an_answer_truncated_by_the_worker_has_finish_reason_length() -> None:
    run = Run(PLAIN)
    await run.prepare()
    run.decisions.trace.store_decision(0, Decision(EASY, (0.8, 0.1, 0.1)))

    async def reason(produced: int, **fields: Any) -> str:
        finished = {"index": 0, "finish_reason": "stop", "stop_reason": None}
        completion = SimpleNamespace(**finished | fields)
        await run.run.set_finish_reason(completion, produced)
        return str(completion.finish_reason)

    assert await reason(20) == "length"
    assert await reason(19) == "stop"
    assert await reason(20, stop_reason="\n") == "stop"
    assert await reason(20, finish_reason="abort") == "abort"


# -- by a pre-pass -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("decided", "texts", "temperature", "max_tokens"),
    [(EASY, ["Be brief."], 0.5, 20), (NORMAL, [], 0.8, 50), (HARD, ["Outline."], 0.4, 25)],
)
async def test_a_pre_pass_chooses_text_temperature_and_budget(
    decided: Difficulty, texts: list[str], temperature: float, max_tokens: int
) -> None:
    run = Run(decided=decided)
    prompt, params, part = await run.prepare(temperature=1.0)
    assert prompt is (LONGER if texts else PROMPT)
    assert (params.temperature, params.max_tokens, part) == (temperature, max_tokens, None)
    assert run.texts == texts
    ((asked, alone, name, kwargs),) = run.engine.asked
    assert asked is PROMPT
    assert (alone.max_tokens, alone.temperature, name) == (1, 0.0, "r-prepass")
    assert kwargs == {"lora_request": None, "priority": 3}
    assert alone.extra_args is not None
    assert alone.extra_args[KEY]["difficulty"]["probe"] == "m/probe"
    report = await run.run.report(0)
    assert (report.label, report.source, report.prepass_tokens) == (decided.word, "probe", 10)
    assert report.strategy is not None
    assert report.strategy.max_tokens == max_tokens


async def test_effort_selects_the_class_without_a_pre_pass() -> None:
    run = Run(picked=HARD)
    prompt, params, _ = await run.prepare(temperature=1.0)
    assert (prompt, params.max_tokens) == (LONGER, 25)
    assert not run.engine.asked
    report = await run.run.report(0)
    assert (report.label, report.source, report.probabilities) == ("hard", "effort", None)


async def test_greedy_stays_greedy_and_keeps_text_and_budget() -> None:
    run = Run(decided=EASY)
    prompt, params, _ = await run.prepare(temperature=0.0)
    assert (prompt, params.temperature, params.max_tokens) == (LONGER, 0.0, 20)


async def test_a_probe_that_does_not_answer_selects_normal_and_is_reported() -> None:
    run = Run(decided=None)
    prompt, params, _ = await run.prepare(temperature=1.0)
    assert (prompt, params.max_tokens, params.temperature) == (PROMPT, 50, 0.8)
    assert (await run.run.report(0)).source == "fallback"


async def test_a_decision_that_never_arrives_has_no_label() -> None:
    run = Run(PLAIN)
    await run.prepare()
    report = await run.run.report(0)
    assert (report.label, report.strategy, report.source) == (None, None, "fallback")


async def test_a_state_that_was_not_finite_has_no_probabilities() -> None:
    run = Run(PLAIN)
    await run.prepare()
    run.decisions.trace.store_decision(0, Decision(NORMAL, (math.nan,) * 3))
    report = await run.run.report(0)
    assert (report.label, report.probabilities) == ("normal", None)


@pytest.mark.parametrize(
    ("longer", "prompt", "max_tokens"),
    [
        ({"prompt_token_ids": [1] * 90}, "longer", 10),  # leaves 10 of 100 tokens
        ({"prompt_token_ids": [1] * 100}, "own", 20),
        (None, "own", 20),
    ],
)
async def test_a_text_that_does_not_fit_is_left_out(
    longer: Any, prompt: str, max_tokens: int
) -> None:
    run = Run(decided=EASY, longer=longer)
    got, params, _ = await run.prepare()
    assert got is (longer if prompt == "longer" else PROMPT)
    assert params.max_tokens == max_tokens


async def test_a_client_that_disconnects_during_the_pre_pass_aborts_it() -> None:
    run = Run(decided=EASY)
    run.engine.stuck.clear()
    task = asyncio.create_task(run.prepare())
    await asyncio.sleep(0.01)
    assert run.engine.open_calls == 1
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert run.engine.open_calls == 0


# -- at load -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "decided"),
    [
        ({"config_hash": "other"}, "made for another model: config_hash differs"),
        ({"weights_hash": "other"}, "made for another model: weights_hash differs"),
        ({"tokenizer_hash": "other"}, "made for another model: tokenizer_hash differs"),
        ({"chat_template_hash": "other"}, "made for another model: chat_template_hash differs"),
        ({"spec": {"layer": "12"}}, "layer is '12'"),
        ({"spec": {"normalized": False}}, "normalized is False"),
        ({"spec": {"position": "mean"}}, "position is 'mean'"),
        ({"spec": {"features": 4}}, "the tensor `mean` has shape (8,) instead of (4,)"),
    ],
)
def test_an_error_at_load_names_the_field_of_a_probe_that_does_not_match(
    tmp_path: Path, wrong: dict[str, Any], decided: str
) -> None:
    save_probe(tmp_path, "tiny/fits")
    save_probe(tmp_path, "tiny/other", **wrong)
    using = artifacts(tmp_path)
    assert list(using.heads()) == ["tiny/fits"]
    (card,) = (card for card in using.cards if not card.usable)
    assert card.id == "tiny/other"
    assert decided in str(card.reason)
    with pytest.raises(BadControl, match=r"`tiny/other` cannot be used: ") as refused:
        using.difficulty_probe("tiny/other", "entropy.difficulty.probe")
    assert decided in str(refused.value)
    assert refused.value.param == "entropy.difficulty.probe"


# -- by worth ----------------------------------------------------------------------------------

ROUTER = RouterPlan(price=0.25, normal_tokens=20.0)


@pytest.mark.parametrize("shadow", [False, True])
async def test_the_worker_gets_the_price(shadow: bool) -> None:
    _, _, part = await Run(PLAIN, shadow=shadow, router=ROUTER).prepare(temperature=1.0)
    assert part["price"] == 0.25


async def test_the_price_goes_into_a_pre_pass() -> None:
    run = Run(SPOKEN, decided=EASY, router=ROUTER)
    await run.prepare(temperature=1.0)
    (asked,) = run.engine.asked
    assert asked[1].extra_args[KEY]["difficulty"]["price"] == 0.25


async def test_the_report_has_what_each_strategy_was_expected_to_give() -> None:
    run = Run(PLAIN, router=ROUTER)
    await run.prepare(temperature=1.0)
    decision = Decision(HARD, (0.8, 0.1, 0.1), (0.5, 0.75, 0.75), (0.5, 1.5, 0.25))
    run.decisions.trace.store_decision(0, decision)
    report = await run.run.report(0)
    assert (report.label, report.labels, report.price) == ("hard", "worth", 0.25)
    assert report.probabilities is None
    assert report.expected_accuracy == {"easy": 0.5, "normal": 0.75, "hard": 0.75}
    assert report.expected_tokens == {"easy": 10.0, "normal": 30.0, "hard": 5.0}


async def test_a_class_has_no_expectations() -> None:
    run = Run(PLAIN)
    await run.prepare(temperature=1.0)
    run.decisions.trace.store_decision(0, Decision(EASY, (0.8, 0.1, 0.1)))
    report = await run.run.report(0)
    assert (report.labels, report.price, report.expected_accuracy) == ("diffadapt", None, None)


async def test_a_state_that_is_not_finite_has_no_expectations() -> None:
    run = Run(PLAIN, router=ROUTER)
    await run.prepare(temperature=1.0)
    run.decisions.trace.store_decision(0, Decision(NORMAL, (math.nan,) * 3))
    report = await run.run.report(0)
    assert (report.label, report.labels, report.expected_tokens) == ("normal", "worth", None)


WITH_ROUTER = {"router": RouterSpec(price=0.1, normal_tokens=20.0)}
REQUEST = RequestParams(last_message={"role": "user", "content": "Why?"})


def planned(root: Path, control: dict[str, Any], spec: dict[str, Any] = WITH_ROUTER) -> Any:
    save_probe(root, "m/probe", spec)
    return plan_difficulty(
        DifficultyControl.model_validate(control), artifacts(root), REQUEST
    ).router


@pytest.mark.parametrize(
    ("control", "price"),
    [
        ({}, 0.1),
        ({"labels": "worth"}, 0.1),
        ({"price": 0}, 0.0),
        ({"labels": "worth", "price": 2.5}, 2.5),
        ({"labels": "diffadapt"}, None),
        ({"strategies": {}}, None),
    ],
)
def test_worth_chooses_where_the_probe_can(
    tmp_path: Path, control: dict[str, Any], price: float | None
) -> None:
    router = planned(tmp_path, control)
    assert router == (None if price is None else RouterPlan(price, 20.0))


@pytest.mark.parametrize(
    ("control", "spec", "param", "message"),
    [
        ({"labels": "worth"}, {}, "labels", "has no expected accuracies: train it with"),
        ({"price": 0.2}, {}, "price", "has no expected accuracies: train it with"),
        ({"labels": "diffadapt", "price": 0.2}, WITH_ROUTER, "price", "belongs to `labels` worth"),
        ({"labels": "worth", "strategies": {}}, WITH_ROUTER, "labels", "leave out `strategies`"),
    ],
)
def test_what_a_router_cannot_do_is_refused(
    tmp_path: Path, control: dict[str, Any], spec: dict[str, Any], param: str, message: str
) -> None:
    with pytest.raises(BadControl, match=message) as refused:
        planned(tmp_path, control, spec)
    assert refused.value.param == f"entropy.difficulty.{param}"


def test_a_probe_of_an_earlier_release_is_served_by_its_classes(tmp_path: Path) -> None:
    assert planned(tmp_path, {}, {}) is None
