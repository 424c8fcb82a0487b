"""What a run will cost, estimated before it starts."""

import time
from pathlib import Path

import torch

from training.common.errors import TrainingError
from training.policy.config import PolicyConfig
from training.policy.job import checkpoint_of
from training.policy.run_folder import disk_needed
from training.policy.validation import needs_logits

_PROMPT_TOKENS = 60
"""Of a short question in a chat template."""


def estimate(config: PolicyConfig) -> str:
    """Memory of one process, disk and time of a run, from the model's size and a short benchmark.

    Counted are weights, gradients and AdamW's two moments in float32, the logits where an
    objective keeps them, and 6 operations per weight and trained token, 2 per scored or generated
    one. Activations and whatever the libraries need are not: expect half as much again.
    """
    weights, vocabulary = shape_of(checkpoint_of(config))
    rollout, optimizer = config.rollout, config.optimizer
    trained = weights if config.lora is None else 0.02 * weights
    memory = 4 * weights + 12 * trained
    logits = optimizer.micro_batch * rollout.max_tokens * vocabulary * 4 * 3
    if needs_logits(config.objectives):
        memory += logits
    tokens = config.sequences * (_PROMPT_TOKENS + rollout.max_tokens)
    passes = 2 + 6 * rollout.num_iterations
    rate = operations_per_second(optimizer.precision)
    step = weights * tokens * passes / rate / (rollout.num_iterations * rollout.num_minibatches)
    lines = [
        f"weights: {weights / 1e6:.0f} million, of them trained {trained / 1e6:.1f} million",
        f"memory: about {memory / 2**30:.1f} GiB and activations",
        f"disk: about {disk_needed(config, trained) / 2**30:.1f} GiB for checkpoints",
        f"a step: about {step:.0f} s at {rate / 1e9:.0f} GFLOP/s; {optimizer.steps} steps: "
        f"{optimizer.steps * step / 60:.0f} min",
    ]
    if needs_logits(config.objectives):
        lines.append(f"of the memory, logits that an objective keeps: {logits / 2**30:.2f} GiB")
    return "\n".join(lines)


def shape_of(checkpoint: Path) -> tuple[int, int]:
    """Number of weights and size of the vocabulary of a model, whose weights are not read.

    Raises:
        TrainingError: Its architecture is not known.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        shape = AutoConfig.from_pretrained(checkpoint)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(shape)
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).splitlines()[0]
        raise TrainingError(f"{checkpoint}: no model that can be trained: {reason}") from error
    return model.num_parameters(), shape.get_text_config().vocab_size


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
