"""How surely a model that is asked for the label names the true one, read through a server."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from typing import Any

import openai
import torch
from torch import Tensor

from probes.inquiry_prompts import label_prompt
from probes.inquiry_task import Task
from training.errors import TrainingError
from training.inquiry_games import Histories
from training.statements import connected, tokens


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
        TrainingError: Labels begin with the same token, or a server does not answer.
    """
    free = asyncio.Semaphore(16 * len(urls))
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(connected(url)) for url in urls]
        labels = [(await tokens(clients[0], " " + name, start=False))[0] for name in task.names]
        if len(set(labels)) < len(labels):
            raise TrainingError("labels begin with the same token of this model: rename them")

        async def score(at: int, one: Histories, sample: int) -> float:
            true = labels[int(one.labels[sample])]
            pairs = [(task.questions[question], said) for question, said in one.pairs(sample)]
            body = {
                "model": model,
                "query": label_prompt(task, pairs),
                "items": [[]],
                "label_token_ids": [true, *(label for label in labels if label != true)],
            }
            async with free:
                client = clients[at % len(clients)]
                url = str(client.base_url.join("../generative_scoring"))
                answer: Any = await client.post(url, body=body, cast_to=object)
            advance(1)
            return -float(answer["data"][0]["score"])

        try:
            rows = [
                await asyncio.gather(*(score(at, one, sample) for sample in range(len(one.labels))))
                for at, one in enumerate(histories)
            ]
        except openai.APIError as error:
            raise TrainingError(f"asking for labels failed: {error.message}") from error
    return torch.tensor(rows, dtype=torch.float64)
