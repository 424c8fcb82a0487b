"""Next-token reads of the served model, many at once, counted for the report."""

from array import array
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

from vllm.entrypoints.generate.label_reads import next_token_label_reads
from vllm.inputs import tokens_input
from vllm.sampling_params import SamplingParams


class Memory:
    """What was read lately: every turn of a game repeats the readings of those before it."""

    def __init__(self, size: int = 10_000) -> None:
        self._size = size
        self._rows: OrderedDict[tuple[bytes, bytes], list[float]] = OrderedDict()

    @staticmethod
    def key(prompt: Sequence[int], choices: Sequence[int]) -> tuple[bytes, bytes]:
        """Prompt and tokens, in as few bytes as they take."""
        return array("I", prompt).tobytes(), array("I", choices).tobytes()

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

    async def _read(
        self, prompts: Sequence[Sequence[int]], choices: Sequence[int]
    ) -> list[list[float]]:
        limit = self._engine.model_config.max_model_len - 1
        if (longest := max(map(len, prompts))) > limit:
            raise ValueError(f"a prompt has {longest} tokens, the model takes {limit}")
        params = SamplingParams(
            temperature=0.0,
            max_tokens=1,
            logprobs=len(choices),
            logprob_token_ids=list(choices),
        )
        reads = await next_token_label_reads(
            self._engine,
            [tokens_input(list(prompt)) for prompt in prompts],
            [params] * len(prompts),
            f"{self._request_id}-read{self.forwards}",
        )
        self.forwards += len(reads)
        for read in reads:
            self.prompt_tokens += len(read.result.prompt_token_ids or ())
            self.cached_tokens += read.result.num_cached_tokens or 0
        return [read.logprobs for read in reads]
