"""What both jobs begin with: graded answers, and the model that gave them."""

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console

from probes.artifact import Manifest, ModelIdentity, package_versions
from training.common.errors import TrainingError
from training.common.job import (
    check_job,
    check_name,
    check_served_job,
    default_checkpoint,
    identify_served,
    job_servers,
    make_writable,
    model_identity,
    served_folder,
)
from training.common.sampling import run_folder, sample_missing
from training.common.server_pool import RolloutRecord, Sampling, ServerPool
from training.datasets.loaders import load_problems
from training.datasets.problem import Problem
from training.selective.config import GradedAnswersConfig
from training.selective.rows import (
    GradedAnswers,
    grade,
    is_rows_file,
    load_rows,
    missing_answers,
    save_rows,
)
from training.selective.self_report import missing_reports, self_reports

WINDOW = 2048
"""Of the control `confidence` while answers are drawn: the server's default."""
LEAST = 20
"""Answers that a job needs."""


class AnsweredTask(NamedTuple):
    """Graded answers and where they come from."""

    answers: GradedAnswers
    identity: ModelIdentity
    checkpoint: Path
    """Folder of the model's files."""
    model: str
    """Name of the model."""
    vllm: str | None
    run: Path
    """Folder of the page."""

    def manifest(
        self, job: GradedAnswersConfig, packages: tuple[str, ...], **contents: Any
    ) -> Manifest:
        """The manifest of an artifact made from these answers.

        Args:
            job: Settings.
            packages: Those that made it.
            contents: Fields of the artifact's kind.
        """
        versions = package_versions(*packages)
        if self.vllm is not None:
            versions["vllm"] = self.vllm
        return Manifest(
            model=self.model,
            identity=self.identity,
            data_hash=self.answers.hash,
            seed=job.seed,
            versions=versions,
            settings={"task": Path(job.task).name, "max_tokens": job.max_tokens},
            **contents,
        )


def check(job: GradedAnswersConfig) -> GradedAnswers | list[Problem]:
    """Refuse what can be refused before anything is started; `--dry-run` calls it as well.

    Returns:
        The rows of a file, or the questions to ask.

    Raises:
        TrainingError: The task cannot be read or is too small.
    """
    if not is_rows_file(job.task):
        check_served_job(job)
        problems = load_problems((job.task,), job.questions, job.seed, job.grader)
        if len(problems) < LEAST:
            raise TrainingError(f"{job.task}: has {len(problems)} questions, {LEAST} are needed")
        return problems
    check_job(job)
    if job.name is None:
        raise TrainingError("--name MODEL/NAME: rows do not say which model answered")
    answers = load_rows(Path(job.task))
    if len(answers.rows) < LEAST:
        raise TrainingError(f"{job.task}: has {len(answers.rows)} rows, {LEAST} are needed")
    return answers


def cost(job: GradedAnswersConfig, found: GradedAnswers | list[Problem], samples: int) -> str:
    """What a run takes, for `--dry-run`."""
    if isinstance(found, GradedAnswers):
        return f"{len(found.rows):,} rows; a few seconds"
    tokens = len(found) * samples * job.max_tokens
    return f"{len(found) * samples:,} answers of at most {tokens:,} tokens; {job.minutes}"


def graded_answers(
    job: GradedAnswersConfig,
    samples: int,
    control: dict[str, Any],
    console: Console,
    *,
    ask_itself: bool = False,
) -> AnsweredTask:
    """Read the rows, or draw the answers and grade them.

    Args:
        job: Settings.
        samples: Answers to each question.
        control: Value of the control `confidence`.
        console: For progress.
        ask_itself: Whether the model is asked about every answer that is drawn.

    Raises:
        TrainingError: It cannot be done; what was drawn stays in the run folder.
    """
    found = check(job)
    console.print(cost(job, found, samples), highlight=False, soft_wrap=True)
    if isinstance(found, GradedAnswers):
        return _from_rows(job, found)
    with job_servers(job, console) as urls:
        return asyncio.run(_draw(job, found, samples, control, urls, console, ask_itself))


def _from_rows(job: GradedAnswersConfig, answers: GradedAnswers) -> AnsweredTask:
    """Rows with the model of a checkpoint; a server is needed for neither."""
    for folder in (job.out, job.runs):
        make_writable(folder)
    own = job.checkpoint or (None if job.model is None else Path(job.model))
    checkpoint = own or default_checkpoint()
    identity = model_identity(checkpoint)
    assert job.name is not None
    run = job.runs / f"selective-{Path(job.task).stem}"
    run.mkdir(exist_ok=True)
    return AnsweredTask(answers, identity, checkpoint, job.name.split("/")[0], None, run)


async def _draw(
    job: GradedAnswersConfig,
    problems: list[Problem],
    samples: int,
    control: dict[str, Any],
    urls: tuple[str, ...],
    console: Console,
    ask_itself: bool,
) -> AnsweredTask:
    sampling = Sampling(job.temperature, job.max_tokens, {"confidence": control})
    async with ServerPool(urls, sampling, concurrency=job.concurrency) as fleet:
        served = await fleet.connect()
        if job.name is not None:
            check_name(job.name)
        identity = identify_served(served, job.checkpoint)
        settings = {
            "identity": identity.model_dump(),
            "serve_flags": job.serve_flags,
            "problems": [one.model_dump() for one in problems],
            "samples": samples,
            "sampling": sampling._asdict(),
            "probe_hash": await _probe_hash(fleet, control.get("probe")),
            "instruction": job.instruction,
            "seed": job.seed,
        }
        run = run_folder(job.runs, "selective", served, settings)
        store = await sample_missing(
            fleet,
            run,
            lambda store: missing_answers(problems, samples, job.instruction, job.seed, store),
            console,
            fresh=job.fresh,
            total=len(problems) * samples,
            unit="answers",
            done=lambda store: len(store.rollouts),
        )
        probe_hash = await _probe_hash(fleet, control.get("probe"))
        rows = grade(problems, samples, store)
        if ask_itself:
            drawn = [store.rollouts[number] for number in range(len(rows))]
            reports = await _self_reports(fleet, run, drawn, job.fresh, console)
            rows = [row._replace(reports=found) for row, found in zip(rows, reports, strict=True)]
    answers = GradedAnswers(rows, job.temperature, WINDOW, probe_hash)
    save_rows(answers, run / "rows.jsonl")
    checkpoint = served_folder(served, job.checkpoint)
    return AnsweredTask(answers, identity, checkpoint, Path(served.model).name, served.vllm, run)


async def _self_reports(
    fleet: ServerPool, run: Path, answers: list[RolloutRecord], fresh: bool, console: Console
) -> list[Mapping[str, float]]:
    """Ask the model about every answer; what was asked before is not asked again."""
    folder = run / "self-reports"
    folder.mkdir(exist_ok=True)
    store = await sample_missing(
        fleet,
        folder,
        lambda store: missing_reports(answers, store),
        console,
        fresh=fresh,
        total=2 * len(answers),
        unit="replies",
        done=lambda store: len(store.rollouts),
    )
    return self_reports(len(answers), store)


async def _probe_hash(fleet: ServerPool, probe: str | None) -> str | None:
    """Fingerprint of a confidence probe of the server."""
    if probe is None:
        return None
    cards = (await fleet.read("/entropy/artifacts"))["data"]
    found = [card.get("hash") for card in cards if card["id"] == probe]
    if not found or found[0] is None:
        raise TrainingError(f"--probe {probe}: the server has no such artifact")
    return str(found[0])
