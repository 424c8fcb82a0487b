"""Hidden states of questions after the final norm at the last prompt token."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

_BATCH_TOKENS = 2048


def hidden_states(
    checkpoint: Path, questions: Sequence[str], advance: Callable[[int], None]
) -> tuple[Tensor, Tensor]:
    """Run every question once through the model, in the chat template and nothing else.

    Args:
        checkpoint: Folder of the model.
        questions: One user message each.
        advance: Told how many more are done.

    Returns:
        States after the final norm, float32, shape (questions, hidden), and the number of tokens of
        each prompt, int64, shape (questions,).
    """
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).eval()
    prompts = chat_prompts(tokenizer, questions)
    lengths = torch.tensor([len(prompt) for prompt in prompts])
    states = torch.empty(len(prompts), model.config.hidden_size)
    for batch in _batches(lengths):
        states[batch] = last_states(model, [prompts[index] for index in batch.tolist()]).float()
        advance(len(batch))
    return states, lengths


def chat_prompts(tokenizer: Any, questions: Sequence[str]) -> list[list[int]]:
    """Tokens of each question as a user message, in the chat template."""
    return [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": question}],
            add_generation_prompt=True,
            return_dict=True,
        )["input_ids"]
        for question in questions
    ]


@torch.inference_mode()
def last_states(model: Any, prompts: Sequence[Sequence[int]]) -> Tensor:
    """States after the final norm at the last token of each prompt, shape (prompts, hidden)."""
    lengths = torch.tensor([len(prompt) for prompt in prompts])
    tokens = torch.zeros(len(prompts), int(lengths.max()), dtype=torch.long)
    for row, prompt in enumerate(prompts):
        tokens[row, : len(prompt)] = torch.tensor(prompt)
    # Padding on the right: no token of a causal model sees what comes after it.
    hidden: Tensor = model.base_model(input_ids=tokens, use_cache=False).last_hidden_state
    return hidden[torch.arange(len(prompts)), lengths - 1]


def _batches(lengths: Tensor) -> Iterator[Tensor]:
    """Batches of questions of similar length with a bounded number of tokens."""
    order = lengths.argsort(stable=True)
    start = 0
    while start < len(order):
        stop = start + 1
        while stop < len(order) and (stop + 1 - start) * lengths[order[stop]] <= _BATCH_TOKENS:
            stop += 1
        yield order[start:stop]
        start = stop
