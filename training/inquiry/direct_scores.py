"""Probability that a model names the true label, read through a server."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from typing import Any

import openai
import torch
from torch import Tensor

from probes.inquiry.label_tokens import Tokens, label_sequences
from probes.inquiry.prompts import label_prompt
from probes.inquiry.pursuit import label_probabilities
from probes.inquiry.task import Task
from training.common.errors import TrainingError
from training.inquiry.simulate import Histories
from training.inquiry.statement_logprobs import connect, continuation_logprobs, tokens


async def direct_scores(
    urls: Sequence[str],
    model: str,
    task: Task,
    histories: Sequence[Histories],
    advance: Callable[[int], None],
) -> Tensor:
    """LAC scores of the true labels by the predictor `direct`, shape (lengths, samples).

    Args:
        urls: Addresses of servers.
        model: Name under which they serve it.
        task: Labels and questions.
        histories: One set for each length.
        advance: Told how many more histories are read.

    Raises:
        TrainingError: Two labels have the same tokens, or a server does not answer.
    """
    free = asyncio.Semaphore(16 * len(urls))
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(connect(url)) for url in urls]

        async def score(at: int, one: Histories, sample: int, labels: Sequence[Tokens]) -> float:
            pairs = [(task.questions[question], reply) for question, reply in one.pairs(sample)]
            prompt, true = label_prompt(task, pairs), int(one.labels[sample])
            client = clients[at % len(clients)]
            async with free:
                found = await _probability(client, model, prompt, labels, true)
            advance(1)
            return -found

        try:
            ended = [await tokens(clients[0], f" {name}.", start=False) for name in task.names]
            labels = label_sequences(ended)
            rows = [
                await asyncio.gather(
                    *(score(at, one, sample, labels) for sample in range(len(one.labels)))
                )
                for at, one in enumerate(histories)
            ]
        except openai.APIError as error:
            raise TrainingError(f"asking for labels failed: {error.message}") from error
        except ValueError as error:
            raise TrainingError(f"this model cannot be asked for a label: {error}") from error
    return torch.tensor(rows, dtype=torch.float64)


async def _probability(
    client: openai.AsyncOpenAI, model: str, prompt: str, labels: Sequence[Tokens], true: int
) -> float:
    """Probability of the true label, from first tokens where these differ."""
    if any(len(label) > 1 for label in labels):
        before = await tokens(client, prompt, start=True)
        sums = await continuation_logprobs([client], model, [(before, list(one)) for one in labels])
        return float(label_probabilities(sums)[true])
    first = [label[0] for label in labels]
    body = {
        "model": model,
        "query": prompt,
        "items": [[]],
        "label_token_ids": [first[true], *(token for token in first if token != first[true])],
    }
    url = str(client.base_url.join("../generative_scoring"))
    answer: Any = await client.post(url, body=body, cast_to=object)
    return float(answer["data"][0]["score"])
