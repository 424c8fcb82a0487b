from collections.abc import AsyncGenerator
from types import SimpleNamespace
from typing import Any

import pytest

from server.inquiry.engine_reads import Memory, Reads


class Engine:
    """Says of each next token how far it is from the prompt's last."""

    model_config = SimpleNamespace(max_model_len=8)
    renderer = SimpleNamespace(get_tokenizer=lambda: None)

    def __init__(self) -> None:
        self.prompts: list[list[int]] = []

    async def generate(
        self, prompt: Any, params: Any, request_id: str, **_: Any
    ) -> AsyncGenerator[Any, None]:
        ids = prompt["prompt_token_ids"]
        self.prompts.append(ids)
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
        """Each token of a prompt has minus its own number; what is sampled is the seed."""
        rows = [None, *({token: SimpleNamespace(logprob=-1.0 * token)} for token in ids[1:])]
        text = SimpleNamespace(text=str(params.seed), token_ids=[1, 2, 3], finish_reason="stop")
        return SimpleNamespace(outputs=[text], prompt_logprobs=rows, num_cached_tokens=0)


async def test_only_the_tokens_of_a_continuation_count_and_they_are_read_once() -> None:
    engine = Engine()
    reads = Reads(engine, "r", Memory())
    assert await reads.continuations([([1, 2], [3, 4]), ([1], [2])]) == [-7.0, -2.0]
    assert reads.forwards == 2
    assert await reads.continuations([([1], [2]), ([1, 2], [3])]) == [-2.0, -3.0]
    assert engine.prompts == [[1, 2, 3, 4], [1, 2], [1, 2, 3]]
    assert await reads.logprobs([[1]], [2]) == [[-1.0]]  # another reading of the same tokens


async def test_a_sample_counts_each_of_its_tokens_as_a_forward() -> None:
    reads = Reads(Engine(), "r", Memory())
    with pytest.raises(ValueError, match="a prompt has 1 tokens"):
        await reads.sample([1], {"type": "object"}, 0.7, 5)
    reads._engine.model_config = SimpleNamespace(max_model_len=1000)
    assert await reads.sample([1], {"type": "object"}, 0.7, 5) == "5"
    assert (reads.forwards, reads.prompt_tokens) == (3, 1)


async def test_rows_come_back_in_the_order_of_prompts_and_tokens() -> None:
    reads = Reads(Engine(), "r", Memory())
    assert await reads.logprobs([[1, 5], [7]], [5, 7]) == [[0, -2], [-2, 0]]
    assert (reads.forwards, reads.prompt_tokens, reads.cached_tokens) == (2, 3, 2)


async def test_what_was_read_is_not_read_again() -> None:
    engine, memory = Engine(), Memory()
    first = await Reads(engine, "a", memory).logprobs([[1], [2], [1]], [5])
    later = Reads(engine, "b", memory)
    assert await later.logprobs([[2], [1], [3]], [5]) == [first[1], first[0], [-2]]
    assert engine.prompts == [[1], [2], [3]]
    assert later.forwards == 1


async def test_other_tokens_of_the_same_prompt_are_another_reading() -> None:
    reads = Reads(Engine(), "r", Memory())
    await reads.logprobs([[1]], [5])
    assert await reads.logprobs([[1]], [6]) == [[-5]]


async def test_a_prompt_that_is_too_long_is_an_error_before_the_engine_is_asked() -> None:
    engine = Engine()
    with pytest.raises(ValueError, match="a prompt has 8 tokens, the model takes 7"):
        await Reads(engine, "r", Memory()).logprobs([[1], [1] * 8], [5])
    assert engine.prompts == []


def test_a_full_memory_forgets_what_was_not_asked_for_longest() -> None:
    memory = Memory(2)
    keys = [Memory.key([at], [0]) for at in range(3)]
    memory.put(keys[0], [0.0])
    memory.put(keys[1], [1.0])
    memory.get(keys[0])
    memory.put(keys[2], [2.0])
    assert [memory.get(key) for key in keys] == [[0.0], None, [2.0]]
