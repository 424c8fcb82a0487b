"""Batched, cached log-probability reads from the served model, counted for the report."""

import asyncio
import hashlib
from array import array
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any, NamedTuple, TypeVar

from vllm.entrypoints.generate.label_reads import next_token_label_reads
from vllm.exceptions import GenerationError, VLLMClientError
from vllm.inputs import TextPrompt, tokens_input
from vllm.renderers import TokenizeParams
from vllm.sampling_params import SamplingParams, StructuredOutputsParams

from server.served_model import cache_block_size
from server.tracing import NO_SPAN

T = TypeVar("T")

MAX_SAMPLE = 160
"""Maximum number of tokens of a sampled text."""
MAX_CHOICES = 128
"""Maximum number of tokens of one read; vLLM's limit."""
BATCH = 64
"""Requests in flight per inquiry, so that one does not fill the queue or the event loop."""
_ROW_BYTES = 200
"""Approximate overhead of one cache entry."""


_REFUSALS = (ValueError, VLLMClientError)
"""What vLLM raises for a prompt or parameters that it does not take."""


class NextToken(NamedTuple):
    """Reads the log-probabilities of some tokens after a prompt."""

    prompt: tuple[Sequence[int], ...]
    """Parts of the prompt, token ids; requests share their common parts."""
    choices: Sequence[int]
    """Token ids, at most `MAX_CHOICES`, all distinct."""


class ReadError(ValueError):
    """A read failed: the prompt is too long, or the engine did not answer."""


class ReadCache:
    """LRU cache of reads: each turn of a game repeats the reads of earlier turns."""

    def __init__(self, max_bytes: int = 64 << 20) -> None:
        """Create an empty cache.

        Args:
            max_bytes: Size above which the least recently used reads are dropped.
        """
        self._max_bytes = max_bytes
        self._rows: OrderedDict[bytes, array[float]] = OrderedDict()
        self.num_bytes = 0

    @staticmethod
    def key(salt: str | None, kind: str, *tokens: Sequence[int]) -> bytes:
        """Digest of a read; requests with different cache salts share no entries."""
        digest = hashlib.blake2b(digest_size=24)
        text = [kind.encode(), (salt or "").encode()]
        for part in (*text, *(array("I", one).tobytes() for one in tokens)):
            digest.update(len(part).to_bytes(8, "little") + part)
        return digest.digest()

    def get(self, key: bytes) -> list[float] | None:
        """A cached read; None if it is not in the cache."""
        if key not in self._rows:
            return None
        self._rows.move_to_end(key)
        return self._rows[key].tolist()

    def clear(self) -> None:
        """Drop all reads: they are those of other weights."""
        self._rows.clear()
        self.num_bytes = 0

    def put(self, key: bytes, row: Sequence[float]) -> None:
        """Add a read; drop the least recently used ones if the cache is full."""
        if key in self._rows:
            self.num_bytes -= _size(self._rows.pop(key))
        self._rows[key] = array("d", row)
        self.num_bytes += _size(self._rows[key])
        while self.num_bytes > self._max_bytes:
            self.num_bytes -= _size(self._rows.popitem(last=False)[1])


def _size(row: "array[float]") -> int:
    return len(row) * row.itemsize + _ROW_BYTES


def engine_salt(cache_salt: str | None) -> str | None:
    """The prefix-cache salt of an inquiry's prompts, distinct from that of any other request.

    Clients choose `cache_salt` freely: without domain separation, these prompts could reuse the
    KV blocks of a steered request.
    """
    if cache_salt is None:
        return None
    salt = cache_salt.encode(errors="surrogatepass")
    return hashlib.blake2b(salt, digest_size=24, person=b"entrostat-inq").hexdigest()


class Reads:
    """Engine reads of one turn.

    `forwards` and `prompt_tokens` count cached reads too, so that they reveal nothing about the
    requests of other clients.
    """

    def __init__(
        self,
        engine: Any,
        request_id: str,
        cache: ReadCache,
        cache_salt: str | None = None,
        adapter: Any = None,
    ) -> None:
        """Create a reader without sending a request.

        Args:
            engine: vLLM's engine client.
            request_id: Id of the HTTP request.
            cache: Read cache of this server.
            cache_salt: Salt of the HTTP request; only requests with the same salt share reads.
            adapter: vLLM's LoRA request; its reads are not cached, because an adapter can be
                replaced under its name.
        """
        self._cache = cache if adapter is None else ReadCache()
        self._adapter = adapter
        self._engine = engine
        self._request_id = request_id
        self._salt = engine_salt(cache_salt)
        self.span = NO_SPAN
        """Parent of the spans of the engine requests."""
        self._requests = 0
        self._counted: set[bytes] = set()
        self.forwards = 0
        self.prompt_tokens = 0
        self.cached_tokens = 0

    @property
    def block_size(self) -> int:
        """Tokens of a block of the prefix cache; 0 if it is switched off."""
        return cache_block_size(self._engine.vllm_config)

    @property
    def max_tokens(self) -> int:
        """Length of the model's context."""
        return int(self._engine.model_config.max_model_len)

    async def tokens(self, texts: Sequence[str], *, start: bool = True) -> list[list[int]]:
        """Tokenize texts in vLLM's tokenizer threads.

        Args:
            texts: Prompts, or their continuations.
            start: Whether each text starts a prompt and may get special tokens.

        Raises:
            ReadError: A text is too long for the model; checked before tokenization.
        """
        params = TokenizeParams(
            max_total_tokens=self._engine.model_config.max_model_len, add_special_tokens=start
        )
        found: list[list[int]] = []
        for batch in _batches([TextPrompt(prompt=text) for text in texts]):
            try:
                prompts = await self._engine.renderer.tokenize_prompts_async(batch, params)
            except _REFUSALS as error:
                raise ReadError(str(error.args[0])) from error
            found += [prompt["prompt_token_ids"] for prompt in prompts]
        return found

    async def logprobs(
        self, prompts: Sequence[Sequence[int]], choices: Sequence[int]
    ) -> list[list[float]]:
        """Log-probabilities of the given next tokens after each prompt, in nats.

        Args:
            prompts: Token ids.
            choices: Token ids, at most 128, all distinct.

        Raises:
            ReadError: A prompt is too long for the model, or the engine failed.
        """
        return await self.next_tokens([NextToken((prompt,), choices) for prompt in prompts])

    async def next_tokens(self, wanted: Sequence[NextToken]) -> list[list[float]]:
        """Log-probabilities of each read's tokens, in nats; one batch at a time.

        Raises:
            ReadError: A prompt is too long for the model, or the engine failed.
        """
        self._refuse_long([sum(map(len, one.prompt)) for one in wanted], 1)
        rows: list[list[float]] = []
        for batch in _batches(wanted):
            # In a thread: joining and hashing long prompts would block the event loop.
            prompts, keys = await asyncio.to_thread(self._joined, batch)
            known, new = self._split(keys, prompts)
            choices = dict(zip(keys, (one.choices for one in batch), strict=True))
            found = await self._read(list(new.values()), [choices[key] for key in new])
            known |= self._store(new, found)
            rows += [known[key] for key in keys]
        return rows

    def _joined(self, batch: Sequence[NextToken]) -> tuple[list[Sequence[int]], list[bytes]]:
        """Prompts and cache keys of a batch."""
        prompts = [list(chain.from_iterable(one.prompt)) for one in batch]
        keys = [
            ReadCache.key(self._salt, "next", prompt, one.choices)
            for prompt, one in zip(prompts, batch, strict=True)
        ]
        return list(prompts), keys

    async def continuations(
        self, pairs: Sequence[tuple[Sequence[int], Sequence[int]]]
    ) -> list[float]:
        """Log-likelihood of the second sequence of each pair given the first, in nats.

        Args:
            pairs: Token ids of a prefix and its continuation.

        Raises:
            ReadError: A pair is too long for the model, or the engine failed.
        """
        keys = [ReadCache.key(self._salt, "after", *pair) for pair in pairs]
        whole = [[*before, *counted] for before, counted in pairs]
        self._refuse_long(map(len, whole), 1)
        known, new = self._split(keys, whole)
        lengths = dict(zip(keys, (len(before) for before, _ in pairs), strict=True))
        found: list[list[float]] = []
        for batch in _batches(list(new)):
            read = (self._continuation(new[key], lengths[key]) for key in batch)
            found += [[value] for value in await asyncio.gather(*read)]
        known |= self._store(new, found)
        return [known[key][0] for key in keys]

    async def sample(
        self, prompt: Sequence[int], schema: dict[str, object], temperature: float, seed: int
    ) -> str:
        """Sample JSON that matches a schema; reproducible by seed up to rounding.

        Raises:
            ReadError: The prompt is too long for the model, or the engine failed.
        """
        params = SamplingParams(
            temperature=temperature,
            seed=seed,
            max_tokens=MAX_SAMPLE,
            structured_outputs=StructuredOutputsParams(json=schema),
        )
        output = await self._run(prompt, params)
        completion = output.outputs[0]
        self.forwards += len(completion.token_ids)
        self.prompt_tokens += len(prompt)
        return str(completion.text)

    def _split(
        self, keys: Sequence[bytes], prompts: Sequence[Sequence[int]]
    ) -> tuple[dict[bytes, list[float]], dict[bytes, Sequence[int]]]:
        """Count each read once; return the cached results and the prompts of the others."""
        known: dict[bytes, list[float]] = {}
        new: dict[bytes, Sequence[int]] = {}
        for key, prompt in dict(zip(keys, prompts, strict=True)).items():
            if key not in self._counted:
                self._counted.add(key)
                self.forwards += 1
                self.prompt_tokens += len(prompt)
            row = self._cache.get(key)
            if row is None:
                new[key] = prompt
            else:
                known[key] = row
        return known, new

    def _store(
        self, keys: Iterable[bytes], rows: Sequence[list[float]]
    ) -> dict[bytes, list[float]]:
        found = dict(zip(keys, rows, strict=True))
        for key, row in found.items():
            self._cache.put(key, row)
        return found

    async def _continuation(self, prompt: Sequence[int], first: int) -> float:
        params = SamplingParams(temperature=0.0, max_tokens=1, prompt_logprobs=0, detokenize=False)
        output = await self._run(prompt, params)
        rows = (output.prompt_logprobs or [])[first:]
        counted = prompt[first:]
        if len(rows) != len(counted):
            raise ReadError("the engine returned no prompt log-probabilities")
        return sum(float(row[token].logprob) for row, token in zip(rows, counted, strict=True))

    async def _run(self, prompt: Sequence[int], params: SamplingParams) -> Any:
        """Run one request to completion."""
        self._refuse_long([len(prompt)], params.max_tokens or 1)
        self._requests += 1
        name = f"{self._request_id}-run{self._requests}"
        output, arguments = None, self._arguments()
        try:
            async for state in self._engine.generate(
                self._input(prompt), params, name, **arguments
            ):
                output = state
        except (*_REFUSALS, GenerationError) as error:
            raise ReadError(str(error)) from error
        if output is None or not output.outputs or output.outputs[0].finish_reason == "error":
            raise ReadError("the engine did not answer")
        self.cached_tokens += output.num_cached_tokens or 0
        return output

    async def _read(
        self, prompts: Sequence[Sequence[int]], choices: Sequence[Sequence[int]]
    ) -> list[list[float]]:
        """Read the tokens `choices[i]` after each prompt."""
        if not prompts:
            return []
        self._requests += 1
        params = [
            SamplingParams(
                temperature=0.0, max_tokens=1, logprob_token_ids=list(tokens), detokenize=False
            )
            for tokens in choices
        ]
        try:
            reads = await next_token_label_reads(
                self._engine,
                [self._input(prompt) for prompt in prompts],
                params,
                f"{self._request_id}-read{self._requests}",
                **self._arguments(),
            )
        except (*_REFUSALS, GenerationError) as error:
            raise ReadError(str(error)) from error
        self.cached_tokens += sum(read.result.num_cached_tokens or 0 for read in reads)
        return [read.logprobs for read in reads]

    def _arguments(self) -> dict[str, Any]:
        return self.span.engine_arguments({"lora_request": self._adapter})

    def _input(self, prompt: Sequence[int]) -> Any:
        return tokens_input(list(prompt), cache_salt=self._salt)

    def _refuse_long(self, lengths: Iterable[int], room: int) -> None:
        limit = self.max_tokens - room
        longest = max(lengths, default=0)
        if longest > limit:
            raise ReadError(f"a prompt has {longest} tokens, the model takes {limit}")


def _batches(items: Sequence[T]) -> list[Sequence[T]]:
    return [items[at : at + BATCH] for at in range(0, len(items), BATCH)]
