"""Prepares the inputs of a run and performs all checks that need no loaded model."""

import os
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from training.common.errors import TrainingError
from training.common.job import default_checkpoint, load_tokenizer, model_identity
from training.datasets.loaders import HUB, load_problems
from training.datasets.problem import Problem
from training.policy.config import PolicyConfig
from training.policy.run_folder import last_checkpoint, refuse_another_run, refuse_damaged
from training.policy.versions import TRL_VLLM, installed_vllm, is_supported_by_trl


class Questions(NamedTuple):
    """The problems of a run."""

    train: list[Problem]
    held_out: list[Problem]


def split_problems(config: PolicyConfig) -> Questions:
    """Split the problems into disjoint training and held-out sets.

    For data sets of the hub, training problems come from the training split and held-out problems
    from the test split.

    Raises:
        TrainingError: There are too few problems.
    """
    task = config.task
    number, seed, grader = task.num_problems, config.seed, task.grader
    if HUB.keys() & set(task.tasks):  # the test split of a public data set is never trained on
        train = load_problems(task.tasks, number - task.held_out, seed, grader, split="train")
        held = load_problems(task.tasks, task.held_out, seed, grader)
    else:
        problems = load_problems(task.tasks, number, seed, grader)
        held, train = problems[: task.held_out], problems[task.held_out :]
    asked = {problem.prompt for problem in held}
    train = [problem for problem in train if problem.prompt not in asked]
    if len(train) < config.rollout.prompts_per_step:
        raise TrainingError(
            f"task: {len(train)} of {number} requested problems are left for training after the "
            f"held-out split, fewer than prompts_per_step = {config.rollout.prompts_per_step}"
        )
    return Questions(train, held)


def conversation(problem: Problem, config: PolicyConfig) -> list[dict[str, str]]:
    """The prompt messages of a problem."""
    task = config.task
    question = f"{problem.prompt} {task.instruction}".strip()
    system = [] if task.system is None else [{"role": "system", "content": task.system}]
    return [*system, {"role": "user", "content": question}]


def checkpoint_of(config: PolicyConfig) -> Path:
    """Folder of the model to train.

    Raises:
        TrainingError: The folder is not a checkpoint.
    """
    if config.model is None:
        return default_checkpoint()
    folder = Path(config.model)
    model_identity(folder)
    return folder


class Prepared(NamedTuple):
    """Checked inputs of a run."""

    questions: Questions
    checkpoint: Path


def prepare(config: PolicyConfig, *, fresh: bool = False) -> Prepared:
    """Run all checks that need no loaded model, for runs and dry runs; writes nothing.

    Args:
        config: Configuration of the run.
        fresh: Whether the existing run in the folder will be discarded.

    Raises:
        TrainingError: A check failed.
    """
    if config.tracking != "none" and find_spec(config.tracking) is None:
        raise TrainingError(f"tracking: run `pip install {config.tracking}` first")
    refuse_vllm_version(config)
    accumulation_steps(config)
    prepared = Prepared(split_problems(config), checkpoint_of(config))
    load_tokenizer(prepared.checkpoint)
    refuse_another_run(config, fresh=fresh)
    if not fresh and (resume := last_checkpoint(config.run)) is not None:
        refuse_damaged(resume)
    return prepared


def refuse_vllm_version(config: PolicyConfig) -> None:
    """Refuse TRL's vLLM backends if the installed vLLM is not supported by TRL.

    Raises:
        TrainingError: The installed version is outside the supported range, or vLLM is missing.
    """
    if not config.rollout.backend.startswith("vllm"):
        return
    if not is_supported_by_trl():
        span = " to ".join(".".join(map(str, version)) for version in TRL_VLLM)
        found = installed_vllm() or "none"
        raise TrainingError(
            f"rollout.backend: TRL 1.16 supports vLLM {span}, and {found} is installed: "
            'install a supported version, or use backend = "entrostat" or "transformers", which do '
            "not use TRL's vLLM code"
        )


def accumulation_steps(config: PolicyConfig) -> int:
    """Forward passes of each process per optimizer step.

    Raises:
        TrainingError: The completions cannot be divided into equal micro-batches.
    """
    rollout, batch = config.rollout, config.optimizer.micro_batch
    batch *= int(os.environ.get("WORLD_SIZE", "1"))
    sequences = config.sequences // rollout.num_minibatches
    if sequences % batch or config.sequences % rollout.num_minibatches:
        raise TrainingError(
            f"optimizer.micro_batch: {config.sequences} sequences in {rollout.num_minibatches} "
            f"minibatches cannot be divided into micro-batches of {batch}"
        )
    return sequences // batch
