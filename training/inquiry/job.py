"""Job: read log-likelihoods of statements, fit, calibrate and measure coverage."""

import asyncio
import json
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

import torch
from rich.console import Console
from torch import Tensor

from probes.artifact import Artifact, Manifest, package_versions, text_hash
from probes.inquiry.artifact import InquirySpec
from probes.inquiry.task import Task, TaskError, load_task
from probes.inquiry.turn import Rule
from probes.inquiry.words import Predictor
from training.common.errors import TrainingError
from training.common.files import read_tensors, write_tensors
from training.common.job import check_name, check_served_job, identify_served, job_servers
from training.common.progress import progress_bar
from training.common.sampling import run_folder
from training.common.server_pool import Sampling, ServedModel, ServerPool
from training.inquiry.config import InquiryConfig
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
from training.inquiry.simulate import answered_questions, random_histories
from training.inquiry.statement_logprobs import statement_table

MIN_LABELS = 10
"""Minimum number of labels: half of them calibrate the prediction sets."""
_FRESH = 2000
"""Random histories of each length to measure coverage on."""


def train_inquiry(job: InquiryConfig, console: Console) -> Path:
    """Run the job.

    Returns:
        The artifact's folder.

    Raises:
        TrainingError: The job failed; log-likelihoods stay in the run folder.
    """
    task = check(job)
    with job_servers(job, console) as urls:
        served, run, table = asyncio.run(_statement_table(job, urls, task, console))
        direct = None
        if job.direct:
            direct = asyncio.run(_direct(job, urls, served, task, run, console))
    return fit_and_save(job, task, InquiryMeasurements(served, run, table, direct), console)


class InquiryMeasurements(NamedTuple):
    """What was read from the model."""

    served: ServedModel
    run: Path
    table: Tensor
    """Log-likelihoods of the statements, nats, shape (K, Q)."""
    direct: Tensor | None
    """Scores of the true labels by `direct`, ascending, shape (lengths, samples)."""


def fit_and_save(
    job: InquiryConfig, task: Task, readings: InquiryMeasurements, console: Console
) -> Path:
    """Fit, calibrate, simulate and write; returns the artifact's folder."""
    served, run, table, direct = readings
    answers = task.answer_table()
    split = split_labels(len(task.labels), job.seed)
    model = fit_half(table, answers, split.fitted, job.ridge)
    logprobs = likelihood_logprobs(table, model)
    lengths = min(job.lengths, len(answered_questions(answers))) + 1
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
            predictors=rank_predictors(all_scores),
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


def rank_predictors(scores: Mapping[Predictor, Tensor]) -> tuple[Predictor, ...]:
    """Predictors in order of the mean probability of the true label, over common lengths.

    Args:
        scores: LAC scores, shape (lengths, samples), of each.
    """
    shared = min(map(len, scores.values()))
    return tuple(sorted(scores, key=lambda name: float(scores[name][:shared].mean())))


async def _direct(
    job: InquiryConfig,
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
        return read_tensors(file)["scores"]
    labels = split_labels(len(task.labels), job.seed).calibrated
    answers, draw = task.answer_table(), torch.Generator().manual_seed(job.seed)
    lengths = min(job.direct_lengths, len(answered_questions(answers))) + 1
    histories = [
        random_histories(answers, labels, length, job.direct, draw) for length in range(lengths)
    ]
    with progress_bar(console, "asking for labels", lengths * job.direct, "histories") as work:
        found = await direct_scores(urls, served.model, task, histories, work.advance)
    scores = found.sort(-1).values
    write_tensors(file, {"scores": scores})
    return scores


def check(job: InquiryConfig) -> Task:
    """Check the settings before anything is started; `--dry-run` calls this too.

    Returns:
        The task.
    """
    check_served_job(job)
    source = job.task
    try:
        task = load_task(source)
    except TaskError as error:
        raise TrainingError(f"--task {error}") from error
    table = task.answer_table()
    if len(task.labels) < MIN_LABELS:
        raise TrainingError(
            f"--task {source}: {len(task.labels)} labels are too few: half of them are fitted, the "
            f"others calibrate the prediction sets, and {MIN_LABELS} or more are needed"
        )
    if not len(answered_questions(table)):
        raise TrainingError(f"--task {source}: no question has a known answer (`yes`)")
    return task


def cost(job: InquiryConfig, task: Task) -> str:
    """Cost of the run, for `--dry-run`."""
    return (
        f"{len(task.labels) * len(task.queries):,} statements to read, {job.samples} calibration "
        f"histories of each length, {job.games} games of each rule; {job.minutes}"
    )


async def _statement_table(
    job: InquiryConfig, urls: tuple[str, ...], task: Task, console: Console
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
        return served, run, read_tensors(file)["table"]
    total = len(task.labels) * len(task.queries)
    with progress_bar(console, "reading statements", total, "statements") as work:
        table = await statement_table(urls, served.model, task, work.advance, job.concurrency)
    if not bool(torch.isfinite(table).all()):
        raise TrainingError("the log-likelihood of a statement is -inf")
    write_tensors(file, {"table": table})
    return served, run, table


def _statements_hash(task: Task) -> str:
    words = [[label.phrase for label in task.labels], [query.property for query in task.queries]]
    return sha256(json.dumps(words).encode()).hexdigest()


def _artifact_id(job: InquiryConfig, served: ServedModel, task: Task) -> str:
    return job.name or f"{Path(served.model).name}/{task.name}"
