"""Sample answers with one strategy, and compute the statistics of every question."""

import json
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from rich.console import Console
from torch import Tensor

from probes.difficulty.strategies import Strategy, append_text
from training.common.config import JobConfig
from training.common.job import check_name, identify_served
from training.common.rollout_store import RolloutStore
from training.common.sampling import run_folder, sample_missing
from training.common.server_pool import (
    SampleRequest,
    Sampling,
    ServedModel,
    ServerPool,
    request_seed,
)
from training.datasets.problem import Problem
from training.difficulty.config import AnswersConfig


class StrategyRollouts(NamedTuple):
    """All answers by one strategy."""

    served: ServedModel
    run: Path
    traces: RolloutStore


class AnswerStatistics(NamedTuple):
    """Statistics of the model's own answers, for every question."""

    accuracy: Tensor
    """Share of right answers, shape (questions,)."""
    entropy: Tensor
    """Mean over the answers of their mean entropy, nats per token, shape (questions,)."""
    tokens: Tensor
    """Mean length, shape (questions,)."""
    cut: Tensor
    """Share of answers that reached the limit, shape (questions,)."""


async def draw_answers(
    job: AnswersConfig,
    urls: tuple[str, ...],
    problems: list[Problem],
    strategy: Strategy,
    console: Console,
) -> StrategyRollouts:
    """Sample the answers that the strategy's run folder does not have yet.

    Raises:
        TrainingError: A server is not usable, or a request failed; finished answers are kept.
    """
    sampling = Sampling(
        strategy.temperature, strategy.max_tokens(job.max_tokens), further=_limits(strategy, job)
    )
    async with ServerPool(urls, sampling, concurrency=job.concurrency) as fleet:
        served = await fleet.connect()
        check_name(artifact_id(job, served))
        settings = {
            "identity": identify_served(served, job.checkpoint).model_dump(),
            "serve_flags": job.serve_flags,
            "problems": problems_hash(problems),
            "samples": job.samples,
            "max_tokens": job.max_tokens,
            "strategy": strategy.model_dump(),
            "seed": job.seed,
        }
        run = run_folder(job.runs, "difficulty", served, settings)
        traces = await sample_missing(
            fleet,
            run,
            lambda traces: missing_requests(
                problems, job.samples, strategy.prompt, job.seed, traces
            ),
            console,
            fresh=job.fresh,
            total=len(problems) * job.samples,
            unit="answers",
            done=lambda traces: len(traces.rollouts),
        )
        return StrategyRollouts(served, run, traces)


def _limits(strategy: Strategy, job: AnswersConfig) -> dict[str, object]:
    """Limit of the thinking, as vLLM takes it; nothing if the strategy names none."""
    if strategy.thinking is None:
        return {}
    return {"thinking_token_budget": strategy.thinking_tokens(job.max_tokens)}


def artifact_id(job: JobConfig, served: ServedModel) -> str:
    """Id of the probe: `--name`, or made from the model's name."""
    return job.name or f"{Path(served.model).name}/difficulty"


def missing_requests(
    problems: list[Problem], samples: int, text: str, seed: int, traces: RolloutStore
) -> Iterator[SampleRequest]:
    """Requests still to be made: answer s of question q has the number q * samples + s."""
    for number in range(len(problems) * samples):
        if number not in traces.rollouts:
            content = append_text(problems[number // samples].prompt, text)
            messages = [{"role": "user", "content": content}]
            yield SampleRequest(number, messages, request_seed(seed, number))


def problems_hash(problems: list[Problem]) -> str:
    """The sha256 of a list of problems."""
    return sha256(json.dumps([p.model_dump() for p in problems]).encode()).hexdigest()


def grade_answers(problems: list[Problem], traces: RolloutStore, samples: int) -> AnswerStatistics:
    """Accuracy, entropy and length of every question's answers.

    Args:
        problems: The questions.
        traces: All their answers, numbered as in `pending`.
        samples: Answers per question.
    """
    figures = torch.zeros(len(problems), samples, 4, dtype=torch.float64)
    for number in range(len(problems) * samples):  # a store may hold others, from larger runs
        rollout = traces.rollouts[number]
        question, sample = divmod(number, samples)
        figures[question, sample] = torch.tensor(
            [
                float(problems[question].is_right(rollout.text)),
                float(np.mean(rollout.finite_entropies)),
                float(len(rollout.entropies)),
                float(rollout.finish_reason == "length"),
            ]
        )
    return AnswerStatistics(*figures.mean(1).unbind(1))
