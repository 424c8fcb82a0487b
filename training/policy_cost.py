"""What a run will cost, estimated before it starts."""

import json
import time

import torch

from training.policy_config import PolicyConfig
from training.policy_folder import disk_needed
from training.settings_check import needs_logits
from training.train_policy import checkpoint_of

_PROMPT_TOKENS = 60
"""Of a short question in a chat template."""


def estimate(config: PolicyConfig) -> str:
    """Memory of one process, disk and time of a run, from the model's size and a short benchmark.

    Counted are weights, gradients and AdamW's two moments in float32, the logits where an
    objective keeps them, and 6 operations per weight and trained token, 2 per scored or generated
    one. Activations and whatever the libraries need are not: expect half as much again.
    """
    shape = json.loads((checkpoint_of(config) / "config.json").read_text())
    weights, vocabulary = num_weights(shape), int(shape["vocab_size"])
    rollout, optimiser = config.rollout, config.optimiser
    trained = weights if config.lora is None else 0.02 * weights
    memory = 4 * weights + 12 * trained
    logits = optimiser.micro_batch * rollout.max_tokens * vocabulary * 4 * 3
    if needs_logits(config.objectives):
        memory += logits
    tokens = config.sequences * (_PROMPT_TOKENS + rollout.max_tokens)
    passes = 2 + 6 * rollout.num_iterations
    rate = operations_per_second(optimiser.precision)
    step = weights * tokens * passes / rate / (rollout.num_iterations * rollout.num_minibatches)
    lines = [
        f"weights: {weights / 1e6:.0f} million, of them trained {trained / 1e6:.1f} million",
        f"memory: about {memory / 2**30:.1f} GiB and activations",
        f"disk: about {disk_needed(config, trained) / 2**30:.1f} GiB for checkpoints",
        f"a step: about {step:.0f} s at {rate / 1e9:.0f} GFLOP/s; {optimiser.steps} steps: "
        f"{optimiser.steps * step / 60:.0f} min",
    ]
    if needs_logits(config.objectives):
        lines.append(f"of the memory, logits that an objective keeps: {logits / 2**30:.2f} GiB")
    return "\n".join(lines)


def num_weights(shape: dict[str, int]) -> int:
    """Weights of a decoder with gated feed-forward layers, from its config."""
    hidden, layers = shape["hidden_size"], shape["num_hidden_layers"]
    heads = shape["num_attention_heads"]
    keys = shape.get("num_key_value_heads", heads) / heads
    attention = hidden * hidden * (2 + 2 * keys)
    forward = 3 * hidden * shape["intermediate_size"]
    embeddings = hidden * shape["vocab_size"] * (1 if shape.get("tie_word_embeddings") else 2)
    return int(layers * (attention + forward) + embeddings)


def operations_per_second(precision: str, size: int = 1024) -> float:
    """What this machine's matrix multiplication does, measured for a quarter of a second."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    kind = torch.bfloat16 if precision == "bfloat16" else torch.float32
    a = torch.randn(size, size, device=device, dtype=kind)
    a @ a
    begin, count = time.perf_counter(), 0
    while time.perf_counter() - begin < 0.25:
        float((a @ a)[0, 0])
        count += 1
    return count * 2 * size**3 / (time.perf_counter() - begin)
