"""What a run will cost, estimated before it starts."""

import time
from pathlib import Path
from typing import NamedTuple

import torch

from training.common.errors import TrainingError
from training.policy.config import PolicyConfig
from training.policy.duration import LONG, in_words
from training.policy.preparation import checkpoint_of
from training.policy.run_folder import disk_needed
from training.policy.validation import needs_logits

_PROMPT_TOKENS = 60
"""Of a short question in a chat template."""


class Estimate(NamedTuple):
    """What a run will take."""

    weights: int
    trained: int
    """Weights that are trained."""
    memory: float
    """Bytes of one process, without activations."""
    logits: float
    """Bytes of that for logits that an objective keeps; 0 if none does."""
    disk: float
    """Bytes of checkpoints at once."""
    step_seconds: float
    """Of an optimizer step."""
    evaluation_seconds: float
    """Of both measurements on the held-out problems."""
    operations: float
    """Floating-point operations per second that were measured."""

    def seconds(self, steps: int) -> float:
        """Of a run of so many optimizer steps, measurements included."""
        return steps * self.step_seconds + self.evaluation_seconds


def estimate(config: PolicyConfig) -> Estimate:
    """Memory of one process, disk and time of a run, from the model's size and a short benchmark.

    Counted are weights, gradients and AdamW's two moments in float32, the logits where an
    objective keeps them, and 6 operations per weight and trained token, 2 per scored or generated
    one. Activations and whatever the libraries need are not: expect half as much again.
    """
    weights, vocabulary = shape_of(checkpoint_of(config))
    rollout, optimizer = config.rollout, config.optimizer
    trained = weights if config.lora is None else int(0.02 * weights)
    logits = 0.0
    if needs_logits(config.objectives):
        logits = optimizer.micro_batch * rollout.max_tokens * vocabulary * 4 * 3
    length = _PROMPT_TOKENS + rollout.max_tokens
    passes = 2 + 6 * rollout.num_iterations
    rate = operations_per_second(optimizer.precision)
    rollouts = weights * config.sequences * length * passes / rate
    answers = 2 * config.task.held_out * config.evaluation.samples
    return Estimate(
        weights=weights,
        trained=trained,
        memory=4 * weights + 12 * trained + logits,
        logits=logits,
        disk=disk_needed(config, trained),
        step_seconds=rollouts / (rollout.num_iterations * rollout.num_minibatches),
        evaluation_seconds=2 * weights * answers * length / rate,
        operations=rate,
    )


def describe(found: Estimate, config: PolicyConfig) -> str:
    """An estimate in words, with a warning if the run will be long."""
    steps = config.optimizer.steps
    total = found.seconds(steps)
    lines = [
        f"weights: {found.weights / 1e6:.0f} million, of them trained {found.trained / 1e6:.1f} "
        "million",
        f"memory: about {found.memory / 2**30:.1f} GiB and activations",
        f"disk: about {found.disk / 2**30:.1f} GiB for checkpoints",
        f"a step: about {in_words(found.step_seconds)} at {found.operations / 1e9:.0f} GFLOP/s",
        f"{steps} steps and both measurements: about {in_words(total)}",
    ]
    if found.logits:
        lines.append(
            f"of the memory, logits that an objective keeps: {found.logits / 2**30:.2f} GiB"
        )
    if total > LONG:
        lines.append(
            f"warning: about {in_words(total)} on this machine; try --quick, fewer steps, a "
            "smaller model or a GPU first"
        )
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
