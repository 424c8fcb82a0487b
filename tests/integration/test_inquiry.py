"""Inquiries against the real engine, with the built-in calibration."""

import json
import subprocess
from typing import Any

import httpx
import pytest
from openai import BadRequestError, OpenAI

from probes.inquiry.prompts import NEUTRAL_REPLIES
from probes.inquiry.task import Task, load_task
from probes.inquiry.text import normalize_question
from tests.conftest import Server, entrostat
from tests.integration.support import MODEL, counter

TASK = f"{MODEL}/animals"


@pytest.fixture(scope="module")
def animals() -> Task:
    return load_task("animals")


def truth(task: Task, label: str, question: str) -> str:
    query = next(query for query in task.queries if query.question == question)
    assert query.yes is not None
    return "yes" if label in query.yes else "no"


def turn(
    client: OpenAI, messages: list[Any], stream: bool = False, **inquiry: Any
) -> tuple[str, dict[str, Any]]:
    body = {"entropy": {"inquiry": {"task": TASK, **inquiry}}}
    create: Any = client.chat.completions.create
    answer = create(model=MODEL, messages=messages, extra_body=body, stream=stream)
    if not stream:
        return answer.choices[0].message.content, answer.choices[0].entropy["inquiry"]
    text, report = "", None
    for chunk in answer:
        for choice in chunk.choices:
            text += choice.delta.content or ""
            report = getattr(choice, "entropy", None) or report
    assert report is not None
    return text, report["inquiry"]


def game(client: OpenAI, reply: Any, **options: Any) -> tuple[list[Any], list[dict[str, Any]]]:
    """Play until the final answer; return the messages and the report of each turn."""
    messages: list[Any] = [{"role": "user", "content": "Let us play."}]
    reports = []
    while True:
        text, report = turn(client, messages, **options)
        messages.append({"role": "assistant", "content": text})
        reports.append(report)
        if report["action"] == "answer":
            return messages, reports
        messages.append({"role": "user", "content": reply(text)})
        assert len(reports) < 60


@pytest.mark.parametrize("stream", [False, True])
def test_a_complete_game_with_the_sdk(client: OpenAI, animals: Task, stream: bool) -> None:
    messages, reports = game(client, lambda q: truth(animals, "zebra", q), stream=stream)
    asked = [report["query"] for report in reports[:-1]]
    assert len(asked) == len(set(asked))
    assert [report["turn"] for report in reports[:-1]] == list(range(1, len(asked) + 1))
    assert len(reports[0]["prediction_set"]) == 20
    assert len(reports[-1]["prediction_set"]) < 20
    assert reports[-1]["label"] in messages[-1]["content"]
    assert all(report["forwards"] == 0 for report in reports)


def test_the_table_of_answers_identifies_the_label_of_a_truthful_player(
    client: OpenAI, animals: Task
) -> None:
    for label in animals.names:
        _, reports = game(client, lambda q, label=label: truth(animals, label, q))
        assert reports[-1]["label"] == label
        assert len(reports) - 1 <= 6
        assert {report["predictor"] for report in reports} == {"table"}
    assert reports[0]["introduction"] == animals.introduction


def test_literal_replies_cost_no_engine_request(
    server: Server, client: OpenAI, animals: Task
) -> None:
    """Milliseconds are measured by `benchmarks.inquiry.turns`."""

    def finished() -> float:
        lines = httpx.get(f"{server.url}/metrics").text.splitlines()
        name = "vllm:request_success_total"
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name))

    before = finished()
    _, reports = game(client, lambda q: truth(animals, "bee", q))
    assert {report["forwards"] for report in reports} == {0}
    assert finished() == before


@pytest.mark.parametrize(
    "reply",
    [
        lambda q: "banana 42 ¯\\_(ツ)_/¯",
        lambda q: "I don't know",
        lambda q: "yes. No, wait: no! Or yes?",
        lambda q: "Nein, das glaube ich nicht.",
        lambda q: "",
        lambda q: "x" * 20_000,
    ],
)
def test_no_reply_breaks_a_game(client: OpenAI, reply: Any) -> None:
    _, reports = game(client, reply, max_turns=3)
    assert reports[-1]["label"]
    assert len(reports) == 4


def test_free_text_replies_are_read_once_per_server(server: Server, client: OpenAI) -> None:
    question = "Can it fly?"
    messages: list[Any] = [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": question},
        {"role": "user", "content": "as little as a stone does"},
    ]
    _, first = turn(client, messages)
    assert first["forwards"] == 1 + len(NEUTRAL_REPLIES)
    assert first["prompt_tokens"] > 0
    before = counter(server, "vllm:prompt_tokens_total")
    _, again = turn(client, messages)
    assert counter(server, "vllm:prompt_tokens_total") == before
    reported = {key: value for key, value in again.items() if key != "seconds"}
    assert reported == {key: value for key, value in first.items() if key != "seconds"}


def test_a_game_is_reproducible(client: OpenAI, animals: Task) -> None:
    first, _ = game(client, lambda q: truth(animals, "duck", q))
    assert game(client, lambda q: truth(animals, "duck", q))[0] == first


@pytest.mark.parametrize(
    ("inquiry", "messages", "param"),
    [
        ({"task": "nobody/nothing"}, None, "entropy.inquiry.task"),
        ({"task": f"{MODEL}/entropy"}, None, "entropy.inquiry.task"),
        ({"task": TASK, "confidence_level": 1.0}, None, "entropy.inquiry.confidence_level"),
        ({"task": TASK, "confidence_level": 0.0}, None, "entropy.inquiry.confidence_level"),
        (
            {"task": TASK, "confidence_level": 0.9999, "predictor": "likelihood"},
            None,
            "entropy.inquiry.confidence_level",
        ),
        (
            {"task": TASK, "predictor": "table", "queries": "open"},
            None,
            "entropy.inquiry.predictor",
        ),
        ({"task": TASK, "color": 1}, None, "entropy.inquiry.color"),
        (
            {"task": TASK},
            [{"role": "user", "content": "x"}, {"role": "assistant", "content": "Hi!"}],
            "messages",
        ),
        (
            {"task": TASK},
            [
                {"role": "user", "content": "x"},
                {"role": "assistant", "content": "How may I help?"},
                {"role": "user", "content": "no"},
            ],
            "messages.1",
        ),
    ],
)
def test_an_error_for_invalid_input_names_the_field(
    client: OpenAI, inquiry: dict[str, Any], messages: Any, param: str
) -> None:
    with pytest.raises(BadRequestError) as caught:
        client.chat.completions.create(
            model=MODEL,
            messages=messages or [{"role": "user", "content": "go"}],
            extra_body={"entropy": {"inquiry": inquiry}},
        )
    assert caught.value.param == param


def test_other_routes_and_contradicting_fields_are_refused(server: Server) -> None:
    control: dict[str, Any] = {"inquiry": {"task": TASK}}
    chat: dict[str, Any] = {
        "model": MODEL,
        "messages": [{"role": "user", "content": "go"}],
        "entropy": control,
    }
    wrong = [
        ("/v1/completions", {"model": MODEL, "prompt": "x", "entropy": control}, "entropy.inquiry"),
        ("/v1/chat/completions", {**chat, "n": 2}, "n"),
        ("/v1/chat/completions", {**chat, "logprobs": True}, "logprobs"),
        (
            "/v1/chat/completions",
            {**chat, "entropy": {**control, "temperature": {"type": "edt"}}},
            "entropy.temperature",
        ),
    ]
    for path, body, param in wrong:
        answer = httpx.post(server.url + path, json=body, timeout=60)
        assert answer.status_code == 400, (path, answer.text)
        assert answer.json()["error"]["param"] == param
    stranger = httpx.post(f"{server.url}/v1/chat/completions", json={**chat, "model": "nobody"})
    assert stranger.status_code == 404


def test_the_stream_ends_as_the_protocol_specifies(server: Server) -> None:
    body = {
        "model": MODEL,
        "messages": [{"role": "user", "content": "go"}],
        "stream": True,
        "stream_options": {"include_usage": True},
        "entropy": {"inquiry": {"task": TASK}},
    }
    lines = httpx.post(f"{server.url}/v1/chat/completions", json=body).text.split("\n\n")
    events = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
    assert [line for line in lines if line][-1] == "data: [DONE]"
    assert events[0]["choices"][0]["delta"]["role"] == "assistant"
    assert [one["choices"][0]["finish_reason"] for one in events[:3]] == [None, None, "stop"]
    assert events[2]["choices"][0]["entropy"]["inquiry"]["action"] == "ask"
    assert events[3]["usage"]["completion_tokens"] > 0
    assert len(events) == 4


@pytest.mark.both_runners
def test_a_direct_turn_reads_each_candidate_with_each_answer_once(
    client: OpenAI, animals: Task
) -> None:
    messages: list[Any] = [{"role": "user", "content": "hi"}]
    for question in animals.questions[:4]:
        messages += [
            {"role": "assistant", "content": question},
            {"role": "user", "content": truth(animals, "zebra", question)},
        ]
    _, report = turn(client, messages, predictor="direct", max_candidates=10)
    assert (report["predictor"], report["forwards"]) == ("direct", 1 + 10 * 2)
    assert report["prompt_tokens"] > 1000
    _, again = turn(client, messages, predictor="direct", max_candidates=10)
    assert again["query"] == report["query"]
    assert again["forwards"] == report["forwards"]  # cached reads count too


def test_the_candidates_of_a_direct_turn_share_the_prefix_cache(
    server: Server, client: OpenAI, animals: Task
) -> None:
    messages: list[Any] = [{"role": "user", "content": "hi"}]
    for question in animals.questions[:16]:  # longer than one KV block
        messages += [
            {"role": "assistant", "content": question},
            {"role": "user", "content": truth(animals, "cow", question)},
        ]
    before = counter(server, "vllm:prefix_cache_hits_total")
    _, report = turn(client, messages, predictor="direct", max_candidates=6)
    assert report["forwards"] == 1 + 6 * 2
    assert counter(server, "vllm:prefix_cache_hits_total") == before + 12 * 128


def test_a_message_of_a_megabyte_is_refused_without_blocking_other_requests(server: Server) -> None:
    """Limits are checked before work, so the event loop keeps answering `/health`."""
    long = "Is it a whale? " * 60_000
    body: dict[str, Any] = {
        "model": MODEL,
        "messages": [
            {"role": "user", "content": "hi"},
            {"role": "assistant", "content": long},
            {"role": "user", "content": "no"},
        ],
        "entropy": {"inquiry": {"task": TASK}},
    }
    answer = httpx.post(f"{server.url}/v1/chat/completions", json=body, timeout=60)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "messages.1")


def test_a_game_of_open_questions(client: OpenAI) -> None:
    replies = iter(["yes", "I don't know", "nein, banana 42"])
    messages, reports = game(
        client, lambda q: next(replies), queries="open", max_turns=3, stream=True
    )
    asked = [report["query"] for report in reports[:-1]]
    assert asked
    assert len({normalize_question(question) for question in asked}) == len(asked)
    assert all(load_task("animals").open_query(question) for question in asked)
    assert reports[0]["calibrated"]
    assert not reports[-1]["calibrated"]
    assert 1 <= reports[0]["num_candidates"] <= 5
    assert reports[0]["forwards"] > 20  # one statement per label and proposal
    text, again = turn(client, messages[:-1], queries="open", max_turns=3)
    assert text == messages[-1]["content"]  # the messages are the state: any replica can answer
    assert again["label"] == reports[-1]["label"]


def test_direct_predicts_after_open_questions(client: OpenAI) -> None:
    messages: list[Any] = [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "Is it true that it likes to climb?"},
        {"role": "user", "content": "no"},
    ]
    _, report = turn(client, messages, queries="open", predictor="direct", max_candidates=2)
    assert (report["predictor"], report["queries"], report["calibrated"]) == (
        "direct",
        "open",
        False,
    )
    assert report["num_candidates"] <= 2
    with pytest.raises(BadRequestError) as caught:
        turn(client, messages)
    assert caught.value.param == "messages.1"


def test_a_game_in_the_terminal(server: Server) -> None:
    command = entrostat("ask", "animals", "--turns", "3", "--url", f"{server.url}/v1")
    typed = "yes\nkeine Ahnung\nnot at all\n"
    result = subprocess.run(command, input=typed, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("understood:") == 3
    assert "I think it is:" in result.stdout
