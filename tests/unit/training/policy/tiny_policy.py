"""A model that trains in milliseconds, and trainers for it."""

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from trl import GRPOConfig

VOCABULARY = 96
PROMPTS = ["one", "two", "three three", "four", "five", "six six", "seven", "eight"]


@lru_cache(maxsize=1)
def tokenizer() -> PreTrainedTokenizerFast:
    """One token per character, so that the tokenizer needs no training."""
    letters = [chr(code) for code in range(33, 33 + VOCABULARY - 3)]
    vocabulary = {text: i for i, text in enumerate(["<pad>", "<eos>", "Ġ", *letters])}
    plain = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    plain.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    plain.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=plain, pad_token="<pad>", eos_token="<eos>", padding_side="left"
    )


def model(seed: int = 0, scale: float = 8.0) -> LlamaForCausalLM:
    """Random weights; `scale` multiplies the head, so that the distributions are not flat."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        vocab_size=VOCABULARY,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=1,
        tie_word_embeddings=False,
    )
    made = LlamaForCausalLM(config)
    with torch.no_grad():
        made.lm_head.weight.mul_(scale)
    return made


def save(folder: Path) -> None:
    """Save the model and its tokenizer as a checkpoint with a chat template."""
    model().save_pretrained(folder)
    chatty = tokenizer()
    chatty.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    chatty.save_pretrained(folder)


def dataset() -> Dataset:
    """Prompts of different lengths."""
    return Dataset.from_list([{"prompt": text, "answer": "e"} for text in PROMPTS])


def has_e(row: Mapping[str, Any], text: str) -> bool:
    """The grader: whether the answer contains a letter of the lower half."""
    return any(letter in text for letter in "abcdefghijklm")


def reward(completions: list[str], **columns: Any) -> list[float]:
    """Graded reward with different values for the answers of a group."""
    return [float(has_e({}, text)) + 0.01 * len(set(text)) for text in completions]


def settings(folder: Path, **changes: Any) -> GRPOConfig:
    """TRL's settings: two groups of four in two micro-batches."""
    return GRPOConfig(
        **{
            "output_dir": str(folder),
            "per_device_train_batch_size": 4,
            "gradient_accumulation_steps": 2,
            "num_generations": 4,
            "max_completion_length": 8,
            "max_steps": 2,
            "learning_rate": 1e-2,
            "lr_scheduler_type": "constant",
            "logging_steps": 1,
            "save_strategy": "no",
            "report_to": "none",
            "use_cpu": True,
            "bf16": False,
            "gradient_checkpointing": False,
            "disable_tqdm": True,
            "dataloader_pin_memory": False,
            "seed": 7,
            **changes,
        }
    )
