"""What an inquiry asks of the served model, many at once, counted for the report."""

import asyncio
from array import array
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

from vllm.entrypoints.generate.label_reads import next_token_label_reads
from vllm.inputs import tokens_input
from vllm.sampling_params import SamplingParams, StructuredOutputsParams

_MAX_SAMPLE = 160
"""Tokens of what is sampled."""


class Memory:
    """What was read lately: every turn of a game repeats the readings of those before it."""

    def __init__(self, size: int = 10_000) -> None:
        self._size = size
        self._rows: OrderedDict[tuple[bytes, bytes], list[float]] = OrderedDict()

    @staticmethod
    def key(prompt: Sequence[int], tokens: Sequence[int], kind: bytes = b"") -> tuple[bytes, bytes]:
        """Prompt and tokens, in as few bytes as they take, and what was read of them."""
        return array("I", prompt).tobytes(), kind + array("I", tokens).tobytes()

    def get(self, key: tuple[bytes, bytes]) -> list[float] | None:
        """A reading, if it is still known."""
        if key in self._rows:
            self._rows.move_to_end(key)
        return self._rows.get(key)

    def put(self, key: tuple[bytes, bytes], row: list[float]) -> None:
        """Remember a reading; forget the one that was not asked for longest."""
        self._rows[key] = row
        if len(self._rows) > self._size:
            self._rows.popitem(last=False)


class Reads:
    """What one turn asks of the engine."""

    def __init__(self, engine: Any, request_id: str, memory: Memory) -> None:
        """Ask nothing yet.

        Args:
            engine: vLLM's engine client.
            request_id: Of the HTTP request.
            memory: Of this server.
        """
        self._memory = memory
        self._engine = engine
        self._tokenizer = engine.renderer.get_tokenizer()
        self._request_id = request_id
        self._requests = 0
        self.forwards = 0
        self.prompt_tokens = 0
        self.cached_tokens = 0

    def tokens(self, text: str) -> list[int]:
        """Token ids of a prompt."""
        ids: list[int] = self._tokenizer.encode(text)
        return ids

    def tokens_after(self, text: str) -> list[int]:
        """Token ids of a text that continues a prompt."""
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False)
        return ids

    async def logprobs(
        self, prompts: Sequence[Sequence[int]], choices: Sequence[int]
    ) -> list[list[float]]:
        """Log-probability of some next tokens after each prompt, in nats.

        Args:
            prompts: Token ids.
            choices: The tokens, at most 128 and all different.

        Raises:
            ValueError: A prompt is too long for the model, or the engine failed.
        """
        keys = [Memory.key(prompt, choices) for prompt in prompts]
        known = {key: row for key in keys if (row := self._memory.get(key)) is not None}
        new = {key: prompt for key, prompt in zip(keys, prompts, strict=True) if key not in known}
        if new:
            rows = await self._read(list(new.values()), choices)
            for key, row in zip(new, rows, strict=True):
                known[key] = row
                self._memory.put(key, row)
        return [known[key] for key in keys]

    async def continuations(
        self, pairs: Sequence[tuple[Sequence[int], Sequence[int]]]
    ) -> list[float]:
        """Log-likelihood of the second tokens of each pair after the first, in nats.

        Args:
            pairs: Token ids.

        Raises:
            ValueError: A pair is too long for the model, or the engine failed.
        """
        keys = [Memory.key(before, counted, b"after") for before, counted in pairs]
        known = {key: row[0] for key in keys if (row := self._memory.get(key)) is not None}
        new = {key: pair for key, pair in zip(keys, pairs, strict=True) if key not in known}
        found = await asyncio.gather(*(self._continuation(*pair) for pair in new.values()))
        for key, value in zip(new, found, strict=True):
            known[key] = value
            self._memory.put(key, [value])
        return [known[key] for key in keys]

    async def _continuation(self, before: Sequence[int], counted: Sequence[int]) -> float:
        params = SamplingParams(temperature=0.0, max_tokens=1, prompt_logprobs=0, detokenize=False)
        output = await self._run([*before, *counted], params)
        rows = (output.prompt_logprobs or [])[len(before) :]
        if len(rows) != len(counted):
            raise ValueError("the engine returned no log-probabilities of a prompt")
        return sum(float(row[token].logprob) for row, token in zip(rows, counted, strict=True))

    async def sample(
        self, prompt: Sequence[int], schema: dict[str, object], temperature: float, seed: int
    ) -> str:
        """Sample JSON that fits a schema; the same seed gives the same, but for rounding.

        Raises:
            ValueError: The prompt is too long for the model, or the engine failed.
        """
        params = SamplingParams(
            temperature=temperature,
            seed=seed,
            max_tokens=_MAX_SAMPLE,
            structured_outputs=StructuredOutputsParams(json=schema),
        )
        output = await self._run(prompt, params)
        completion = output.outputs[0]
        self.forwards += len(completion.token_ids) - 1
        return str(completion.text)

    async def _run(self, prompt: Sequence[int], params: SamplingParams) -> Any:
        """One request to its end."""
        self._refuse_long([prompt], params.max_tokens or 1)
        self._requests += 1
        output = None
        async for state in self._engine.generate(
            tokens_input(list(prompt)), params, f"{self._request_id}-run{self._requests}"
        ):
            output = state
        if output is None or not output.outputs or output.outputs[0].finish_reason == "error":
            raise ValueError("the engine did not answer")
        self.forwards += 1
        self.prompt_tokens += len(prompt)
        self.cached_tokens += output.num_cached_tokens or 0
        return output

    def _refuse_long(self, prompts: Sequence[Sequence[int]], room: int) -> None:
        limit = self._engine.model_config.max_model_len - room
        if (longest := max(map(len, prompts))) > limit:
            raise ValueError(f"a prompt has {longest} tokens, the model takes {limit}")

    async def _read(
        self, prompts: Sequence[Sequence[int]], choices: Sequence[int]
    ) -> list[list[float]]:
        self._refuse_long(prompts, 1)
        self._requests += 1
        params = SamplingParams(
            temperature=0.0,
            max_tokens=1,
            logprobs=len(choices),
            logprob_token_ids=list(choices),
            detokenize=False,
        )
        reads = await next_token_label_reads(
            self._engine,
            [tokens_input(list(prompt)) for prompt in prompts],
            [params] * len(prompts),
            f"{self._request_id}-read{self._requests}",
        )
        self.forwards += len(reads)
        for read in reads:
            self.prompt_tokens += len(read.result.prompt_token_ids or ())
            self.cached_tokens += read.result.num_cached_tokens or 0
        return [read.logprobs for read in reads]
