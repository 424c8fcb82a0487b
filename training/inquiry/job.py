"""Inquiry calibrations: read what the model holds likely, fit, calibrate, measure coverage."""

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from safetensors.torch import load_file, save_file
from torch import Tensor

from probes.artifact import Artifact, Manifest, package_versions, text_hash
from probes.inquiry.artifact import InquirySpec
from probes.inquiry.task import Task, TaskError, load_task
from probes.inquiry.turn import Rule
from probes.inquiry.words import Predictor
from training.common.errors import TrainingError
from training.common.job import Job, check_job, check_name, identify_served, servers_of
from training.common.sampling import run_folder
from training.common.server_pool import Sampling, ServedModel, ServerPool
from training.inquiry.direct_scores import direct_scores
from training.inquiry.fit import (
    calibrate_at,
    calibration_scores,
    exchangeable_coverage,
    fit_half,
    likelihood_logprobs,
    play_games,
    split_labels,
)
from training.inquiry.report import InquiryResult, metrics, write_report
from training.inquiry.simulate import answered, random_histories
from training.inquiry.statement_logprobs import statement_table

_FRESH = 2000
"""Random histories of each length on which coverage is measured."""


@dataclass(frozen=True, kw_only=True)
class InquiryJob(Job):
    """What to do, beside what every job is told."""

    task: str
    """Name of a built-in task, or a file."""
    samples: int
    """Calibration histories for each length."""
    lengths: int
    """Longest calibrated history, in answers."""
    games: int
    """Simulated games that the coverage is measured on."""
    level: float
    """At which it is measured; a server takes any."""
    ridge: float
    direct: int
    """Calibration histories of each length for the predictor `direct`; 0 leaves it out."""
    direct_lengths: int
    """Its longest calibrated history, in answers."""


def train_inquiry(job: InquiryJob, console: Console) -> Path:
    """Run the job.

    Returns:
        The artifact's folder.

    Raises:
        TrainingError: It cannot be done; what was read stays in the run folder.
    """
    check_job(job)
    if not job.samples / (job.samples + 1) >= job.level > 0:
        raise TrainingError(
            f"--level {job.level}: {job.samples} samples promise a level between 0 and "
            f"{job.samples / (job.samples + 1):.4f}; raise --samples for a higher one"
        )
    task = _checked_task(job.task)
    with servers_of(job, console) as urls:
        served, run, table = asyncio.run(_read(job, urls, task, console))
        direct = None
        if job.direct:
            direct = asyncio.run(_direct(job, urls, served, task, run, console))
    return fit_and_save(job, task, InquiryMeasurements(served, run, table, direct), console)


class InquiryMeasurements(NamedTuple):
    """What the model said."""

    served: ServedModel
    run: Path
    table: Tensor
    """Log-likelihoods of the statements, nats, shape (K, Q)."""
    direct: Tensor | None
    """Scores of the true labels by `direct`, ascending, shape (lengths, samples)."""


def fit_and_save(
    job: InquiryJob, task: Task, readings: InquiryMeasurements, console: Console
) -> Path:
    """Fit, calibrate, play and write; returns the artifact's folder."""
    served, run, table, direct = readings
    answers = task.answer_table()
    split = split_labels(len(task.labels), job.seed)
    model = fit_half(table, answers, split.fitted, job.ridge)
    logprobs = likelihood_logprobs(table, model)
    lengths = min(job.lengths, len(answered(answers))) + 1
    held_out = split.calibrated
    with console.status("calibrating"):
        scores = calibration_scores(logprobs, answers, held_out, lengths, job.samples, job.seed)
        calibration = calibrate_at(scores, job.level)
        fresh = exchangeable_coverage(logprobs, answers, held_out, calibration, _FRESH)
    with console.status("playing"):
        rules: list[tuple[str, Rule]] = [
            ("C-IP", Rule("set_size", budget=lengths - 1)),
            ("IP", Rule("entropy", budget=lengths - 1)),
            ("random", Rule("random", budget=lengths - 1)),
        ]
        curves = [
            play_games(name, logprobs, answers, held_out, calibration, rule, job.games)
            for name, rule in rules
        ]
    all_scores: dict[Predictor, Tensor] = {"likelihood": scores}
    if direct is not None:
        all_scores["direct"] = direct
    facts = InquiryResult(task, split, table, calibration, fresh, curves, job.command)
    manifest = Manifest(
        kind="inquiry-calibration",
        model=Path(served.model).name,
        identity=identify_served(served, job.checkpoint),
        data_hash=text_hash(task.model_dump_json()),
        seed=job.seed,
        versions=package_versions("entrostat", "safetensors") | {"vllm": served.vllm},
        settings={"samples": job.samples, "lengths": lengths - 1, "ridge": job.ridge},
        inquiry=InquirySpec(
            task=task,
            predictors=ranked(all_scores),
            score="lac",
            fitted=tuple(task.names[label] for label in split.fitted),
        ),
        metrics=metrics(facts),
    )
    tensors = {
        "table": table.float(),
        "slope": model.slope.float(),
        "bias": model.bias.float(),
        "pooled": model.pooled.float(),
    } | {f"scores.{name}": found.float() for name, found in all_scores.items()}
    artifact = Artifact(id=_artifact_id(job, served, task), manifest=manifest, tensors=tensors)
    folder = artifact.save(job.out)
    report = write_report(facts, artifact, run)
    console.print(f"artifact: {folder}\nreport:   {report}", highlight=False, soft_wrap=True)
    return folder


def ranked(scores: Mapping[Predictor, Tensor]) -> tuple[Predictor, ...]:
    """Predictors by the mean probability of the true label over the lengths all have.

    Args:
        scores: LAC scores, shape (lengths, samples), of each.
    """
    shared = min(map(len, scores.values()))
    return tuple(sorted(scores, key=lambda name: float(scores[name][:shared].mean())))


async def _direct(
    job: InquiryJob,
    urls: tuple[str, ...],
    served: ServedModel,
    task: Task,
    run: Path,
    console: Console,
) -> Tensor:
    """Calibration scores of the predictor `direct`, ascending, shape (lengths, samples).

    Read once and kept in the run folder.
    """
    wanted = [task.model_dump_json(), job.seed, job.direct, job.direct_lengths]
    file = run / f"direct-{text_hash(json.dumps(wanted))[:8]}.safetensors"
    if file.is_file() and not job.fresh:
        return load_file(file)["scores"]
    labels = split_labels(len(task.labels), job.seed).calibrated
    answers, draw = task.answer_table(), torch.Generator().manual_seed(job.seed)
    lengths = min(job.direct_lengths, len(answered(answers))) + 1
    histories = [
        random_histories(answers, labels, length, job.direct, draw) for length in range(lengths)
    ]
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn(), console=console) as progress:
        bar = progress.add_task("asking for labels", total=lengths * job.direct)
        found = await direct_scores(
            urls, served.model, task, histories, lambda count: progress.advance(bar, count)
        )
    scores = found.sort(-1).values
    _keep(file, {"scores": scores})
    return scores


def _checked_task(source: str) -> Task:
    """Read the task and refuse one that cannot be calibrated."""
    try:
        task = load_task(source)
    except TaskError as error:
        raise TrainingError(f"--task {error}") from error
    table = task.answer_table()
    if len(task.labels) < 4 or not len(answered(table)):
        raise TrainingError(
            f"--task {source}: calibration needs four labels or more and questions whose `yes` is "
            "known: half of the labels are fitted, the others measured"
        )
    return task


async def _read(
    job: InquiryJob, urls: tuple[str, ...], task: Task, console: Console
) -> tuple[ServedModel, Path, Tensor]:
    """The table of log-likelihoods, read once and kept in the run folder."""
    async with ServerPool(urls, Sampling(), concurrency=1) as fleet:
        served = await fleet.connect()
    check_name(_artifact_id(job, served, task))
    settings = {
        "identity": identify_served(served, job.checkpoint).model_dump(),
        "serve_flags": job.serve_flags,
        "statements": _statements_hash(task),
    }
    run = run_folder(job.runs, "inquiry", served, settings)
    file = run / "table.safetensors"
    if file.is_file() and not job.fresh:
        return served, run, load_file(file)["table"]
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn(), console=console) as progress:
        bar = progress.add_task("reading statements", total=len(task.labels) * len(task.queries))
        table = await statement_table(
            urls, served.model, task, lambda count: progress.advance(bar, count), job.concurrency
        )
    if not bool(torch.isfinite(table).all()):
        raise TrainingError("the model holds a statement impossible: its log-likelihood is -inf")
    _keep(file, {"table": table})
    return served, run, table


def _keep(file: Path, tensors: dict[str, Tensor]) -> None:
    """Write a file whole or not at all."""
    staging = file.with_suffix(".part")
    save_file(tensors, staging)
    staging.rename(file)


def _statements_hash(task: Task) -> str:
    words = [[label.phrase for label in task.labels], [query.property for query in task.queries]]
    return sha256(json.dumps(words).encode()).hexdigest()


def _artifact_id(job: InquiryJob, served: ServedModel, task: Task) -> str:
    return job.name or f"{Path(served.model).name}/{task.name}"
