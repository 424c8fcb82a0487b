"""Requests without controls return the same tokens as stock vLLM."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from openai import OpenAI

from tests.conftest import FLAGS, Server, run_server, runner_environment
from tests.integration.runners.engines import ENGINES
from tests.integration.support import MODEL, PROMPTS, ask, law, some, together
from tests.long import is_long

WISHES = [f"{prompt} {ending}" for prompt in PROMPTS for ending in ("", "Be brief.", "Explain.")]


@pytest.fixture(scope="module")
def stock(
    server: Server, tmp_path_factory: pytest.TempPathFactory, checkpoint: Path
) -> Iterator[Server]:
    """Stock vLLM with the same flags on the same engine."""
    flags = [*FLAGS, *ENGINES[server.runner].flags()]
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", *flags]
    command += ["--model", str(checkpoint), "--served-model-name", MODEL]
    log = tmp_path_factory.mktemp("stock") / "server.log"
    env = {"VLLM_USE_V2_MODEL_RUNNER": "0", **runner_environment(server.runner)}
    env["VLLM_PLUGINS"] = ""
    with run_server(command, log, ready="/health", env=env) as running:
        yield running


def tokens(client: OpenAI, index: int, **options: Any) -> list[int]:
    answer = ask(client, WISHES[index], extra_body={"return_token_ids": True}, **options)
    ids: list[int] = answer.choices[0].token_ids
    return ids


@pytest.mark.both_runners
@pytest.mark.parametrize(
    "options", [{"temperature": 0}, {"seed": 17, "top_p": 0.95}], ids=["greedy", "seeded"]
)
def test_uncontrolled_requests_equal_stock_vllm(
    stock: Server, server: Server, options: dict[str, Any]
) -> None:
    wishes, client = some(server, WISHES if is_long() else WISHES[:12], 6), server.client

    def in_sixes(of: OpenAI) -> list[list[int]]:
        # Few enough that no prompt is chunked: stock vLLM crashes on chunks with a seed.
        found: list[list[int]] = []
        for start in range(0, len(wishes), 6):
            found += together(
                [lambda i=i: tokens(of, i, **options) for i in range(start, start + 6)]
            )
        return found

    expected = in_sixes(stock.client)
    assert len(expected) == len(wishes)
    assert in_sixes(client) == expected

    # Repeat, with each request in one batch with controlled ones.
    def controlled(index: int) -> None:
        control = [law("dynatemp", range=0.5), law("entropy_target", entropy_target=0.8)][index % 2]
        ask(client, PROMPTS[index % 10], control, max_tokens=30, extra_body={"ignore_eos": True})

    crowded: list[list[int]] = []
    for start in range(0, len(wishes), 6):
        indices = range(start, start + 6)
        jobs = [lambda i=i: controlled(i) for i in indices]
        jobs += [lambda i=i: tokens(client, i, **options) for i in indices]  # type: ignore[misc]
        crowded += together(jobs)[6:]
    assert crowded == expected
