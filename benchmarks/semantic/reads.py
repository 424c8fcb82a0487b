"""What a served model says of pairs of answers, read once and kept in a file."""

import asyncio
import json
import math
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from openai import AsyncOpenAI

from probes.difficulty.strategies import append_text
from probes.selective.pairs import REPLIES, DirectedAnswer, pair_question
from probes.selective.scores import Cluster


class OutOfTimeError(Exception):
    """A pair is not in the file, and there is no model or no time to ask."""


class PairRead(NamedTuple):
    """One reply."""

    said: DirectedAnswer
    prompt_tokens: int


Ask = Callable[[str], Awaitable[PairRead]]


class PairReads:
    """Reads pairs with the prompts of the server's control `semantic`."""

    def __init__(self, path: Path, ask: Ask | None, minutes: float, concurrency: int) -> None:
        """Load what was read before.

        Args:
            path: JSON lines, appended to.
            ask: Puts a user message to the model; None reads the file only.
            minutes: After them nothing is asked.
            concurrency: Requests under way.
        """
        self._path, self._deadline = path, time.monotonic() + 60 * minutes
        self._ask = ask
        self._places = asyncio.Semaphore(concurrency)
        self._found: dict[tuple[str, ...], PairRead] = {}
        for line in path.read_text("utf-8").splitlines() if path.exists() else ():
            *key, yes, no, tokens = json.loads(line)
            self._found[tuple(key)] = PairRead(DirectedAnswer(yes, no), tokens)

    async def read(self, how: Cluster, question: str, first: str, second: str) -> PairRead:
        """What the model says of two answers to a question, in this order.

        Raises:
            OutOfTimeError: It is not known and cannot be asked.
        """
        key = (how, question, first, second)
        if key not in self._found:
            async with self._places:
                if self._ask is None or time.monotonic() > self._deadline:
                    raise OutOfTimeError
                content = append_text(question, pair_question(how, first, second))
                found = self._found[key] = await self._ask(content)
                with self._path.open("a", encoding="utf-8") as file:
                    file.write(json.dumps([*key, *found.said, found.prompt_tokens]) + "\n")
        return self._found[key]

    async def both(
        self, how: Cluster, question: str, pairs: Sequence[tuple[str, str]]
    ) -> list[tuple[PairRead, PairRead]]:
        """Both orders of every pair."""
        ordered = [one for first, second in pairs for one in ((first, second), (second, first))]
        found = await asyncio.gather(*(self.read(how, question, *one) for one in ordered))
        return list(zip(found[::2], found[1::2], strict=True))


class Server:
    """Reads replies through chat requests of one token.

    A reply outside the twenty most probable ones has the probability 0.
    """

    def __init__(self, url: str) -> None:
        """Connect at the first request.

        Args:
            url: Of the server.
        """
        self._client, self._model = AsyncOpenAI(base_url=url, api_key="none"), ""

    async def ask(self, content: str) -> PairRead:
        """Probabilities of the replies to a user message."""
        if not self._model:
            self._model = (await self._client.models.list()).data[0].id
        answer = await self._client.chat.completions.create(
            model=self._model,
            messages=[{"role": "user", "content": content}],
            max_tokens=1,
            temperature=0,
            logprobs=True,
            top_logprobs=20,
        )
        logprobs, usage = answer.choices[0].logprobs, answer.usage
        assert logprobs is not None
        assert logprobs.content
        assert usage is not None
        said = {one.token: math.exp(one.logprob) for one in logprobs.content[0].top_logprobs}
        yes, no = (said.get(reply, 0.0) for reply in REPLIES)
        return PairRead(DirectedAnswer(yes, no), usage.prompt_tokens)
