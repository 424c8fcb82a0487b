"""`entrostat evaluate`: draws the answers of all arms, compares them and writes the page."""

import asyncio
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.markup import escape

from probes.artifact import package_versions
from training.common.errors import TrainingError
from training.common.files import write_text
from training.common.job import check_served_job, job_servers, model_identity
from training.common.machine import describe_machine
from training.common.report import write_page
from training.common.sampling import run_folder
from training.common.server_pool import SampleRequest, Sampling, ServedModel, ServerPool
from training.datasets.loaders import load_problems
from training.datasets.problem import Problem
from training.evaluation.answers import graded_lines
from training.evaluation.arms import (
    EvaluationArm,
    SkippedProfile,
    fixed_name,
    make_arms,
    shuffled_law,
)
from training.evaluation.config import EvaluateConfig
from training.evaluation.draw import MIN_QUESTIONS, AnswerSource, draw_all, draw_halves
from training.evaluation.figures import draw_figure
from training.evaluation.page import write_text_of
from training.evaluation.recommend import Recommendation, profile_file, recommend
from training.evaluation.results import DrawnAnswers, EvaluationResult, analyze, kind_of


class _Sampled(NamedTuple):
    """What one task's answers are and where they lie."""

    served: ServedModel
    run: Path
    arms: list[EvaluationArm]
    skipped: list[SkippedProfile]
    drawn: DrawnAnswers
    tokens: int
    seconds: float
    """Spent on drawing, over all runs that it took."""


def evaluate(config: EvaluateConfig, console: Console) -> list[Path]:
    """Run the job.

    Returns:
        The page of every task.

    Raises:
        TrainingError: It cannot be done; the answers so far stay in the run folder.
    """
    tasks = check(config)
    with job_servers(config, console) as urls:
        return [
            _evaluate(config, task, problems, urls, console) for task, problems in tasks.items()
        ]


def check(config: EvaluateConfig) -> dict[str, list[Problem]]:
    """Refuse what can be refused before anything is started; `--dry-run` calls it as well.

    Returns:
        The questions of every task.

    Raises:
        TrainingError: A task or a folder is wrong, or a task has too few questions.
    """
    check_served_job(config)
    tasks = {}
    for task in config.tasks:
        problems = load_problems((task,), config.questions, config.seed, config.grader)
        if len(problems) < 2 * MIN_QUESTIONS:
            raise TrainingError(
                f"{task}: has {len(problems)} questions, at least {2 * MIN_QUESTIONS} are needed"
            )
        tasks[task] = problems
    return tasks


def cost(config: EvaluateConfig, tasks: Mapping[str, list[Problem]]) -> str:
    """Cost of the run, for `--dry-run`."""
    return f"at most {config.budget * len(tasks):,} tokens; {config.minutes}"


def _evaluate(
    config: EvaluateConfig,
    task: str,
    problems: list[Problem],
    urls: tuple[str, ...],
    console: Console,
) -> Path:
    console.print(f"[bold]{escape(task)}[/]: {len(problems)} questions", highlight=False)
    sampled = asyncio.run(_sample(config, task, problems, urls, console))
    result = analyze(config, sampled.arms, sampled.drawn, sampled.skipped)
    recommendation = recommend(result, sampled.arms, config.temperature)
    page = _write(config, task, sampled, result, recommendation)
    for goal, sentence in recommendation.sentences.items():
        console.print(f"[bold]{goal}[/]: {escape(sentence)}", highlight=False, soft_wrap=True)
    console.print(f"page:     {page}", highlight=False, soft_wrap=True)
    console.print(f"profiles: {page.parent / 'recommended.toml'}", highlight=False, soft_wrap=True)
    return page


async def _sample(
    config: EvaluateConfig,
    task: str,
    problems: list[Problem],
    urls: tuple[str, ...],
    console: Console,
) -> _Sampled:
    """Sample the answers that the run folder does not have yet."""
    plain = Sampling(config.temperature, config.max_tokens)
    async with ServerPool(urls, plain, concurrency=config.concurrency) as fleet:
        served = await fleet.connect()
        wanted, skipped = make_arms(config, await _profiles(fleet, config))
        arms, refused = await _accepted(fleet, wanted)
        settings = _run_settings(config, problems, arms, served)
        run = run_folder(config.runs, f"evaluation-{_name(task)}", served, settings)
        with _stopwatch(run) as seconds:
            source = AnswerSource(fleet, run, problems, config, console)
            draw = draw_all if config.against == "plain" else draw_halves
            arms, drawn, tokens = await draw(source, arms)
    return _Sampled(served, run, arms, skipped + refused, drawn, tokens, seconds())


async def _profiles(fleet: ServerPool, config: EvaluateConfig) -> dict[str, Mapping[str, Any]]:
    cards = (await fleet.read("/entropy/profiles"))["data"]
    known = {str(card["id"]): card["control"] for card in cards}
    for name in config.profiles:
        if name not in known:
            raise TrainingError(
                f"--profiles {name}: the server has no such profile; it has {', '.join(known)}"
            )
    return {name: known[name] for name in config.profiles or known}


async def _accepted(
    fleet: ServerPool, arms: Sequence[EvaluationArm]
) -> tuple[list[EvaluationArm], list[SkippedProfile]]:
    """The arms that the server takes, and why it refuses the others."""
    refused: dict[str, str] = {}
    for arm in arms:
        sampling = arm.sampling
        if arm.kind == "shuffled" and arm.of not in refused:
            sampling = Sampling(1.0, 1, {"temperature": shuffled_law([0.5, 1.0])})
        if sampling is None:
            continue
        greeting = [{"role": "user", "content": "Hello"}]
        request = SampleRequest(0, greeting, 0, sampling._replace(max_tokens=1))
        try:
            await fleet.sample(request)
        except TrainingError as error:
            refused[arm.name if arm.kind == "shuffled" else arm.of or arm.name] = str(error)
    kept = [arm for arm in arms if arm.name not in refused and arm.of not in refused]
    return kept, [SkippedProfile(name, reason) for name, reason in refused.items()]


def _run_settings(
    config: EvaluateConfig,
    problems: list[Problem],
    arms: Sequence[EvaluationArm],
    served: ServedModel,
) -> dict[str, Any]:
    """The settings that determine the answers. The budget is not one: a larger one resumes."""
    folder = config.checkpoint or Path(served.root)
    return {
        "served": model_identity(folder).model_dump() if folder.is_dir() else served._asdict(),
        "problems": [problem.model_dump() for problem in problems],
        "arms": [
            (arm.name, None if arm.sampling is None else arm.sampling._asdict()) for arm in arms
        ],
        "samples": config.samples,
        "instruction": config.instruction,
        "seed": config.seed,
    }


@contextmanager
def _stopwatch(run: Path) -> "Iterator[Any]":
    """Seconds spent in this run folder, kept on disk so that a resumed run adds to them."""
    file, begin = run / "seconds.json", time.monotonic()
    before = float(json.loads(file.read_text())) if file.is_file() else 0.0

    def total() -> float:
        return before + time.monotonic() - begin

    try:
        yield total
    finally:
        write_text(file, json.dumps(round(total(), 1)))


def _name(task: str) -> str:
    """A task as part of a file name."""
    return Path(task).stem if Path(task).suffix else task.replace("/", "-")


def _write(
    config: EvaluateConfig,
    task: str,
    sampled: _Sampled,
    result: EvaluationResult,
    recommendation: Recommendation,
) -> Path:
    model = config.label or sampled.served.model
    name = f"evaluation-{_name(task)}-{Path(sampled.served.model).name}"
    folder = config.out / name
    folder.mkdir(parents=True, exist_ok=True)
    facts = _facts(config, sampled)
    plain = fixed_name(config.temperature)
    figure = draw_figure(result, sampled.arms, sampled.drawn, plain, config.votes)
    head = f"# {model} on {_name(task)}\n\n{facts}"
    text = write_text_of(result, sampled.arms, config, recommendation, head, f"{name}.png")
    page = write_page(folder, name, text, figure)
    toml_head = f"{model} on {_name(task)}. {facts}"
    write_text(folder / "recommended.toml", profile_file(recommendation, toml_head, result.flag))
    write_text(folder / "answers.jsonl", _graded(sampled.drawn, config))
    raw = {
        "settings": config.model_dump(mode="json"),
        "model": sampled.served._asdict(),
        "tokens": sampled.tokens,
        "seconds": sampled.seconds,
        "arms": [(arm.name, _plain(arm.sampling)) for arm in sampled.arms],
        "result": _plain(result),
        "recommendation": _plain(recommendation),
        "questions": [problem.model_dump() for problem in sampled.drawn.problems[1]],
        "right": {arm: one.right.mean(1).tolist() for arm, one in sampled.drawn.scoring.items()},
        "tokens_mean": {
            arm: one.tokens.mean(1).round(3).tolist() for arm, one in sampled.drawn.scoring.items()
        },
    }
    write_text(folder / f"{name}.json", json.dumps(raw, indent=1) + "\n")
    return page


def _graded(drawn: DrawnAnswers, config: EvaluateConfig) -> str:
    """Plain answers to all questions, for `train-probe abstain`."""
    plain = fixed_name(config.temperature)
    return "".join(
        graded_lines(problems, list(map(kind_of, problems)), arms[plain], config.temperature)
        for problems, arms in zip(drawn.problems, (drawn.choosing, drawn.scoring), strict=True)
    )


def _facts(config: EvaluateConfig, sampled: _Sampled) -> str:
    versions = package_versions("entrostat", "numpy", "scikit-learn")
    packages = ", ".join(
        f"{name} {number}"
        for name, number in sorted({**versions, "vllm": sampled.served.vllm}.items())
    )
    return (
        f"Measured on {datetime.now(UTC):%Y-%m-%d} by `{config.command}` on {describe_machine()}, "
        f"with\n{packages}: {sampled.tokens:,} tokens in {sampled.seconds / 60:.1f} minutes."
    )


def _plain(value: Any) -> Any:
    """Named tuples as objects of JSON."""
    if hasattr(value, "_asdict"):
        return {key: _plain(item) for key, item in value._asdict().items()}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [_plain(item) for item in value]
    return value.item() if isinstance(value, np.generic) else value
