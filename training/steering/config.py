"""Settings of `train-steering east`, and its episodes by what they are for."""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Literal, NamedTuple

from training.common.errors import TrainingError
from training.steering.tasks import BANDITS, MAX_ARMS, Episode, bandit_episodes, load_episodes


@dataclass(frozen=True, kw_only=True)
class SteeringJob:
    """What to do; `training.cli.steering` explains and defaults every field."""

    model: Path | None
    task: str
    """A built-in bandit, or a JSONL file."""
    transfer: tuple[str, ...]
    """Where the vector is tested beside the task's own test runs; `TASK` or `TASK:ARMS`."""
    arms: int
    histories: int
    """Runs to learn from."""
    held_out: int
    """Runs to choose on, and as many to test on, per task."""
    steps: int
    estimator: Literal["logit", "sampled"]
    completions: int
    max_tokens: int
    miller_madow: bool
    layers: tuple[int, ...] | None
    strengths: tuple[float, ...]
    valid_share: float
    seed: int
    out: Path
    name: str | None
    runs: Path
    fresh: bool
    command: str


class EpisodeSplit(NamedTuple):
    """Runs by what they are for; what is learnt or chosen never sees the tests."""

    train: list[Episode]
    validation: list[Episode]
    tests: dict[str, list[Episode]]


def digest(runs: Sequence[Episode]) -> str:
    """The sha256 of what some runs ask."""
    steps = [step.model_dump_json() for run in runs for step in run]
    return sha256("\n".join(steps).encode()).hexdigest()


def split_episodes(job: SteeringJob) -> EpisodeSplit:
    """Make or read the runs, apart by what they are for.

    Raises:
        TrainingError: A task is unknown, or there are too few runs.
    """
    if job.task.partition(":")[0] not in BANDITS:
        runs = [run for run in load_episodes(Path(job.task)) if len(run) > 1]
        validation, test = runs[: job.held_out], runs[job.held_out : 2 * job.held_out]
        train = runs[2 * job.held_out :]
        if not train:
            raise TrainingError(
                f"--task {job.task}: {len(runs)} runs of two steps or more are too few to choose "
                f"on {job.held_out}, test on {job.held_out} and learn from the others; see "
                "--held-out"
            )
        tests = {job.task: test}
    else:
        train = _bandit(job.task, job, job.histories, 0)
        validation = _bandit(job.task, job, job.held_out, 1)
        tests = {job.task: _bandit(job.task, job, job.held_out, 4)}
    tests |= {task: _bandit(task, job, job.held_out, 5) for task in job.transfer}
    return EpisodeSplit(train, validation, tests)


def _bandit(task: str, job: SteeringJob, runs: int, part: int) -> list[Episode]:
    """`TASK` with `--arms` arms, or `TASK:ARMS`."""
    name, _, arms = task.partition(":")
    if name not in BANDITS or (arms and not arms.isdecimal()):
        raise TrainingError(
            f"`{task}` is no task: take a JSONL file for --task, or one of {', '.join(BANDITS)}, "
            "perhaps with a number of arms, such as buttons:2"
        )
    number = int(arms) if arms else job.arms
    if not 2 <= number <= MAX_ARMS:
        raise TrainingError(f"`{task}`: a bandit has 2 to {MAX_ARMS} arms")
    return bandit_episodes(BANDITS[name], number, runs, job.steps, job.seed * 8 + part)
