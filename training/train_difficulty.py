"""Difficulty probes: sample answers, grade them, label the questions, fit what reads the state."""

import asyncio
import json
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from safetensors.torch import load_file, save_file
from torch import Tensor

from probes.artifact import Artifact, Manifest, package_versions
from probes.difficulty import classify, default_thresholds
from probes.grading import GraderName
from probes.strategies import ProbeSpec, Strategies, Thresholds, with_text
from training.difficulty_fit import Data, DifficultyFit, HeadKind, fit_difficulty
from training.difficulty_report import Facts, write_report, write_summary
from training.errors import TrainingError
from training.features import hidden_states
from training.jobs import Job, check_job, check_name, identify_served, servers_of
from training.rollouts import Ask, Fleet, Sampling, Served, request_seed
from training.sampling import draw, run_folder
from training.tasks.problem import Problem
from training.tasks.table import load_problems
from training.traces import Traces, content_hash


@dataclass(frozen=True, kw_only=True)
class DifficultyJob(Job):
    """What to do, beside what every job is told."""

    tasks: tuple[str, ...]
    grader: GraderName | None
    problems: int
    samples: int
    max_tokens: int
    strategies: Path | None
    alpha: float | None
    beta: float | None
    gamma: float | None
    head: HeadKind


class Answers(NamedTuple):
    """What the model's own answers say about every question."""

    accuracy: Tensor
    """Share of right answers, shape (questions,)."""
    entropy: Tensor
    """Mean over the answers of their mean entropy, nats per token, shape (questions,)."""
    tokens: Tensor
    """Mean length, shape (questions,)."""
    cut: Tensor
    """Share of answers that reached the limit, shape (questions,)."""


def train_difficulty(job: DifficultyJob, console: Console) -> Path:
    """Run the job.

    Returns:
        The artifact's folder.

    Raises:
        TrainingError: It cannot be done; what was sampled stays in the run folder.
    """
    problems, strategies = _checked(job)
    with servers_of(job, console) as urls:
        served, run, traces = asyncio.run(_sample(job, urls, problems, strategies, console))
    answers = grade(problems, traces, job.samples)
    thresholds = _thresholds(job, answers)
    labels = classify(answers.accuracy, answers.entropy, thresholds)
    checkpoint = job.checkpoint or Path(served.root)
    features, lengths = _features(checkpoint, problems, run, console)
    data = Data(
        features.double().numpy(),
        labels.numpy(),
        np.array([problem.task for problem in problems]),
        lengths.numpy(),
    )
    with console.status("fitting"):
        fit = fit_difficulty(data, job.head, job.seed)
    artifact = _artifact(job, served, strategies, thresholds, traces, data, fit)
    folder = artifact.save(job.out)
    facts = Facts(artifact, problems, answers, labels, data, fit, job.command)
    report = write_report(facts, run)
    write_summary(facts, console)
    console.print(f"artifact: {folder}\nreport:   {report}", highlight=False, soft_wrap=True)
    return folder


def _checked(job: DifficultyJob) -> tuple[list[Problem], Strategies]:
    """Refuse what can be refused before anything is started."""
    check_job(job)
    given = [value is not None for value in (job.alpha, job.beta, job.gamma)]
    if any(given) and not all(given):
        raise TrainingError("--alpha, --beta and --gamma belong together: give all or none")
    if job.alpha is not None and job.gamma is not None and job.gamma > job.alpha:
        raise TrainingError(f"--gamma {job.gamma} must not be larger than --alpha {job.alpha}")
    problems = load_problems(job.tasks, job.problems, job.seed, job.grader)
    return problems, load_strategies(job.strategies)


def load_strategies(path: Path | None) -> Strategies:
    """Read strategies from TOML: tables `easy`, `normal` and `hard`.

    Args:
        path: None takes the shipped ones.

    Raises:
        TrainingError: The file cannot be read or says something wrong; names the field.
    """
    import tomllib
    from importlib.resources import files

    from pydantic import ValidationError

    name = str(path or "strategies.toml")
    try:
        shipped = files("training").joinpath("strategies.toml")
        text = shipped.read_text("utf-8") if path is None else path.read_text("utf-8")
        return Strategies.model_validate(tomllib.loads(text))
    except (OSError, UnicodeDecodeError) as error:
        raise TrainingError(f"{name}: cannot be read: {error}") from error
    except tomllib.TOMLDecodeError as error:
        raise TrainingError(f"{name}: not TOML: {error}") from error
    except ValidationError as error:
        finding = error.errors()[0]
        field = ".".join(map(str, finding["loc"]))
        raise TrainingError(f"{name}: {field}: {finding['msg']}") from error


async def _sample(
    job: DifficultyJob,
    urls: tuple[str, ...],
    problems: list[Problem],
    strategies: Strategies,
    console: Console,
) -> tuple[Served, Path, Traces]:
    """Draw what the run folder does not hold yet."""
    normal = strategies.normal
    sampling = Sampling(normal.temperature, job.max_tokens)
    async with Fleet(urls, sampling, concurrency=job.concurrency) as fleet:
        served = await fleet.connect()
        check_name(_artifact_id(job, served))
        settings = {
            "identity": identify_served(served, job.checkpoint).model_dump(),
            "serve_flags": job.serve_flags,
            "problems": problems_hash(problems),
            "samples": job.samples,
            "max_tokens": job.max_tokens,
            "strategy": normal.model_dump(),
            "seed": job.seed,
        }
        run = run_folder(job.runs, "difficulty", served, settings)
        traces = await draw(
            fleet,
            run,
            lambda traces: pending(problems, job.samples, normal.prompt, job.seed, traces),
            console,
            fresh=job.fresh,
            total=len(problems) * job.samples,
            unit="answers",
            done=lambda traces: len(traces.rollouts),
        )
        return served, run, traces


def pending(
    problems: list[Problem], samples: int, text: str, seed: int, traces: Traces
) -> Iterator[Ask]:
    """Requests still to be made: answer s of question q has the number q * samples + s."""
    for number in range(len(problems) * samples):
        if number not in traces.rollouts:
            content = with_text(problems[number // samples].prompt, text)
            messages = [{"role": "user", "content": content}]
            yield Ask(number, messages, request_seed(seed, number))


def problems_hash(problems: list[Problem]) -> str:
    """The sha256 of a list of problems."""
    return sha256(json.dumps([p.model_dump() for p in problems]).encode()).hexdigest()


def grade(problems: list[Problem], traces: Traces, samples: int) -> Answers:
    """Accuracy, entropy and length of every question's answers.

    Args:
        problems: The questions.
        traces: All their answers, numbered as in `pending`.
        samples: Answers per question.
    """
    figures = torch.zeros(len(problems), samples, 4, dtype=torch.float64)
    for number, rollout in traces.rollouts.items():
        question, sample = divmod(number, samples)
        figures[question, sample] = torch.tensor(
            [
                float(problems[question].is_right(rollout.text)),
                float(np.mean(rollout.measured)),
                float(len(rollout.entropies)),
                float(rollout.finish_reason == "length"),
            ]
        )
    return Answers(*figures.mean(1).unbind(1))


def _thresholds(job: DifficultyJob, answers: Answers) -> Thresholds:
    if job.alpha is None or job.beta is None or job.gamma is None:
        try:
            return default_thresholds(answers.accuracy, answers.entropy)
        except ValueError as error:
            raise TrainingError(
                f"{error}: these questions are too hard for the model; take easier ones with "
                "--task, or set --alpha, --beta and --gamma"
            ) from error
    return Thresholds(alpha=job.alpha, beta=job.beta, gamma=job.gamma)


def _features(
    checkpoint: Path, problems: list[Problem], run: Path, console: Console
) -> tuple[Tensor, Tensor]:
    """The questions' hidden states, read once and kept in the run folder."""
    file = run / "features.safetensors"
    if file.is_file():
        kept = load_file(file)
        return kept["states"], kept["lengths"]
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn(), console=console) as progress:
        bar = progress.add_task("reading hidden states", total=len(problems))
        states, lengths = hidden_states(
            checkpoint,
            [problem.prompt for problem in problems],
            lambda count: progress.advance(bar, count),
        )
    staging = file.with_suffix(".part")
    save_file({"states": states, "lengths": lengths}, staging)
    staging.rename(file)
    return states, lengths


def _artifact_id(job: DifficultyJob, served: Served) -> str:
    return job.name or f"{Path(served.model).name}/difficulty"


def _artifact(
    job: DifficultyJob,
    served: Served,
    strategies: Strategies,
    thresholds: Thresholds,
    traces: Traces,
    data: Data,
    fit: DifficultyFit,
) -> Artifact:
    spec = ProbeSpec(
        layer="final",
        normalised=True,
        position="last_prompt_token",
        features=data.features.shape[1],
        thresholds=thresholds,
        strategies=strategies,
    )
    settings: dict[str, Any] = {
        "tasks": ",".join(job.tasks),
        "problems": len(data.labels),
        "samples": job.samples,
        "max_tokens": job.max_tokens,
        "head": fit.name,
    }
    manifest = Manifest(
        kind="difficulty-probe",
        model=Path(served.model).name,
        identity=identify_served(served, job.checkpoint),
        data_hash=content_hash([traces.rollouts[number] for number in sorted(traces.rollouts)]),
        seed=job.seed,
        versions=package_versions("entrostat", "transformers", "safetensors", "scikit-learn")
        | {"vllm": served.vllm},
        settings=settings,
        probe=spec,
        metrics={
            "macro_f1": fit.macro_f1.value,
            "accuracy": fit.accuracy.value,
            "calibration_error": fit.calibration_error,
            "brier": fit.brier,
            "num_held_out": len(fit.test),
        },
    )
    return Artifact(id=_artifact_id(job, served), manifest=manifest, tensors=fit.head.tensors())
