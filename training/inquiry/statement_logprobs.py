"""Log-likelihoods of statements, read through a server, for the predictor `likelihood`."""

import asyncio
import math
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from typing import Any

import openai
import torch
from torch import Tensor

from probes.inquiry.task import Task
from training.common.errors import TrainingError

_PROMPTS = 32
"""Maximum number of prompts of a request."""


async def statement_table(
    urls: Sequence[str], model: str, task: Task, advance: Callable[[int], None], concurrency: int
) -> Tensor:
    """Log-likelihood of each property of each label.

    Only the tokens of the property count: those of the label say how common its name is.

    Args:
        urls: Addresses of servers, with or without `/v1`.
        model: Name under which they serve it.
        task: Labels and properties.
        advance: Told how many more statements are read.
        concurrency: Statements under way at once.

    Returns:
        Nats, float64, shape (labels, queries).

    Raises:
        TrainingError: A server does not answer, or refuses.
    """
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(connect(url)) for url in urls]
        try:
            labels = [await tokens(clients[0], one.phrase, start=True) for one in task.labels]
            properties = [
                await tokens(clients[0], " " + query.property, start=False)
                for query in task.queries
            ]
            pairs = [(label, words) for label in labels for words in properties]
            found = await continuation_logprobs(clients, model, pairs, advance, concurrency)
        except openai.APIError as error:
            raise TrainingError(f"reading statements failed: {error.message}") from error
    return found.reshape(len(labels), len(properties))


def connect(url: str) -> openai.AsyncOpenAI:
    """A client with a long timeout, for a busy server."""
    key = os.environ.get("OPENAI_API_KEY") or "none"
    base = f"{url.rstrip('/').removesuffix('/v1')}/v1"
    return openai.AsyncOpenAI(base_url=base, api_key=key, max_retries=5, timeout=600)


async def tokens(client: openai.AsyncOpenAI, text: str, *, start: bool) -> list[int]:
    """Token ids of a text at the start of a prompt, or inside one."""
    body = {"prompt": text, "add_special_tokens": start}
    url = str(client.base_url.join("../tokenize"))
    answer: Any = await client.post(url, body=body, cast_to=object)
    ids: list[int] = answer["tokens"]
    return ids


async def continuation_logprobs(
    clients: Sequence[openai.AsyncOpenAI],
    model: str,
    pairs: Sequence[tuple[list[int], list[int]]],
    advance: Callable[[int], None] = lambda _: None,
    concurrency: int = _PROMPTS,
) -> Tensor:
    """Log-likelihood of the second tokens after the first of each pair, nats, shape (pairs,).

    Args:
        clients: Of the servers.
        model: Name under which they serve it.
        pairs: Token ids.
        advance: Told how many more pairs are read.
        concurrency: Pairs in flight at once.

    Raises:
        openai.APIError: A server does not answer, or refuses.
    """
    found = torch.empty(len(pairs), dtype=torch.float64)
    free = asyncio.Semaphore(max(1, concurrency // _PROMPTS))

    async def read(start: int) -> None:
        part = pairs[start : start + _PROMPTS]
        async with free:
            answer = await clients[start // _PROMPTS % len(clients)].completions.create(
                model=model,
                prompt=[before + counted for before, counted in part],
                max_tokens=1,
                temperature=0.0,
                extra_body={"prompt_logprobs": 0},
            )
        for choice in answer.choices:
            before, counted = part[choice.index]
            logprobs = (choice.model_extra or {}).get("prompt_logprobs") or []
            found[start + choice.index] = _sum(logprobs[len(before) :], counted)
        advance(len(part))

    try:
        async with asyncio.TaskGroup() as group:
            for start in range(0, len(pairs), _PROMPTS):
                group.create_task(read(start))
    except ExceptionGroup as failed:  # the others were cancelled because of the first
        raise failed.exceptions[0] from None
    return found


def _sum(logprobs: Sequence[Mapping[str, Any] | None], tokens: Sequence[int]) -> float:
    """Sum of the tokens' log-probabilities, nats.

    Raises:
        TrainingError: The server sent none for a token, or one that is not a number.
    """
    if len(logprobs) != len(tokens):
        raise TrainingError(
            f"the server sent log-probabilities of {len(logprobs)} tokens instead of {len(tokens)}"
        )
    return sum(_logprob(position, token) for position, token in zip(logprobs, tokens, strict=True))


def _logprob(position: Mapping[str, Any] | None, token: int) -> float:
    entry = (position or {}).get(str(token)) or {}
    value = entry.get("logprob")
    if not isinstance(value, int | float) or math.isnan(value):
        raise TrainingError(
            f"the server sent no log-probability (`{value}`) of the token {token}: the model's "
            "logits may not be finite; try --dtype float32 after `--`"
        )
    return float(value)
