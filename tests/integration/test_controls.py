"""Controls in combination with other request parameters."""

import json
import math
from typing import Any

import pytest
from openai import BadRequestError, OpenAI

from tests.conftest import Server
from tests.integration.runners.engines import ENGINES
from tests.integration.support import MODEL, PROMPTS, ask, law, report

LAWS = [
    law("fixed", temperature=0.4),
    law("hapo", tau=0.5),
    law("edt", theta=0.5),
    law("dynatemp", range=0.5),
    law("entropy_target", entropy_target=0.7),
]


def text(answer: Any) -> str:
    return str(answer.choices[0].message.content)


@pytest.mark.parametrize("control", LAWS, ids=lambda control: control["temperature"]["type"])
def test_every_law_generates_and_reports_every_token(
    client: OpenAI, control: dict[str, Any]
) -> None:
    answer = ask(client, PROMPTS[1], control, seed=3)
    body = report(answer)
    assert body["law"] == control["temperature"]["type"]
    assert body["fallback"] is None
    assert len(body["tokens"]) == answer.usage.completion_tokens == body["num_tokens"]
    assert body["entropy_max"] >= body["entropy_mean"] > 0


@pytest.mark.parametrize("control", LAWS, ids=lambda control: control["temperature"]["type"])
def test_no_law_changes_a_greedy_request(client: OpenAI, control: dict[str, Any]) -> None:
    plain = ask(client, PROMPTS[2], temperature=0)
    controlled = ask(client, PROMPTS[2], control, temperature=0)
    assert text(controlled) == text(plain)
    assert {token["temperature"] for token in report(controlled)["tokens"]} == {0.0}


def test_a_controlled_answer_with_a_seed_is_reproducible(client: OpenAI) -> None:
    first, second = (ask(client, PROMPTS[1], LAWS[4], seed=11) for _ in range(2))
    assert text(first) == text(second)
    assert report(first) == report(second)
    assert text(ask(client, PROMPTS[1], LAWS[4], seed=12)) != text(first)


def test_a_fixed_law_equals_the_same_plain_temperature(client: OpenAI) -> None:
    plain = ask(client, PROMPTS[4], temperature=0.4, seed=5)
    controlled = ask(client, PROMPTS[4], law("fixed", temperature=0.4), seed=5)
    assert text(controlled) == text(plain)


@pytest.mark.both_runners
def test_each_of_n_completions_has_its_own_report(client: OpenAI) -> None:
    answer = ask(client, PROMPTS[1], LAWS[3], n=3, seed=7, extra_body={"return_token_ids": True})
    traces = [report(answer, choice)["tokens"] for choice in range(3)]
    assert [len(trace) for trace in traces] == [len(choice.token_ids) for choice in answer.choices]
    # The prompt is the same, so the first entropy is the same; then the answers diverge.
    assert len({round(trace[0]["entropy"], 4) for trace in traces}) == 1
    assert traces[0] != traces[1] != traces[2]
    # The i-th of n seeded completions is the one with seed + i: its trace must be that one's.
    for choice, trace in enumerate(traces):
        alone = ask(client, PROMPTS[1], LAWS[3], seed=7 + choice)
        assert text(alone) == answer.choices[choice].message.content
        assert [t["entropy"] for t in report(alone)["tokens"]] == pytest.approx(
            [t["entropy"] for t in trace], abs=1e-3
        )


def test_several_prompts_each_have_their_own_report(client: OpenAI) -> None:
    answer = client.completions.create(
        model=MODEL,
        prompt=["The sea is", "Two plus two is"],
        n=2,
        max_tokens=6,
        extra_body={"entropy": {"trace": "tokens"}},
    )
    choices: list[Any] = answer.choices
    first = [choice.entropy["tokens"][0]["entropy"] for choice in choices]
    assert first[0] == pytest.approx(first[1], abs=1e-3)
    assert first[2] == pytest.approx(first[3], abs=1e-3)
    assert abs(first[0] - first[2]) > 0.01


@pytest.mark.both_runners
def test_logprobs_and_truncation_work_beside_a_law(client: OpenAI, server: Server) -> None:
    truncation = {"top_k": 20, "min_p": 0.02}
    if ENGINES[server.runner].num_drafts:
        with pytest.raises(BadRequestError, match=r"min_p .* not yet supported with speculative"):
            ask(client, PROMPTS[0], LAWS[3], extra_body=truncation)
        del truncation["min_p"]
    answer = ask(
        client,
        PROMPTS[0],
        LAWS[3],
        logprobs=True,
        top_logprobs=3,
        top_p=0.9,
        presence_penalty=0.3,
        extra_body=truncation,
    )
    tokens = answer.choices[0].logprobs.content
    assert len(tokens) == len(report(answer)["tokens"])
    assert all(len(token.top_logprobs) == 3 for token in tokens)


def test_structured_output_stays_valid_at_high_temperature(client: OpenAI) -> None:
    schema = {
        "type": "object",
        "properties": {"color": {"enum": ["red", "green", "blue"]}, "count": {"type": "integer"}},
        "required": ["color", "count"],
        "additionalProperties": False,
    }
    hot = law("entropy_target", entropy_target=6.0, temperature_max=10.0, side="floor")
    for seed in range(4):
        answer = ask(
            client,
            "Give me a color and a count as JSON.",
            hot,
            seed=seed,
            max_tokens=60,
            response_format={
                "type": "json_schema",
                "json_schema": {"name": "thing", "schema": schema, "strict": True},
            },
        )
        assert all(token["entropy"] >= 0 for token in report(answer)["tokens"])
        if answer.choices[0].finish_reason == "stop":
            assert json.loads(text(answer))["color"] in {"red", "green", "blue"}


@pytest.mark.both_runners
def test_masked_tokens_do_not_contribute_to_the_entropy(client: OpenAI) -> None:
    """Two allowed tokens have an entropy of at most ln 2: a target of 6 nats is unreachable."""
    hot = law("entropy_target", entropy_target=6.0, temperature_max=10.0, side="floor")
    seen = set()
    for seed in range(8):
        choice = {"structured_outputs": {"regex": "[ab]"}}
        answer = ask(client, "Say a or b.", hot, seed=seed, max_tokens=1, extra_body=choice)
        body = report(answer)
        assert 0 < body["entropy_max"] <= math.log(2) + 1e-6
        assert body["num_clamped"] == 1
        assert body["temperature_mean"] == pytest.approx(10.0)
        seen.add(text(answer))
    assert seen <= {"a", "b"}


def test_a_forced_tool_call_is_valid_under_a_law(client: OpenAI) -> None:
    tool = {
        "type": "function",
        "function": {
            "name": "weather",
            "strict": True,
            "parameters": {
                "type": "object",
                "properties": {"unit": {"enum": ["c", "f"]}},
                "required": ["unit"],
                "additionalProperties": False,
            },
        },
    }
    answer = ask(
        client,
        "What is the weather?",
        LAWS[4],
        seed=1,
        max_tokens=60,
        tools=[tool],
        tool_choice={"type": "function", "function": {"name": "weather"}},
    )
    call = answer.choices[0].message.tool_calls[0].function
    assert json.loads(call.arguments)["unit"] in {"c", "f"}
    assert report(answer)["fallback"] is None


@pytest.mark.both_runners
@pytest.mark.parametrize("kind", ["chat", "completion"])
def test_a_stream_has_the_same_trace_as_a_non_streaming_answer(client: OpenAI, kind: str) -> None:
    options: dict[str, Any] = {"model": MODEL, "max_tokens": 20, "seed": 4, "temperature": 0.8}
    body = {"entropy": LAWS[3]}
    if kind == "chat":
        messages: Any = [{"role": "user", "content": PROMPTS[4]}]
        whole: Any = client.chat.completions.create(messages=messages, extra_body=body, **options)
        stream: Any = client.chat.completions.create(
            messages=messages, extra_body=body, stream=True, **options
        )
    else:
        whole = client.completions.create(prompt=PROMPTS[4], extra_body=body, **options)
        stream = client.completions.create(
            prompt=PROMPTS[4], extra_body=body, stream=True, **options
        )
    tokens: list[Any] = []
    summary: dict[str, Any] | None = None
    for chunk in stream:
        for choice in chunk.choices:
            extra = choice.model_extra.get("entropy") or {}
            if extra.get("tokens"):
                assert summary is None, "the summary is on the last chunk of the choice"
                tokens += extra["tokens"]
            if "entropy_mean" in extra:
                summary = extra
    expected = whole.choices[0].entropy
    assert [t["temperature"] for t in tokens] == pytest.approx(
        [t["temperature"] for t in expected["tokens"]], abs=1e-3
    )
    assert summary is not None
    assert summary["entropy_mean"] == pytest.approx(expected["entropy_mean"], abs=1e-3)


def test_a_repeated_prompt_hits_the_prefix_cache_and_reports_the_same(client: OpenAI) -> None:
    long = "Here is a list of words: " + " ".join(f"word{i}" for i in range(120)) + ". Summarize."
    first, second = (ask(client, long, LAWS[3], seed=2, max_tokens=8) for _ in range(2))
    assert report(first)["tokens"][0]["entropy"] == pytest.approx(
        report(second)["tokens"][0]["entropy"], abs=1e-3
    )


def test_a_chunked_prompt_reports_only_tokens_that_were_sampled(client: OpenAI) -> None:
    """1,100 tokens in steps of 512: the token sampled for an unfinished prompt is discarded."""
    long = "Count. " + " ".join(str(i) for i in range(280))
    answer = ask(client, long, LAWS[3], seed=9, max_tokens=6)
    assert answer.usage.prompt_tokens > 600
    body = report(answer)
    assert len(body["tokens"]) == answer.usage.completion_tokens
    assert body["fallback"] is None
