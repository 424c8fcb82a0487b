import asyncio
from collections.abc import AsyncGenerator
from types import SimpleNamespace
from typing import Any

import pytest
from vllm.exceptions import GenerationError

from server.inquiry.engine_reads import ReadCache, ReadError, Reads


class Engine:
    """Scores each next token by its distance from the prompt's last token."""

    model_config = SimpleNamespace(max_model_len=8)

    def __init__(self, error: Exception | None = None) -> None:
        self.prompts: list[list[int]] = []
        self.salts: list[str | None] = []
        self.adapters: list[Any] = []
        self.open = self.most_open = 0
        self.error = error
        self.renderer: Any = None

    async def generate(
        self, prompt: Any, params: Any, request_id: str, **options: Any
    ) -> AsyncGenerator[Any, None]:
        if self.error is not None:
            raise self.error
        ids = prompt["prompt_token_ids"]
        self.prompts.append(ids)
        self.salts.append(prompt.get("cache_salt"))
        self.adapters.append(options.get("lora_request"))
        self.open += 1
        self.most_open = max(self.open, self.most_open)
        await asyncio.sleep(0)
        self.open -= 1
        if params.prompt_logprobs is not None or params.structured_outputs is not None:
            yield self.other(ids, params)
            return
        row = {
            token: SimpleNamespace(logprob=-abs(token - ids[-1]) * 1.0)
            for token in params.logprob_token_ids
        }
        done = SimpleNamespace(logprobs=[row], finish_reason="length", token_ids=[0])
        yield SimpleNamespace(outputs=[done], prompt_token_ids=ids, num_cached_tokens=1)

    def other(self, ids: list[int], params: Any) -> Any:
        """The logprob of a prompt token is minus its id; the sampled text is the seed."""
        rows = [None, *({token: SimpleNamespace(logprob=-1.0 * token)} for token in ids[1:])]
        text = SimpleNamespace(text=str(params.seed), token_ids=[1, 2, 3], finish_reason="stop")
        return SimpleNamespace(outputs=[text], prompt_logprobs=rows, num_cached_tokens=0)


async def test_only_continuation_tokens_are_summed_and_they_are_read_once() -> None:
    engine = Engine()
    reads = Reads(engine, "r", ReadCache())
    assert await reads.continuations([([1, 2], [3, 4]), ([1], [2])]) == [-7.0, -2.0]
    assert reads.forwards == 2
    assert await reads.continuations([([1], [2]), ([1, 2], [3])]) == [-2.0, -3.0]
    assert engine.prompts == [[1, 2, 3, 4], [1, 2], [1, 2, 3]]
    assert await reads.logprobs([[1]], [2]) == [[-1.0]]  # a separate read of the same tokens


async def test_a_sample_counts_each_of_its_tokens_as_a_forward() -> None:
    engine = Engine()
    reads = Reads(engine, "r", ReadCache())
    with pytest.raises(ReadError, match="a prompt has 1 tokens"):
        await reads.sample([1], {"type": "object"}, 0.7, 5)
    engine.model_config = SimpleNamespace(max_model_len=1000)
    assert await reads.sample([1], {"type": "object"}, 0.7, 5) == "5"
    assert (reads.forwards, reads.prompt_tokens) == (3, 1)


async def test_rows_come_back_in_the_order_of_prompts_and_tokens() -> None:
    engine = Engine()
    reads = Reads(engine, "r", ReadCache())
    assert await reads.logprobs([[1, 5], [7]], [5, 7]) == [[0, -2], [-2, 0]]
    assert (reads.forwards, reads.prompt_tokens, reads.cached_tokens) == (2, 3, 2)
    assert engine.salts == [None, None]


async def test_a_cached_read_is_not_repeated() -> None:
    engine, memory = Engine(), ReadCache()
    first = await Reads(engine, "a", memory).logprobs([[1], [2], [1]], [5])
    later = Reads(engine, "b", memory)
    assert await later.logprobs([[2], [1], [3]], [5]) == [first[1], first[0], [-2]]
    assert engine.prompts == [[1], [2], [3]]
    assert later.forwards == 3  # reads of other clients are not revealed
    assert later.prompt_tokens == 3


async def test_other_next_tokens_of_the_same_prompt_are_a_separate_read() -> None:
    reads = Reads(Engine(), "r", ReadCache())
    await reads.logprobs([[1]], [5])
    assert await reads.logprobs([[1]], [6]) == [[-5]]


async def test_a_prompt_that_is_too_long_fails_before_the_engine_is_called() -> None:
    engine = Engine()
    with pytest.raises(ReadError, match="a prompt has 8 tokens, the model takes 7"):
        await Reads(engine, "r", ReadCache()).logprobs([[1], [1] * 8], [5])
    assert engine.prompts == []


async def test_an_adapter_is_read_itself_and_its_reads_are_not_those_of_the_base_model() -> None:
    engine, cache = Engine(), ReadCache()
    one, reloaded = object(), object()
    for adapter in (None, one, reloaded):
        reads = Reads(engine, "r", cache, None, adapter)
        await reads.logprobs([[1]], [5])
        await reads.continuations([([1], [2])])
    assert engine.adapters == [None] * 2 + [one] * 2 + [reloaded] * 2


async def test_reads_are_shared_only_by_requests_with_the_same_cache_salt() -> None:
    engine, cache = Engine(), ReadCache()
    for salt in (None, "mine", "yours", "mine"):
        await Reads(engine, "r", cache, salt).logprobs([[1]], [5])
    assert len(engine.prompts) == 3
    unsalted, mine, yours = engine.salts
    assert unsalted is None
    assert mine != yours
    assert "mine" not in str(mine)  # else a client could send the salt of another kind of request


async def test_a_large_batch_is_sent_to_the_engine_in_parts() -> None:
    engine = Engine()
    reads = Reads(engine, "r", ReadCache())
    prompts = [[at] for at in range(200)]
    assert await reads.logprobs(prompts, [5]) == [[-abs(5.0 - at)] for at in range(200)]
    assert await reads.continuations([([at], [1]) for at in range(200)]) == [-1.0] * 200
    assert engine.most_open <= 64


@pytest.mark.parametrize("error", [GenerationError("engine error"), ValueError("bad prompt")])
async def test_every_engine_failure_raises_read_error(error: Exception) -> None:
    reads = Reads(Engine(error), "r", ReadCache())
    with pytest.raises(ReadError):
        await reads.logprobs([[1]], [5])
    with pytest.raises(ReadError):
        await reads.continuations([([1], [2])])


def test_the_cache_is_bounded_in_bytes_and_drops_the_least_recently_used() -> None:
    cache = ReadCache(max_bytes=2_500)
    keys = [ReadCache.key(None, "next", [at], [0]) for at in range(100)]
    cache.put(keys[0], [0.0])
    for key in keys[1:]:
        assert cache.get(keys[0]) == [0.0]
        cache.put(key, [1.0])
    assert cache.num_bytes <= 2_500
    assert cache.get(keys[1]) is None
    assert cache.get(keys[99]) == [1.0]
    cache.put(keys[99], [2.0] * 1_000)
    assert cache.num_bytes <= 2_500


def test_a_cache_key_is_a_digest_of_all_inputs_of_a_read() -> None:
    keys = {
        ReadCache.key(*one)
        for one in (
            (None, "next", [1, 2], [3]),
            (None, "next", [1], [2, 3]),
            (None, "after", [1, 2], [3]),
            ("salt", "next", [1, 2], [3]),
        )
    }
    assert len(keys) == 4
    assert {len(key) for key in keys} == {len(ReadCache.key(None, "next", [0] * 10_000, [1]))}


class Renderer:
    """vLLM's renderer, reduced to a tokenizer with one token per letter."""

    async def tokenize_prompts_async(self, prompts: Any, params: Any) -> list[Any]:
        for prompt in prompts:
            if len(prompt["prompt"]) > params.max_total_tokens:
                raise ValueError("too long")
        start = [0] if params.add_special_tokens else []
        return [{"prompt_token_ids": [*start, *map(ord, one["prompt"])]} for one in prompts]


async def test_texts_are_tokenized_in_the_threads_of_the_renderer() -> None:
    engine = Engine()
    engine.renderer = Renderer()
    reads = Reads(engine, "r", ReadCache())
    assert await reads.tokens(["ab", "c"]) == [[0, 97, 98], [0, 99]]
    assert await reads.tokens(["ab"], start=False) == [[97, 98]]
    with pytest.raises(ReadError):
        await reads.tokens(["a" * 9])
