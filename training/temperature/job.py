"""Entropy statistics: sample a model, see where its log-entropies lie, write what HAPO needs."""

import asyncio
import itertools
import json
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from probes.artifact import Artifact, Manifest, package_versions
from probes.drift import ReferenceHistogram
from training.common.job import check_name, check_served_job, identify_served, job_servers
from training.common.prompts import load_prompts
from training.common.rollout_store import RolloutStore, content_hash, first_rollouts
from training.common.sampling import run_folder, sample_missing
from training.common.server_pool import (
    RolloutRecord,
    SampleRequest,
    Sampling,
    ServedModel,
    ServerPool,
    request_seed,
)
from training.temperature.config import TemperatureConfig
from training.temperature.fit import TemperatureFit, fit_temperature
from training.temperature.report import TemperatureResult, write_report, write_summary

MIN_ANSWERS = 10
"""Sampling goes on until there are as many: standard errors resample whole answers."""


def train_temperature(job: TemperatureConfig, console: Console) -> Path:
    """Run the job.

    Returns:
        The artifact's folder.

    Raises:
        TrainingError: The job failed; what was sampled stays in the run folder.
    """
    prompts = check(job)
    with job_servers(job, console) as urls:
        served, run, chosen = asyncio.run(_sample(job, urls, prompts, console))
    fit = fit_temperature(
        [rollout.finite_entropies for rollout in chosen], job.quantile, job.tail, job.seed
    )
    artifact = _artifact(job, served, prompts, chosen, fit)
    folder = artifact.save(job.out)
    facts = TemperatureResult(artifact, fit, job.command)
    report = write_report(facts, run)
    write_summary(facts, console)
    console.print(f"artifact: {folder}\nreport:   {report}", highlight=False, soft_wrap=True)
    return folder


def check(job: TemperatureConfig) -> list[str]:
    """Refuse what can be refused before anything is started; `--dry-run` calls it as well.

    Returns:
        The prompts.
    """
    check_served_job(job)
    return load_prompts(job.prompts)


def cost(job: TemperatureConfig, prompts: list[str]) -> str:
    """Cost of the run, for `--dry-run`."""
    return f"{job.tokens:,} tokens, sampled for {len(prompts)} prompts; {job.minutes}"


async def _sample(
    job: TemperatureConfig, urls: tuple[str, ...], prompts: list[str], console: Console
) -> tuple[ServedModel, Path, list[RolloutRecord]]:
    """Sample the answers that the run folder does not have yet."""
    sampling = Sampling(job.temperature, job.max_tokens)
    async with ServerPool(urls, sampling, concurrency=job.concurrency) as fleet:
        served = await fleet.connect()
        check_name(_artifact_id(job, served))
        run = run_folder(job.runs, "temperature", served, _run_settings(job, served, prompts))
        traces = await sample_missing(
            fleet,
            run,
            lambda traces: missing_requests(job, prompts, traces),
            console,
            fresh=job.fresh,
            total=job.tokens,
            unit="tokens",
            done=lambda traces: traces.num_tokens,
        )
        return served, run, first_rollouts(traces.rollouts, job.tokens, MIN_ANSWERS)


def _run_settings(
    job: TemperatureConfig, served: ServedModel, prompts: list[str]
) -> dict[str, Any]:
    """What decides which answers are drawn.

    The number of tokens and the settings of the fit do not count: more tokens go on from fewer.
    """
    return {
        "identity": identify_served(served, job.checkpoint).model_dump(),
        "serve_flags": job.serve_flags,
        "prompts": prompts_hash(prompts),
        "max_tokens": job.max_tokens,
        "temperature": job.temperature,
        "seed": job.seed,
    }


def prompts_hash(prompts: list[str]) -> str:
    """The sha256 of a list of prompts."""
    return sha256(json.dumps(prompts).encode()).hexdigest()


def missing_requests(
    job: TemperatureConfig, prompts: list[str], traces: RolloutStore
) -> Iterator[SampleRequest]:
    """Requests still to be made: gaps left by a kill, then new ones until there is enough."""
    last = max(traces.rollouts, default=-1)
    for number in itertools.count():
        enough = traces.num_tokens >= job.tokens and number >= MIN_ANSWERS
        if number > last and enough:
            return
        if number not in traces.rollouts:
            prompt = prompts[number % len(prompts)]
            messages = [{"role": "user", "content": prompt}]
            yield SampleRequest(number, messages, request_seed(job.seed, number))


def _artifact_id(job: TemperatureConfig, served: ServedModel) -> str:
    return job.name or f"{Path(served.model).name}/entropy"


def _artifact(
    job: TemperatureConfig,
    served: ServedModel,
    prompts: list[str],
    chosen: list[RolloutRecord],
    fit: TemperatureFit,
) -> Artifact:
    manifest = Manifest(
        kind="entropy-statistics",
        model=Path(served.model).name,
        identity=identify_served(served, job.checkpoint),
        data_hash=content_hash(chosen),
        seed=job.seed,
        versions=package_versions("entrostat", "transformers", "safetensors", "numpy")
        | {"vllm": served.vllm},
        settings={
            "tokens": job.tokens,
            "max_tokens": job.max_tokens,
            "temperature": job.temperature,
            "quantile": job.quantile,
            "tail": job.tail,
            "num_prompts": len(prompts),
            "prompts_hash": prompts_hash(prompts),
        },
        metrics=fit.metrics(),
        reference=ReferenceHistogram.of(fit.entropies),
    )
    tensors = {"hapo": torch.tensor(fit.statistics, dtype=torch.float64)}
    return Artifact(id=_artifact_id(job, served), manifest=manifest, tensors=tensors)
