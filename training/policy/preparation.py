"""What a run needs before it starts, and every check that needs no model."""

import os
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from training.common.errors import TrainingError
from training.common.job import default_checkpoint, identify, load_tokenizer
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
    """Problems to train on and problems held out, none in both.

    Of a data set of the hub the first come from its training part, the others from its test part.

    Raises:
        TrainingError: There are too few.
    """
    task = config.task
    number, seed, grader = task.num_problems, config.seed, task.grader
    if HUB.keys() & set(task.tasks):  # what others measure on is never trained on
        train = load_problems(task.tasks, number - task.held_out, seed, grader, split="train")
        held = load_problems(task.tasks, task.held_out, seed, grader)
    else:
        problems = load_problems(task.tasks, number, seed, grader)
        held, train = problems[: task.held_out], problems[task.held_out :]
    asked = {problem.prompt for problem in held}
    train = [problem for problem in train if problem.prompt not in asked]
    if len(train) < config.rollout.prompts_per_step:
        raise TrainingError(
            f"task: of {number} problems wanted there are {len(train)} to train on beside those "
            f"held out, fewer than prompts_per_step = {config.rollout.prompts_per_step}"
        )
    return Questions(train, held)


def conversation(problem: Problem, config: PolicyConfig) -> list[dict[str, str]]:
    """The messages that a problem is asked with."""
    task = config.task
    question = f"{problem.prompt} {task.instruction}".strip()
    system = [] if task.system is None else [{"role": "system", "content": task.system}]
    return [*system, {"role": "user", "content": question}]


def checkpoint_of(config: PolicyConfig) -> Path:
    """Folder of the model to train.

    Raises:
        TrainingError: It is no checkpoint.
    """
    if config.model is None:
        return default_checkpoint()
    folder = Path(config.model)
    identify(folder)
    return folder


class Prepared(NamedTuple):
    """What a run needs and what was checked before it starts."""

    questions: Questions
    checkpoint: Path


def prepare(config: PolicyConfig, *, fresh: bool = False) -> Prepared:
    """Check everything that can be checked before the model is loaded; writes nothing.

    A dry run and a run call it alike.

    Args:
        config: Of the run.
        fresh: Whether the run that is in the folder will be discarded.

    Raises:
        TrainingError: The run would fail.
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
    """Refuse TRL's vLLM backends with a vLLM that this TRL does not support.

    Raises:
        TrainingError: The installed version is outside the range, or there is none.
    """
    if not config.rollout.backend.startswith("vllm"):
        return
    if not is_supported_by_trl():
        span = " to ".join(".".join(map(str, version)) for version in TRL_VLLM)
        found = installed_vllm() or "none"
        raise TrainingError(
            f"rollout.backend: TRL 1.16 supports vLLM {span}, and {found} is installed: "
            'install a supported one, or use backend = "entrostat" or "transformers", which do not '
            "use TRL's vLLM code"
        )


def accumulation_steps(config: PolicyConfig) -> int:
    """Forwards of each process in an optimizer step.

    Raises:
        TrainingError: The completions cannot be cut into equal ones.
    """
    rollout, batch = config.rollout, config.optimizer.micro_batch
    batch *= int(os.environ.get("WORLD_SIZE", "1"))
    sequences = config.sequences // rollout.num_minibatches
    if sequences % batch or config.sequences % rollout.num_minibatches:
        raise TrainingError(
            f"optimizer.micro_batch: {config.sequences} sequences in {rollout.num_minibatches} "
            f"minibatches cannot be cut into forwards of {batch}"
        )
    return sequences // batch
