"""Job: sample answers, grade them, label the questions, fit a difficulty probe."""

import asyncio
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from torch import Tensor

from probes.artifact import Artifact, Manifest, package_versions
from probes.difficulty.probe import Head, classify, classify_by_outcomes, default_thresholds
from probes.difficulty.strategies import Difficulty, Outcomes, ProbeSpec, Strategies, Thresholds
from probes.drift import ReferenceHistogram
from training.common.errors import TrainingError
from training.common.files import read_tensors, write_tensors, write_text
from training.common.hidden_states import hidden_states
from training.common.job import check_served_job, identify_served, job_servers, served_folder
from training.common.progress import progress_bar
from training.common.rollout_store import content_hash
from training.common.server_pool import ServedModel
from training.common.strategy_choice import QuestionTexts
from training.datasets.loaders import load_problems
from training.datasets.problem import Problem
from training.difficulty.baselines import compare_with_baselines
from training.difficulty.config import DifficultyConfig
from training.difficulty.fit import MIN_QUESTIONS, Data, DifficultyFit, fit_difficulty
from training.difficulty.labels import (
    AnswerStatistics,
    StrategyRollouts,
    artifact_id,
    draw_answers,
    grade_answers,
)
from training.difficulty.report import DifficultyResult, write_report, write_summary
from training.difficulty.router import StrategyOutcomes, fit_router, with_router
from training.difficulty.router_report import RouterComparison, compare_router
from training.difficulty.strategies import load_strategies


def train_difficulty(job: DifficultyConfig, console: Console) -> Path:
    """Run the job.

    Returns:
        The artifact's folder.

    Raises:
        TrainingError: The job failed; sampled answers stay in the run folder.
    """
    problems, strategies = check(job)
    tried = tuple(Difficulty) if job.labels == "outcome" else (Difficulty.NORMAL,)
    with job_servers(job, console) as urls:
        drawn = {
            difficulty: asyncio.run(
                draw_answers(job, urls, problems, strategies.for_class(difficulty), console)
            )
            for difficulty in tried
        }
    answers = {one: grade_answers(problems, drawn[one].traces, job.samples) for one in tried}
    rule, labels = _labels(job, answers)
    served, run, _ = drawn[Difficulty.NORMAL]
    checkpoint = served_folder(served, job.checkpoint)
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
    router = None
    if len(tried) == len(Difficulty):
        with console.status("fitting the router"):
            head, router = _router(job, problems, answers, data, fit)
        fit = fit._replace(head=head)
    spec = ProbeSpec(
        layer="final",
        normalized=True,
        position="last_prompt_token",
        features=data.features.shape[1],
        labels=rule,
        strategies=strategies,
        router=None if router is None else router.spec,
    )
    artifact = _artifact(job, served, spec, drawn, data, fit, router)
    _write_questions(run / "questions.jsonl", problems, answers[Difficulty.NORMAL], data, fit)
    folder = artifact.save(job.out)
    facts = DifficultyResult(
        artifact, problems, answers, labels, data, fit, comparison, job.command, router
    )
    report = write_report(facts, run)
    write_summary(facts, console)
    console.print(f"artifact: {folder}\nreport:   {report}", highlight=False, soft_wrap=True)
    return folder


def check(job: DifficultyConfig) -> tuple[list[Problem], Strategies]:
    """Check the settings before anything is started; `--dry-run` calls this too.

    Returns:
        The questions and how each class of them is answered.
    """
    check_served_job(job)
    problems = load_problems(job.task, job.problems, job.seed, job.grader)
    if len(problems) < MIN_QUESTIONS:
        raise TrainingError(
            f"--task {','.join(job.task)}: {len(problems)} questions are too few to train, "
            f"calibrate and test a probe: take {MIN_QUESTIONS} or more"
        )
    return problems, load_strategies(job.strategies)


def cost(job: DifficultyConfig, checked: tuple[list[Problem], Strategies]) -> str:
    """Cost of the run, for `--dry-run`."""
    strategies = len(Difficulty) if job.labels == "outcome" else 1
    answers = len(checked[0]) * job.samples * strategies
    return (
        f"{answers:,} answers of up to {job.max_tokens} tokens to {len(checked[0])} questions; "
        f"{job.minutes}"
    )


def _labels(
    job: DifficultyConfig, answers: dict[Difficulty, AnswerStatistics]
) -> tuple[Thresholds | Outcomes, Tensor]:
    """The labeling rule and the label of every question."""
    if job.labels == "outcome":
        given = {"tolerance": job.tolerance, "gamma": job.gamma}
        outcomes = Outcomes(**{key: value for key, value in given.items() if value is not None})
        accuracy = torch.stack([answers[one].accuracy for one in Difficulty])
        tokens = torch.stack([answers[one].tokens for one in Difficulty])
        return outcomes, classify_by_outcomes(accuracy, tokens, outcomes)
    normal = answers[Difficulty.NORMAL]
    thresholds = _thresholds(job, normal)
    return thresholds, classify(normal.accuracy, normal.entropy, thresholds)


def _router(
    job: DifficultyConfig,
    problems: list[Problem],
    answers: dict[Difficulty, AnswerStatistics],
    data: Data,
    fit: DifficultyFit,
) -> tuple[Head, RouterComparison]:
    """Fit a router to the questions that are not held out; the head with it, and what it gives."""
    texts = [problem.prompt for problem in problems]
    outcomes = StrategyOutcomes(
        data.features,
        np.stack([answers[one].accuracy.numpy() for one in Difficulty]),
        np.stack([answers[one].tokens.numpy() for one in Difficulty]),
        texts,
    )
    questions = QuestionTexts(texts, [problem.task for problem in problems])
    known = np.setdiff1d(np.arange(len(problems)), fit.test)
    parts = [(outcomes.subset(one), questions.subset(one)) for one in (known, fit.test)]
    router = fit_router(parts[0][0], job.seed)
    result = compare_router(router, parts[0], parts[1], job.samples, job.seed)
    return with_router(fit.head, router), result


def _thresholds(job: DifficultyConfig, answers: AnswerStatistics) -> Thresholds:
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
        kept = read_tensors(file)
        return kept["states"], kept["lengths"]
    with progress_bar(console, "reading hidden states", len(problems), "questions") as work:
        states, lengths = hidden_states(
            checkpoint,
            [problem.prompt for problem in problems],
            work.advance,
        )
    write_tensors(file, {"states": states, "lengths": lengths})
    return states, lengths


def _write_questions(
    file: Path, problems: list[Problem], answers: AnswerStatistics, data: Data, fit: DifficultyFit
) -> None:
    """Write every question with its label, so that benchmarks can exclude them."""
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
    write_text(file, "\n".join(lines) + "\n")


def _artifact(
    job: DifficultyConfig,
    served: ServedModel,
    spec: ProbeSpec,
    drawn: dict[Difficulty, StrategyRollouts],
    data: Data,
    fit: DifficultyFit,
    router: RouterComparison | None,
) -> Artifact:
    settings: dict[str, Any] = {
        "tasks": ",".join(job.task),
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
        reference=ReferenceHistogram.of(fit.head.distance(torch.from_numpy(data.features))),
        metrics={
            "macro_f1": fit.macro_f1.value,
            "accuracy": fit.accuracy.value,
            "calibration_error": fit.calibration_error,
            "brier": fit.brier,
            "num_held_out": len(fit.test),
            "num_calibrated": fit.num_calibrated,
            **_router_metrics(router),
        },
    )
    return Artifact(id=artifact_id(job, served), manifest=manifest, tensors=fit.head.tensors())


def _router_metrics(router: RouterComparison | None) -> dict[str, float | int]:
    if router is None:
        return {}
    own = router.choices["router"]
    return {
        "router_accuracy": own.accuracy,
        "router_gain": own.gain.value,
        "router_gain_low": own.gain.low,
        "router_saved": own.saved.value,
    }
