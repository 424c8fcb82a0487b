"""Settings of `train-steering east`, and its episodes by purpose."""

import re
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

from pydantic import BeforeValidator, Field

from training.common.config import CommaSeparated, JobConfig
from training.common.errors import TrainingError
from training.steering.tasks import BANDITS, MAX_ARMS, Episode, bandit_episodes, load_episodes

MIN_STEPS = 10
"""Minimum number of steps for training, selection and test, each."""


def _parse_numbers(text: object) -> object:
    """`10-12,20` as 10, 11, 12, 20; other values as they are."""
    if not isinstance(text, str):
        return text
    found = list[int]()
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d+)(?:-(\d+))?\s*", part)
        if match is None or int(match[2] or match[1]) < int(match[1]):
            raise ValueError("write numbers and ranges such as 10-20,24")
        found += range(int(match[1]), int(match[2] or match[1]) + 1)
    return tuple(found)


def _strengths(value: object) -> object:
    """Strengths with both signs and 0, ascending."""
    parts = value.split(",") if isinstance(value, str) else value
    try:
        found = {float(part) for part in parts}  # type: ignore[attr-defined]
    except (TypeError, ValueError):
        found = set()
    found -= {0.0}
    if not found or not all(abs(strength) <= 10 for strength in found):
        raise ValueError("write numbers up to 10, such as 0.1,0.2,0.4")
    return tuple(sorted({0.0, *found, *(-strength for strength in found)}))


class SteeringConfig(JobConfig):
    """Settings of the job."""

    quick: ClassVar[Mapping[str, Any]] = {
        "histories": 4,
        "held_out": 3,
        "steps": 4,
        "strengths": "0.1,0.2,0.4",
        "transfer": "slots",
        "completions": 5,
    }
    minutes: ClassVar[str] = "about 40 minutes with the defaults, 3 with --quick"

    model: Path | None = None
    """Checkpoint folder; without it the embedded default."""
    task: str = "fruits"
    """Episodes to learn from: a built-in bandit (fruits, more-fruits, slots, colored-slots,
    lettered-slots, numbered-slots, buttons, colored-buttons, lettered-buttons, numbered-buttons),
    or a JSONL log with `episode`, `step`, `prompt`, `actions` and optionally `answer_prefix`, the
    start of the answer."""
    transfer: CommaSeparated = (
        "more-fruits",
        "slots",
        "buttons",
        "lettered-buttons",
        "numbered-buttons:2",
    )
    """Other bandits to test on, separated by commas, as `TASK` or `TASK:ARMS`."""
    arms: int = 4
    """Arms of a bandit, 2 to 8."""
    histories: int = Field(24, ge=2)
    """Episodes of a bandit to learn from."""
    held_out: int = Field(8, ge=1)
    """Episodes to choose on, and as many to test on, per task."""
    steps: int = Field(8, ge=2)
    """Steps of a bandit's episode."""
    estimator: Literal["logit", "sampled"] = "logit"
    """Entropy over actions: `logit`, from the probabilities of the actions' tokens, or `sampled`,
    from completions that name an action, as in the paper."""
    completions: int = Field(25, ge=2)
    """Completions to sample at each step."""
    max_tokens: int = Field(6, ge=1)
    """Maximum length of a completion, in tokens."""
    miller_madow: bool = False
    """Correct the bias of `sampled`."""
    layers: Annotated[tuple[int, ...] | None, BeforeValidator(_parse_numbers)] = None
    """Layers to try, such as 10-20,24, from 0; without it all."""
    strengths: Annotated[tuple[float, ...], BeforeValidator(_strengths)] = Field(
        "0.05,0.1,0.15,0.2,0.3,0.4", validate_default=True
    )
    """Strengths to try, separated by commas, in multiples of the residual stream's norm; 0 is
    added, and every strength is tried with both signs."""
    valid_share: float = Field(0.9, ge=0, le=1)
    """Minimum probability of any action, as a share of the unsteered one."""


class EpisodeSplit(NamedTuple):
    """Episodes by purpose; test episodes are used for nothing else."""

    train: list[Episode]
    validation: list[Episode]
    tests: dict[str, list[Episode]]


def episodes_hash(runs: Sequence[Episode]) -> str:
    """SHA-256 of the prompts of some episodes."""
    steps = [step.model_dump_json() for run in runs for step in run]
    return sha256("\n".join(steps).encode()).hexdigest()


def split_episodes(job: SteeringConfig) -> EpisodeSplit:
    """Generate or read the episodes and split them by purpose.

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
        train = _bandit_episodes(job.task, job, job.histories, 0)
        validation = _bandit_episodes(job.task, job, job.held_out, 1)
        tests = {job.task: _bandit_episodes(job.task, job, job.held_out, 4)}
    tests |= {task: _bandit_episodes(task, job, job.held_out, 5) for task in job.transfer if task}
    split = EpisodeSplit(train, validation, tests)
    _check_sizes(split)
    return split


def _check_sizes(split: EpisodeSplit) -> None:
    parts = {"to learn from": split.train, "to choose on": split.validation}
    parts |= {f"to test on (`{task}`)": episodes for task, episodes in split.tests.items()}
    for what, episodes in parts.items():
        steps = sum(map(len, episodes))
        if steps < MIN_STEPS:
            raise TrainingError(
                f"{steps} steps {what} are too few: {MIN_STEPS} or more are needed; see "
                "--histories, --held-out and --steps, or give a longer log"
            )


def _bandit_episodes(task: str, job: SteeringConfig, runs: int, part: int) -> list[Episode]:
    """`TASK` with `--arms` arms, or `TASK:ARMS`."""
    name, _, arms = task.partition(":")
    if name not in BANDITS or (arms and not arms.isdecimal()):
        raise TrainingError(
            f"`{task}` is not a task: give --task a JSONL file or one of {', '.join(BANDITS)}, "
            "optionally with a number of arms, such as buttons:2"
        )
    number = int(arms) if arms else job.arms
    if not 2 <= number <= MAX_ARMS:
        raise TrainingError(f"`{task}`: a bandit has 2 to {MAX_ARMS} arms")
    return bandit_episodes(BANDITS[name], number, runs, job.steps, job.seed * 8 + part)
