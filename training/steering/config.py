"""Settings of `train-steering east`, and its episodes by purpose."""

import re
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

from pydantic import BeforeValidator, Field

from training.common.config import CommaSeparated, JobConfig
from training.common.errors import TrainingError
from training.steering.questions import question_episodes
from training.steering.tasks import Episode, load_episodes
from training.steering.wordings import (
    BANDITS,
    MAX_ARMS,
    SETS,
    Wording,
    WordingSet,
    bandit_episodes,
    built_in_wordings,
    load_wordings,
    split_in_order,
)

MIN_STEPS = 10
"""Minimum number of steps for training, selection and test, each."""
WORDINGS = "wordings"
"""The task of many wordings."""
QUESTIONS = "questions"
"""Plain questions with options, to test on."""
HELD_OUT, KNOWN = "held-out wordings", "training wordings"
"""Tests of a task of many wordings: the one that counts, and new histories in known wordings."""
_SPARSE = 3
"""One of so many steps of an episode in many wordings chooses or tests; there are as many more."""


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
        "histories": 6,
        "held_out": 4,
        "steps": 4,
        "strengths": "0.1,0.2,0.4",
        "transfer": "questions",
        "completions": 5,
    }
    minutes: ClassVar[str] = "about 40 minutes with the defaults, 3 with --quick (not measured)"

    model: Path | None = None
    """Checkpoint folder; without it the embedded default."""
    task: str = WORDINGS
    """Episodes to learn from. `wordings`: bandits in many wordings, of which some are used to make
    the vector, others to choose layer and strength, and others to test it; a bandit of one wording
    (fruits, more-fruits, slots, colored-slots, lettered-slots, numbered-slots, buttons,
    colored-buttons, lettered-buttons, numbered-buttons); or a JSONL log with `episode`, `step`,
    `prompt`, `actions` and optionally `answer_prefix`, the start of the answer, and `wording`."""
    wordings: Path | None = None
    """Wordings of your own for `--task wordings`: a JSONL file with `opening`, `feedback`,
    `question`, `answer_prefix`, `arms` and optionally `layout` and `set` (train, validation,
    held-out)."""
    transfer: CommaSeparated = (
        QUESTIONS,
        "more-fruits",
        "slots",
        "buttons",
        "lettered-buttons",
        "numbered-buttons:2",
    )
    """Other tasks to test on, separated by commas: bandits as `TASK` or `TASK:ARMS`, and
    `questions`, plain questions with options."""
    arms: int = 4
    """Arms of a bandit, 2 to 8."""
    histories: int = Field(48, ge=2)
    """Episodes of a bandit to learn from, in turn in every wording to learn from."""
    held_out: int = Field(8, ge=1)
    """Episodes to choose on, and as many to test on, per task; with many wordings three times as
    many, each with a third of its steps."""
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
    """By task, the one that counts first."""

    @property
    def counts(self) -> str:
        """The test that counts."""
        return next(iter(self.tests))

    @property
    def wordings(self) -> list[str]:
        """Of every step to learn from."""
        return [step.wording for run in self.train for step in run]

    @property
    def num_wordings(self) -> int:
        """Different wordings to learn from; 0 if the episodes name none or only one."""
        names = set(self.wordings)
        return len(names) if len(names) > 1 else 0


def episodes_hash(runs: Sequence[Episode]) -> str:
    """SHA-256 of the prompts of some episodes."""
    steps = [step.model_dump_json(exclude={"wording"}) for run in runs for step in run]
    return sha256("\n".join(steps).encode()).hexdigest()


def split_episodes(job: SteeringConfig) -> EpisodeSplit:
    """Generate or read the episodes and split them by purpose.

    Raises:
        TrainingError: A task is unknown, or there are too few runs.
    """
    name = job.task.partition(":")[0]
    if job.wordings is not None and name != WORDINGS:
        raise TrainingError(f"--wordings: belongs to --task wordings, not to `{job.task}`")
    if name == WORDINGS:
        split = _split_wordings(job)
    elif name in BANDITS:
        split = _split_bandit(job)
    else:
        split = _split_log(job)
    others = {task: _transfer_episodes(task, job) for task in job.transfer if task}
    split = split._replace(tests=split.tests | others)
    _check_sizes(split)
    return split


def _split_wordings(job: SteeringConfig) -> EpisodeSplit:
    sets = built_in_wordings() if job.wordings is None else load_wordings(job.wordings)
    few = _SPARSE * job.held_out

    def episodes(name: WordingSet, runs: int, part: int) -> list[Episode]:
        return _bandit_episodes(job.task, sets[name], job, runs, part)

    tests = {HELD_OUT: episodes("held-out", few, 4), KNOWN: episodes("train", few, 6)}
    return EpisodeSplit(
        episodes("train", job.histories, 0),
        _sparse(episodes("validation", few, 1)),
        {task: _sparse(runs) for task, runs in tests.items()},
    )


def _sparse(runs: Sequence[Episode]) -> list[Episode]:
    """Every third step, from the second on: more episodes at equal cost."""
    return [run[1::_SPARSE] for run in runs]


def _split_bandit(job: SteeringConfig) -> EpisodeSplit:
    def episodes(runs: int, part: int) -> list[Episode]:
        wording = BANDITS[job.task.partition(":")[0]]
        return _bandit_episodes(job.task, [wording], job, runs, part)

    test = {job.task: episodes(job.held_out, 4)}
    return EpisodeSplit(episodes(job.histories, 0), episodes(job.held_out, 1), test)


def _split_log(job: SteeringConfig) -> EpisodeSplit:
    runs = [run for run in load_episodes(Path(job.task)) if len(run) > 1]
    names = list(dict.fromkeys(run[0].wording for run in runs))
    if len(names) >= len(SETS) and "" not in names:
        sets = dict(zip(names, split_in_order(len(names)), strict=True))
        parts = [[run for run in runs if sets[run[0].wording] == name] for name in SETS]
        return EpisodeSplit(parts[0], parts[1], {HELD_OUT: parts[2]})
    validation, test = runs[: job.held_out], runs[job.held_out : 2 * job.held_out]
    train = runs[2 * job.held_out :]
    if not train:
        raise TrainingError(
            f"--task {job.task}: {len(runs)} runs of two steps or more are too few to choose on "
            f"{job.held_out}, test on {job.held_out} and learn from the others; see --held-out"
        )
    return EpisodeSplit(train, validation, {job.task: test})


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


def _transfer_episodes(task: str, job: SteeringConfig) -> list[Episode]:
    name = task.partition(":")[0]
    if name == QUESTIONS:
        return question_episodes(2 * _SPARSE * job.held_out, _number_of_arms(task, job), job.seed)
    if name not in BANDITS:
        raise TrainingError(
            f"`{task}` is not a task: give --task a JSONL file or one of {WORDINGS}, "
            f"{', '.join(BANDITS)}, optionally with a number of arms, such as buttons:2"
        )
    return _bandit_episodes(task, [BANDITS[name]], job, job.held_out, 5)


def _bandit_episodes(
    task: str, wordings: Sequence[Wording], job: SteeringConfig, runs: int, part: int
) -> list[Episode]:
    arms = _number_of_arms(task, job)
    return bandit_episodes(wordings, arms, runs, job.steps, job.seed * 8 + part)


def _number_of_arms(task: str, job: SteeringConfig) -> int:
    """`TASK` has `--arms` arms, `TASK:ARMS` its own number."""
    _, colon, arms = task.partition(":")
    number = (int(arms) if arms.isdecimal() else 0) if colon else job.arms
    if not 2 <= number <= MAX_ARMS:
        raise TrainingError(f"`{task}`: a bandit has 2 to {MAX_ARMS} arms")
    return number
