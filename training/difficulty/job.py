"""Difficulty probes: sample answers, grade them, label the questions, fit what reads the state."""

import asyncio
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from safetensors.torch import load_file, save_file
from torch import Tensor

from probes.artifact import Artifact, Manifest, package_versions
from probes.difficulty.probe import cheapest, classify, default_thresholds
from probes.difficulty.strategies import Difficulty, Outcomes, ProbeSpec, Strategies, Thresholds
from probes.graders import GraderName
from training.common.errors import TrainingError
from training.common.job import check_job, identify_served, servers_of
from training.common.rollout_store import content_hash
from training.common.server_pool import ServedModel
from training.datasets.loaders import load_problems
from training.datasets.problem import Problem
from training.difficulty.baselines import compare_with_baselines
from training.difficulty.fit import Data, DifficultyFit, HeadKind, fit_difficulty
from training.difficulty.hidden_states import hidden_states
from training.difficulty.labels import (
    AnswersJob,
    AnswerStatistics,
    StrategyRollouts,
    artifact_id,
    draw_answers,
    grade,
)
from training.difficulty.report import DifficultyResult, write_report, write_summary
from training.difficulty.strategies import load_strategies

Labelling = Literal["entropy", "outcome"]
"""By accuracy and entropy of the answers by the strategy normal, or by the answers by all three."""


@dataclass(frozen=True, kw_only=True)
class DifficultyJob(AnswersJob):
    """What to do, beside what every job is told."""

    tasks: tuple[str, ...]
    grader: GraderName | None
    problems: int
    strategies: str
    labels: Labelling
    alpha: float | None
    beta: float | None
    gamma: float | None
    tolerance: float | None
    head: HeadKind


def train_difficulty(job: DifficultyJob, console: Console) -> Path:
    """Run the job.

    Returns:
        The artifact's folder.

    Raises:
        TrainingError: It cannot be done; what was sampled stays in the run folder.
    """
    problems, strategies = _checked(job)
    tried = tuple(Difficulty) if job.labels == "outcome" else (Difficulty.NORMAL,)
    with servers_of(job, console) as urls:
        drawn = {
            difficulty: asyncio.run(
                draw_answers(job, urls, problems, strategies.of(difficulty), console)
            )
            for difficulty in tried
        }
    answers = {one: grade(problems, drawn[one].traces, job.samples) for one in tried}
    rule, labels = _labels(job, answers)
    served, run, _ = drawn[Difficulty.NORMAL]
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
    with console.status("comparing with guesses that do not see the state"):
        comparison = compare_with_baselines(data, job.head, job.seed)
    spec = ProbeSpec(
        layer="final",
        normalised=True,
        position="last_prompt_token",
        features=data.features.shape[1],
        labels=rule,
        strategies=strategies,
    )
    artifact = _artifact(job, served, spec, drawn, data, fit)
    _write_questions(run / "questions.jsonl", problems, answers[Difficulty.NORMAL], data, fit)
    folder = artifact.save(job.out)
    facts = DifficultyResult(
        artifact, problems, answers, labels, data, fit, comparison, job.command
    )
    report = write_report(facts, run)
    write_summary(facts, console)
    console.print(f"artifact: {folder}\nreport:   {report}", highlight=False, soft_wrap=True)
    return folder


def _checked(job: DifficultyJob) -> tuple[list[Problem], Strategies]:
    """Refuse what can be refused before anything is started."""
    check_job(job)
    given = [value is not None for value in (job.alpha, job.beta, job.gamma)]
    if job.labels == "outcome" and any(given[:2]):
        raise TrainingError("--alpha and --beta belong to --labels entropy")
    if job.labels == "entropy" and any(given) and not all(given):
        raise TrainingError("--alpha, --beta and --gamma belong together: give all or none")
    if job.alpha is not None and job.gamma is not None and job.gamma > job.alpha:
        raise TrainingError(f"--gamma {job.gamma} must not be larger than --alpha {job.alpha}")
    if job.labels == "entropy" and job.tolerance is not None:
        raise TrainingError("--tolerance belongs to --labels outcome")
    problems = load_problems(job.tasks, job.problems, job.seed, job.grader)
    return problems, load_strategies(job.strategies)


def _labels(
    job: DifficultyJob, answers: dict[Difficulty, AnswerStatistics]
) -> tuple[Thresholds | Outcomes, Tensor]:
    """The rule and what it says of every question."""
    if job.labels == "outcome":
        given = {"tolerance": job.tolerance, "gamma": job.gamma}
        outcomes = Outcomes(**{key: value for key, value in given.items() if value is not None})
        accuracy = torch.stack([answers[one].accuracy for one in Difficulty])
        tokens = torch.stack([answers[one].tokens for one in Difficulty])
        return outcomes, cheapest(accuracy, tokens, outcomes)
    normal = answers[Difficulty.NORMAL]
    thresholds = _thresholds(job, normal)
    return thresholds, classify(normal.accuracy, normal.entropy, thresholds)


def _thresholds(job: DifficultyJob, answers: AnswerStatistics) -> Thresholds:
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


def _write_questions(
    file: Path, problems: list[Problem], answers: AnswerStatistics, data: Data, fit: DifficultyFit
) -> None:
    """Every question with its label, to look at, and to keep away from a benchmark."""
    held_out = set(fit.test.tolist())
    lines = [
        json.dumps(
            {
                "task": problem.task,
                "level": problem.level,
                "prompt": problem.prompt,
                "answer": problem.answer,
                "accuracy": round(float(answers.accuracy[index]), 4),
                "entropy": round(float(answers.entropy[index]), 4),
                "tokens": round(float(answers.tokens[index]), 1),
                "label": Difficulty(int(data.labels[index])).word,
                "held_out": index in held_out,
            },
            ensure_ascii=False,
        )
        for index, problem in enumerate(problems)
    ]
    staging = file.with_suffix(".part")
    staging.write_text("\n".join(lines) + "\n", "utf-8")
    staging.rename(file)


def _artifact(
    job: DifficultyJob,
    served: ServedModel,
    spec: ProbeSpec,
    drawn: dict[Difficulty, StrategyRollouts],
    data: Data,
    fit: DifficultyFit,
) -> Artifact:
    settings: dict[str, Any] = {
        "tasks": ",".join(job.tasks),
        "problems": len(data.labels),
        "samples": job.samples,
        "max_tokens": job.max_tokens,
        "labels": job.labels,
        "head": fit.name,
    }
    rollouts = [one.traces.rollouts for one in drawn.values()]
    manifest = Manifest(
        kind="difficulty-probe",
        model=Path(served.model).name,
        identity=identify_served(served, job.checkpoint),
        data_hash=content_hash([found[number] for found in rollouts for number in sorted(found)]),
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
    return Artifact(id=artifact_id(job, served), manifest=manifest, tensors=fit.head.tensors())
