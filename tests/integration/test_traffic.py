"""Many concurrent requests, some of which disconnect early."""

import json
import socket
from http.client import parse_headers
from typing import IO, Any
from urllib.parse import urlsplit

import httpx
import pytest
from openai import OpenAI

from tests.conftest import Server
from tests.integration.support import MODEL, PROMPTS, ask, law, report, together


def test_every_trace_is_complete_under_concurrent_requests(client: OpenAI) -> None:
    controls = [None, {"trace": "tokens"}, law("dynatemp", range=0.4), law("edt")]
    jobs = [
        lambda i=i: ask(
            client,
            PROMPTS[i % 10],
            controls[i % 4],
            seed=i,
            n=1 + i % 3,
            max_tokens=8 + i % 17,
            extra_body={"return_token_ids": True},
        )
        for i in range(48)
    ]
    for index, answer in enumerate(together(jobs, workers=24)):
        for position, choice in enumerate(answer.choices):
            if index % 4 == 0:
                assert "entropy" not in choice.model_extra
            else:
                body = report(answer, position)
                assert len(body["tokens"]) == len(choice.token_ids)
                assert body["fallback"] is None


def test_disconnecting_clients_do_not_affect_the_others(server: Server, client: OpenAI) -> None:
    def leave(seed: int) -> None:
        stream = client.chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": PROMPTS[seed % 10]}],
            max_tokens=400,
            stream=True,
            extra_body={"entropy": {"trace": "tokens"}, "ignore_eos": True},
        )
        next(iter(stream))
        stream.close()

    def stay(seed: int) -> bool:
        answer = ask(client, PROMPTS[seed % 10], {"trace": "tokens"}, seed=seed, max_tokens=30)
        return bool(len(report(answer)["tokens"]) == answer.usage.completion_tokens)

    results = together(
        [*(lambda i=i: leave(i) for i in range(6)), *(lambda i=i: stay(i) for i in range(6))]
    )
    assert results[6:] == [True] * 6
    assert ask(client, "hi", {"trace": "summary"}).choices[0].entropy["fallback"] is None


def test_a_seeded_request_with_a_chunked_prompt_does_not_kill_the_engine(
    server: Server, client: OpenAI
) -> None:
    """The engine of stock vLLM on a CPU crashes here: "CPU Generator does not use offset"."""
    long = "Count. " + " ".join(str(i) for i in range(280))
    plain = [ask(client, long, seed=21, max_tokens=8) for _ in range(2)]
    assert plain[0].usage.prompt_tokens > 512
    assert plain[0].choices[0].message.content == plain[1].choices[0].message.content
    short = [lambda i=i: ask(client, PROMPTS[i], seed=i, max_tokens=8) for i in range(6)]
    crowd = together([*short, lambda: ask(client, long + " 281", seed=21, max_tokens=8)])
    assert all(answer.choices[0].message.content is not None for answer in crowd)
    assert httpx.get(f"{server.url}/ready").json()["ready"]


def _choice(answers: IO[bytes]) -> dict[str, Any]:
    """The only choice of the next response on a connection."""
    assert b" 200 " in answers.readline()
    length = int(parse_headers(answers)["content-length"])
    (choice,) = json.loads(answers.read(length))["choices"]
    return dict(choice)


def test_a_pipelined_request_does_not_inherit_the_controls_of_the_previous_one(
    server: Server, client: OpenAI
) -> None:
    """A proxy may pipeline the requests of two users over one connection."""
    common = {
        "messages": [{"role": "user", "content": PROMPTS[1]}],
        "max_tokens": 16,
        "seed": 5,
    }
    hot = {"temperature": {"type": "fixed", "temperature": 1.9}}
    address = urlsplit(server.url)
    requests = b""
    for fields in ({"entropy": hot}, {}):
        body = json.dumps({"model": MODEL, **common, **fields}).encode()
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: {address.netloc}\r\n"
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        requests += head.encode() + body
    with socket.create_connection((address.hostname, address.port), timeout=60) as connection:
        connection.sendall(requests)
        answers = connection.makefile("rb")
        first, second = (_choice(answers) for _ in range(2))
    alone = ask(client, PROMPTS[1], max_tokens=16, seed=5)
    assert first["entropy"]["temperature_mean"] == pytest.approx(1.9)
    assert "entropy" not in second
    assert second["message"]["content"] == alone.choices[0].message.content
    assert first["message"]["content"] != second["message"]["content"]
