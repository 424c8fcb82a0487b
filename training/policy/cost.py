"""Estimates memory, disk space and time of a run before it starts."""

import time
from pathlib import Path
from typing import NamedTuple

import torch

from training.common.duration import LONG, format_duration
from training.common.errors import TrainingError
from training.policy.config import PolicyConfig
from training.policy.preparation import checkpoint_of
from training.policy.run_folder import disk_needed
from training.policy.validation import needs_logits

_PROMPT_TOKENS = 60
"""Tokens of a short question in a chat template."""


class Estimate(NamedTuple):
    """Estimated cost of a run."""

    weights: int
    trained: int
    """Number of trained weights."""
    memory: float
    """Bytes of one process, excluding activations."""
    logits: float
    """Bytes of `memory` for logits that an objective keeps; 0 without such an objective."""
    disk: float
    """Largest total size of the checkpoints, bytes."""
    step_seconds: float
    """Seconds per optimizer step."""
    evaluation_seconds: float
    """Seconds of both evaluations on the held-out problems."""
    operations: float
    """Measured floating-point operations per second."""

    def seconds(self, steps: int) -> float:
        """Seconds of a run of `steps` optimizer steps, including evaluations."""
        return steps * self.step_seconds + self.evaluation_seconds


def estimate(config: PolicyConfig) -> Estimate:
    """Estimate memory, disk space and time of a run from the model size and a short benchmark.

    The estimate includes weights, gradients and AdamW's two moments in float32, logits if an
    objective keeps them, 6 operations per weight and trained token, and 2 per scored or generated
    token. It excludes activations and library overhead, which need about 50 % more memory.
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
    """Format an estimate, with a warning if the run will be long."""
    steps = config.optimizer.steps
    total = found.seconds(steps)
    lines = [
        f"weights: {found.weights / 1e6:.0f} million, {found.trained / 1e6:.1f} million of them "
        "trained",
        f"memory: about {found.memory / 2**30:.1f} GiB plus activations",
        f"disk: about {found.disk / 2**30:.1f} GiB for checkpoints",
        f"time per step: about {format_duration(found.step_seconds)} at "
        f"{found.operations / 1e9:.0f} GFLOP/s",
        f"time for {steps} steps and both evaluations: about {format_duration(total)}",
    ]
    if found.logits:
        lines.append(f"memory for logits that an objective keeps: {found.logits / 2**30:.2f} GiB")
    if total > LONG:
        lines.append(
            f"warning: about {format_duration(total)} on this machine; try --quick, fewer steps, a "
            "smaller model or a GPU first"
        )
    return "\n".join(lines)


def shape_of(checkpoint: Path) -> tuple[int, int]:
    """Number of weights and vocabulary size of a model, without reading its weights.

    Raises:
        TrainingError: The architecture is unknown.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        shape = AutoConfig.from_pretrained(checkpoint)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(shape)
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).splitlines()[0]
        raise TrainingError(f"{checkpoint}: not a trainable model: {reason}") from error
    return model.num_parameters(), shape.get_text_config().vocab_size


def operations_per_second(precision: str, size: int = 1024) -> float:
    """Measure the matrix multiplication rate of this machine for 0.25 s."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    kind = torch.bfloat16 if precision == "bfloat16" else torch.float32
    a = torch.randn(size, size, device=device, dtype=kind)
    a @ a
    begin, count = time.perf_counter(), 0
    while time.perf_counter() - begin < 0.25:
        float((a @ a)[0, 0])
        count += 1
    return count * 2 * size**3 / (time.perf_counter() - begin)
