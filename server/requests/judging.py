"""Groups sampled answers by what the served model says of pairs of them."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple
from uuid import uuid4

from probes.selective.pairs import (
    REPLIES,
    DirectedAnswer,
    agree,
    group_texts,
    is_same,
    pair_question,
)
from probes.selective.scores import Cluster
from server.inquiry.engine_reads import NextToken, ReadCache, ReadError, Reads
from server.requests.calls import EngineArguments
from server.requests.difficulty import Extend


class ComparedClusters(NamedTuple):
    """Groups of samples, and what it took to find them."""

    ids: list[int]
    """Number of the group of each sample."""
    pairs: int
    """Pairs that the model was asked about."""
    agreed: int
    """Pairs of which it says the same in both orders."""
    reads: int
    """Tokens that it generated."""


async def compared_clusters(
    texts: Sequence[str], how: Cluster, arguments: EngineArguments, extend: Extend
) -> ComparedClusters:
    """Group answers as `group_texts` does; the model reads every pair in both orders.

    All pairs with one group's first answer are a batch.

    Args:
        texts: The answers.
        how: `judge` or `entailment`.
        arguments: Of the engine call that the samples replace.
        extend: Renders the conversation with a text after the question.

    Raises:
        ReadError: A pair is too long for the model, or the engine did not answer.
    """
    judge = _Judge(how, arguments, extend)
    ids = await group_texts(texts, judge.compare)
    return ComparedClusters(ids, judge.pairs, judge.agreed, judge.reads.forwards)


class _Judge:
    def __init__(self, how: Cluster, arguments: EngineArguments, extend: Extend) -> None:
        salt = arguments.prompt.get("cache_salt") if isinstance(arguments.prompt, dict) else None
        adapter = arguments.further.get("lora_request")
        name = f"{arguments.request_id}-judge-{uuid4().hex}"
        self.reads = Reads(arguments.engine, name, ReadCache(), salt, adapter)
        self.pairs = self.agreed = 0
        self._how, self._extend = how, extend
        self._labels: list[int] = []

    async def compare(self, pairs: Sequence[tuple[str, str]]) -> list[bool]:
        """Whether the two answers of each pair say the same."""
        ordered = [one for first, second in pairs for one in ((first, second), (second, first))]
        said = await self._said([await self._prompt(*one) for one in ordered])
        both = list(zip(said[::2], said[1::2], strict=True))
        self.pairs += len(both)
        self.agreed += sum(agree(*one) for one in both)
        return [is_same(self._how, *one) for one in both]

    async def _prompt(self, first: str, second: str) -> Sequence[int]:
        prompt: Any = await self._extend(pair_question(self._how, first, second))
        if prompt is None or "prompt_token_ids" not in prompt:
            raise ReadError("two answers are too long to be compared")
        found: Sequence[int] = prompt["prompt_token_ids"]
        return found

    async def _said(self, prompts: Sequence[Sequence[int]]) -> list[DirectedAnswer]:
        if not self._labels:
            self._labels = [one[0] for one in await self.reads.tokens(REPLIES, start=False)]
        if self._labels[0] == self._labels[1]:
            raise ReadError("the tokenizer does not tell Yes from No")
        rows = await self.reads.next_tokens(
            [NextToken((prompt,), self._labels) for prompt in prompts]
        )
        return [DirectedAnswer(*map(math.exp, row)) for row in rows]
