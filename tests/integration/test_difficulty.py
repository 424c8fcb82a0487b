"""Difficulty on the real model: features, classification and strategies of the worker.

The probe is a random head over the real hidden states, which puts the questions into all three
classes; what a trained probe is worth is another matter.
"""

import json
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from openai import BadRequestError, OpenAI

from probes.difficulty.probe import Forecast, predicted_class, route
from probes.difficulty.strategies import Difficulty
from tests.conftest import (
    PLAIN_PROBE,
    QUESTIONS,
    ROUTED_PROBE,
    SPOKEN_PROBE,
    Server,
    offline_probe,
)
from tests.integration.support import PROMPTS, ask, law, preemptions, report, some, together
from tests.waiting import wait_until


def classes_of(answers: list[Any]) -> list[str]:
    return [str(report(answer)["difficulty"]["label"]) for answer in answers]


@pytest.mark.both_runners
def test_the_worker_classifies_as_transformers_does(client: OpenAI, checkpoint: Path) -> None:
    """All requests run concurrently: chunked prompts, cached prefixes, mixed batches."""
    offline = offline_probe(checkpoint).probabilities
    control = {"difficulty": {"probe": PLAIN_PROBE, "mode": "shadow"}}
    jobs = [
        lambda question=question: ask(client, question, control, max_tokens=2, seed=1)
        for question in QUESTIONS
    ]
    for _ in range(2):  # the second time every prefix is cached
        answers = together(jobs)
        got = torch.tensor(
            [list(report(a)["difficulty"]["probabilities"].values()) for a in answers]
        )
        assert (got - offline).abs().max() < 0.02
        expected = [Difficulty(label).word for label in predicted_class(offline).tolist()]
        agreement = [a == b for a, b in zip(classes_of(answers), expected, strict=True)]
        assert sum(agreement) >= 0.99 * len(QUESTIONS)
    assert len(set(expected)) == 3, "the prompts must make every class"


@pytest.mark.both_runners
def test_a_chunked_prompt_is_classified_at_its_last_token(client: OpenAI, checkpoint: Path) -> None:
    from training.common.hidden_states import hidden_states

    question = "Sum up: " + "the fox runs over the hill and " * 150  # three steps of 512 tokens
    states, _ = hidden_states(checkpoint, [question], lambda _: None)
    control = {"difficulty": {"probe": PLAIN_PROBE, "mode": "shadow"}}
    got = report(ask(client, question, control, max_tokens=2))["difficulty"]["probabilities"]
    expected = offline_probe(checkpoint).head.probabilities(states)[0]
    assert torch.allclose(torch.tensor(list(got.values())), expected, atol=0.02)


@pytest.mark.both_runners
def test_the_worker_chooses_by_worth_as_the_forecast_does(client: OpenAI, checkpoint: Path) -> None:
    """Requests of one step have prices of their own, and one chooses by class."""
    offline, questions = offline_probe(checkpoint), QUESTIONS[:18]
    prices = [(0.0, 0.4, None)[number % 3] for number in range(len(questions))]

    def asked(question: str, price: float | None) -> Any:
        worth = {"labels": "diffadapt"} if price is None else {"price": price}
        control = {"difficulty": {"probe": ROUTED_PROBE, "mode": "shadow", **worth}}
        return ask(client, question, control, max_tokens=2, seed=1)

    jobs = [lambda q=q, p=p: asked(q, p) for q, p in zip(questions, prices, strict=True)]
    forecast = Forecast(*(part[: len(questions)] for part in offline.forecast))
    kept = torch.ones(3)
    by_class, agreement = predicted_class(offline.probabilities[: len(questions)]), []
    for number, (answer, price) in enumerate(zip(together(jobs), prices, strict=True)):
        found = report(answer)["difficulty"]
        assert found["labels"] == ("diffadapt" if price is None else "worth")
        assert found["price"] == price
        if price is None:
            expected = by_class[number]
        else:
            expected = route(forecast, kept, torch.full((len(questions),), price))[number]
            accuracy = torch.tensor(list(found["expected_accuracy"].values()))
            tokens = torch.tensor(list(found["expected_tokens"].values())) / 30.0
            assert (accuracy - forecast.accuracy[number]).abs().max() < 0.02
            assert (tokens - forecast.tokens[number]).abs().max() < 0.02
        agreement.append(found["label"] == Difficulty(int(expected)).word)
    assert sum(agreement) >= 0.9 * len(questions)


def test_shadow_changes_no_token(client: OpenAI) -> None:
    control = {"difficulty": {"probe": SPOKEN_PROBE, "mode": "shadow"}}
    for prompt in PROMPTS[:4]:
        plain, shadow = (ask(client, prompt, one, seed=3, max_tokens=40) for one in (None, control))
        assert plain.choices[0].message.content == shadow.choices[0].message.content
        assert report(shadow)["difficulty"]["mode"] == "shadow"


@pytest.mark.both_runners
def test_the_class_sets_temperature_and_budget_on_the_same_prefill(server: Server) -> None:
    client, questions = server.client, some(server, QUESTIONS, 12)
    control = {"difficulty": {"probe": PLAIN_PROBE}, "trace": "tokens"}
    jobs = [
        lambda q=q: ask(client, q, control, max_tokens=50, seed=2, temperature=None)
        for q in questions
    ]
    temperatures = {"easy": 0.5, "normal": 0.8, "hard": 0.4}
    budgets: dict[str, Any] = {}
    for answer in together(jobs):
        body = report(answer)
        label = body["difficulty"]["label"]
        assert body["difficulty"]["prepass_tokens"] is None
        applied = [token["temperature"] for token in body["tokens"]]
        assert applied == pytest.approx([temperatures[label]] * len(applied), abs=1e-5)
        limit = {"easy": 20, "normal": 50, "hard": 25}[label]
        assert body["difficulty"]["strategy"]["max_tokens"] == limit
        tokens = answer.usage.completion_tokens
        assert tokens <= limit
        # Where the budget is `max_tokens`, the model may end on its own at the last token.
        ended_at_the_limit = {"length"} if limit < 50 else {"length", "stop"}
        assert answer.choices[0].finish_reason in (
            ended_at_the_limit if tokens == limit else {"stop"}
        )
        budgets.setdefault(label, []).append(tokens == limit)
    assert any(budgets["easy"]) or any(budgets["hard"]), "some answer must reach its budget"


def test_a_request_with_a_temperature_keeps_it(client: OpenAI) -> None:
    control = {"difficulty": {"probe": PLAIN_PROBE}, "trace": "tokens"}
    body = report(ask(client, PROMPTS[0], control, temperature=1.3))
    applied = [token["temperature"] for token in body["tokens"]]
    assert applied == pytest.approx([1.3] * len(applied))
    assert body["difficulty"]["strategy"]["temperature"] is None


def test_a_text_after_the_question_needs_a_pre_pass_whose_prefix_is_cached(
    client: OpenAI,
) -> None:
    control = {"difficulty": {"probe": SPOKEN_PROBE}, "trace": "summary"}
    for question in QUESTIONS[:8]:
        answer = ask(client, question, control, max_tokens=40)
        found = report(answer)["difficulty"]
        assert found["source"] == "probe"
        longer = answer.usage.prompt_tokens - found["prepass_tokens"]
        assert (longer > 0) == found["strategy"]["prompt"]
        assert answer.usage.completion_tokens <= found["strategy"]["max_tokens"]


def test_effort_selects_the_class_without_a_pre_pass(client: OpenAI) -> None:
    control = {"difficulty": {"probe": SPOKEN_PROBE, "effort": True}}
    answer = ask(client, PROMPTS[0], control, extra_body={"reasoning_effort": "high"})
    found = report(answer)["difficulty"]
    assert (found["label"], found["source"], found["prepass_tokens"]) == ("hard", "effort", None)


def test_every_completion_and_every_stream_reports_its_class(client: OpenAI) -> None:
    control = {"difficulty": {"probe": PLAIN_PROBE}, "trace": "summary"}
    answer = ask(client, PROMPTS[1], control, n=3, seed=5, temperature=None)
    assert len({report(answer, choice)["difficulty"]["label"] for choice in range(3)}) == 1
    events = ask(client, PROMPTS[1], control, stream=True)
    reports = [
        choice.entropy for event in events for choice in event.choices if hasattr(choice, "entropy")
    ]
    assert reports[-1]["difficulty"]["label"] == report(answer)["difficulty"]["label"]


def test_a_law_uses_the_temperature_of_the_class_as_its_base(client: OpenAI) -> None:
    control = {
        "difficulty": {"probe": PLAIN_PROBE},
        "temperature": {"type": "dynatemp", "range": 0.2},
        "trace": "tokens",
    }
    base = {"easy": 0.5, "normal": 0.8, "hard": 0.4}
    for question in QUESTIONS[:6]:
        body = report(ask(client, question, control, temperature=None, seed=4))
        own = base[body["difficulty"]["label"]]
        applied = [token["temperature"] for token in body["tokens"]]
        assert all(abs(one - own) <= 0.2 + 1e-5 for one in applied)
        assert len({round(one, 3) for one in applied}) > 1


def test_the_text_is_appended_to_the_last_of_several_turns_also_with_tools(client: OpenAI) -> None:
    turns = [
        {"role": "system", "content": "You are brief."},
        {"role": "user", "content": "Hello!"},
        {"role": "assistant", "content": "Good day."},
        {"role": "user", "content": PROMPTS[0]},
    ]
    unit = {"type": "object", "properties": {"unit": {"enum": ["c", "f"]}}, "required": ["unit"]}
    tool = {"type": "function", "function": {"name": "weather", "parameters": unit}}
    forced = {"type": "function", "function": {"name": "weather"}}
    control = {"difficulty": {"probe": SPOKEN_PROBE, "effort": True}}
    sdk: Any = client
    plain, reported = (
        sdk.chat.completions.create(
            model="smollm2-135m",
            messages=turns,
            max_tokens=60,
            tools=[tool],
            tool_choice=forced,
            reasoning_effort="low",
            extra_body=extra,
        )
        for extra in ({}, {"entropy": control})
    )
    assert reported.usage.prompt_tokens > plain.usage.prompt_tokens
    assert report(reported)["difficulty"]["strategy"]["prompt"]
    if (
        reported.choices[0].finish_reason != "length"
    ):  # else the call is truncated at the budget of the class
        call = reported.choices[0].message.tool_calls[0].function
        assert json.loads(call.arguments)["unit"] in {"c", "f"}


def test_a_client_that_disconnects_during_the_pre_pass_aborts_it(server: Server) -> None:
    def count(name: str) -> float:
        lines = httpx.get(f"{server.url}/metrics").text.splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name))

    drawn = count("vllm:generation_tokens_total")
    body = {
        "model": "smollm2-135m",
        "messages": [{"role": "user", "content": "the fox runs over the hill " * 300}],
        "entropy": {"difficulty": {"probe": SPOKEN_PROBE}},
    }
    with pytest.raises(httpx.ReadTimeout):  # four steps of 512 tokens take longer
        httpx.post(f"{server.url}/v1/chat/completions", json=body, timeout=0.5)
    running = ("vllm:num_requests_running", "vllm:num_requests_waiting{")
    wait_until(lambda: not sum(map(count, running)))
    assert count("vllm:generation_tokens_total") == drawn, "the pass went on to its token"


def test_structured_answers_stay_complete(client: OpenAI) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    answer = ask(
        client,
        "Give me a number.",
        {"difficulty": {"probe": PLAIN_PROBE}},
        max_tokens=60,
        response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": schema}},
    )
    assert report(answer)["difficulty"]["source"] == "probe"
    if answer.choices[0].finish_reason == "stop":
        assert set(json.loads(answer.choices[0].message.content)) == {"a"}


def test_preempted_requests_keep_their_class_and_report_each_token_once(
    server: Server, client: OpenAI, checkpoint: Path
) -> None:
    """More tokens than the KV cache holds, so requests are preempted and resumed."""
    strategies = {
        label: {"temperature": temperature, "budget": 1.0}
        for label, temperature in (("easy", 0.5), ("normal", 0.8), ("hard", 0.4))
    }
    classified = {"difficulty": {"probe": PLAIN_PROBE, "strategies": strategies}, "trace": "tokens"}
    controls = [classified, law("dynatemp", range=0.3)]
    end = {"2": -100.0}  # the end token; `ignore_eos` would need a pre-pass
    before = preemptions(server)
    jobs = [
        lambda i=i: ask(
            client, QUESTIONS[i], controls[i % 2], max_tokens=100, seed=i, logit_bias=end
        )
        for i in range(24)
    ]
    answers = together(jobs, workers=24)
    assert preemptions(server) > before, "the test must really preempt"
    for answer in answers:
        assert report(answer)["fallback"] is None
        assert len(report(answer)["tokens"]) == answer.usage.completion_tokens == 100
    labels, agreement = predicted_class(offline_probe(checkpoint).probabilities).tolist(), []
    for number, answer in list(enumerate(answers))[::2]:
        body = report(answer)
        assert body["difficulty"]["prepass_tokens"] is None
        expected = strategies[body["difficulty"]["label"]]["temperature"]
        agreement.append(body["difficulty"]["label"] == Difficulty(labels[number]).word)
        applied = [token["temperature"] for token in body["tokens"]]
        assert applied == pytest.approx([expected] * 100, abs=1e-5)
    assert sum(agreement) >= 0.99 * len(agreement)


@pytest.mark.parametrize(
    ("difficulty", "param"),
    [
        ({"probe": "nope/nope"}, "entropy.difficulty.probe"),
        ({"probe": "smollm2-135m/entropy"}, "entropy.difficulty.probe"),
        ({"mode": "guess"}, "entropy.difficulty.mode"),
        ({"what": 1}, "entropy.difficulty.what"),
        ({"strategies": {"easy": {"budget": 2}}}, "entropy.difficulty.strategies.easy"),
    ],
)
def test_an_error_for_an_invalid_control_names_the_field(
    client: OpenAI, difficulty: dict[str, Any], param: str
) -> None:
    with pytest.raises(BadRequestError) as caught:
        ask(client, "hi", {"difficulty": difficulty})
    assert str(caught.value.param).startswith(param)


def test_other_routes_refuse_a_difficulty_control(client: OpenAI) -> None:
    with pytest.raises(BadRequestError, match="chat/completions") as caught:
        client.completions.create(
            model="smollm2-135m", prompt="x", extra_body={"entropy": {"difficulty": {}}}
        )
    assert caught.value.param == "entropy.difficulty"


@pytest.mark.parametrize(
    "messages",
    [[], [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]],
)
def test_a_chat_without_a_question_returns_400(
    server: Server, messages: list[dict[str, str]]
) -> None:
    body = {"model": "smollm2-135m", "messages": messages, "max_tokens": 4}
    asked = {**body, "entropy": {"difficulty": {"probe": PLAIN_PROBE}}}
    answer = httpx.post(f"{server.url}/v1/chat/completions", json=asked, timeout=60)
    assert answer.status_code == 400
    plain = httpx.post(f"{server.url}/v1/chat/completions", json=body, timeout=60)
    measured = httpx.post(
        f"{server.url}/v1/chat/completions", json={**body, "entropy": {}}, timeout=60
    )
    assert plain.status_code == measured.status_code < 500
