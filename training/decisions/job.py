"""Decision calibrations: read labeled rows, scale, calibrate sets, measure on held-out rows."""

import asyncio
import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from probes.artifact import Artifact, Manifest, package_versions, text_hash
from probes.decisions.calibration import (
    CalibratedQuestion,
    DecisionSpec,
    QuestionCalibration,
    rows_needed,
    scaled,
)
from probes.decisions.question import DecisionQuestion, Read
from probes.decisions.scores import OptionLogprobs
from training.common.errors import TrainingError
from training.common.job import check_name, check_served_job, identify_served, job_servers
from training.common.sampling import run_folder
from training.common.server_pool import Sampling, ServedModel, ServerPool
from training.decisions.config import DecisionsConfig
from training.decisions.fit import candidates, evidence_of, fit_scaling, split_rows
from training.decisions.reads import read_rows
from training.decisions.report import QuestionResult, metrics, write_report
from training.decisions.rows import LabeledRow, load_rows

_READS: dict[str | None, list[tuple[Read, ...]]] = {
    "letters": [("letters",)],
    "statements": [("statements",)],
    "both": [("letters", "statements")],
    None: [("letters",), ("statements",), ("letters", "statements")],
}


def check(job: DecisionsConfig) -> list[LabeledRow]:
    """Refuse what can be refused before anything is started; `--dry-run` calls it as well.

    Returns:
        The rows to read.

    Raises:
        TrainingError: A row is malformed, or a question has too few rows for the level.
    """
    check_served_job(job)
    rows = load_rows(job.rows, job.instructions, job.limit, job.seed)
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(job.seed))
    rows = [rows[place] for place in order[: job.limit].tolist()]
    least = -(-rows_needed(job.level) * 5 // 2)
    for question, places in _by_question(rows).items():
        if len(places) < least:
            raise TrainingError(
                f"--rows {job.rows}: {len(places)} rows for `{question.instructions}`; --level "
                f"{job.level} needs {least}, of which two fifths calibrate"
            )
    return rows


def cost(job: DecisionsConfig, rows: Sequence[LabeledRow]) -> str:
    """Cost of the run, for `--dry-run`."""
    calibrating = len(rows) * 2 // 5
    return (
        f"{len(rows):,} rows to read; level {job.level} needs {rows_needed(job.level)} calibration "
        f"rows for each question, and about {calibrating} are there; {job.minutes}"
    )


def train_decisions(job: DecisionsConfig, console: Console) -> Path:
    """Run the job.

    Returns:
        The artifact's folder.

    Raises:
        TrainingError: The job failed; what was read stays in the run folder.
    """
    rows = check(job)
    console.print(cost(job, rows), highlight=False, soft_wrap=True)
    with job_servers(job, console) as urls:
        served, run, found = asyncio.run(_read(job, urls, rows, console))
    with console.status("fitting"):
        results = [
            calibrate_question(job, number, question, places, rows, found)
            for number, (question, places) in enumerate(_by_question(rows).items())
        ]
    artifact = Artifact(
        id=_artifact_id(job, served),
        manifest=build_manifest(job, served, rows, results),
        tensors=artifact_tensors(results),
    )
    folder = artifact.save(job.out)
    page = write_report(results, artifact, job.level, job.command, run)
    console.print(f"artifact: {folder}\nreport:   {page}", highlight=False, soft_wrap=True)
    return folder


def _by_question(rows: Sequence[LabeledRow]) -> dict[DecisionQuestion, list[int]]:
    """Places of the rows of each question."""
    found = defaultdict(list)
    for place, row in enumerate(rows):
        found[row.question].append(place)
    return dict(found)


async def _read(
    job: DecisionsConfig, urls: tuple[str, ...], rows: Sequence[LabeledRow], console: Console
) -> tuple[ServedModel, Path, list[OptionLogprobs]]:
    """Log-probabilities of every row's options, saved in the run folder."""
    async with ServerPool(urls, Sampling(), concurrency=1) as fleet:
        served = await fleet.connect()
    check_name(_artifact_id(job, served))
    control: dict[str, Any] = {"read": job.read or "both", "orders": job.orders, "reads": True}
    settings = {
        "identity": identify_served(served, job.checkpoint).model_dump(),
        "serve_flags": job.serve_flags,
        "rows": _rows_hash(rows),
        **control,
    }
    run = run_folder(job.runs, "decisions", served, settings)
    file = run / "reads.jsonl"
    if job.fresh:
        file.unlink(missing_ok=True)
    found = await read_rows(urls, served.model, rows, control, file, job.concurrency, console)
    return served, run, found


def _rows_hash(rows: Sequence[LabeledRow]) -> str:
    return text_hash(json.dumps([[row.input, row.asked, row.label] for row in rows]))


def calibrate_question(
    job: DecisionsConfig,
    number: int,
    question: DecisionQuestion,
    places: Sequence[int],
    rows: Sequence[LabeledRow],
    every: Sequence[OptionLogprobs],
) -> QuestionResult:
    """Choose, fit and calibrate one question."""
    found = [every[place] for place in places]
    labels = torch.tensor([rows[place].label for place in places])
    split = split_rows(len(places), job.seed)
    own = [found[place] for place in split.fitted.tolist()]
    ways = candidates(own, labels[split.fitted], _READS[job.read], job.orders, job.seed)
    settings, method, ridge, _ = ways[0]
    scaling = fit_scaling(evidence_of(own, settings), labels[split.fitted], method, ridge)
    rest = evidence_of([found[place] for place in split.calibrated.tolist()], settings)
    name = str(rows[places[0]].asked.get("name") or f"question {number + 1}")
    calibration = QuestionCalibration.of(
        settings,
        scaling.weight,
        scaling.bias,
        scaled(rest, scaling.weight, scaling.bias),
        labels[split.calibrated],
    )
    return QuestionResult(name, question, found, labels, split, ways, calibration)


def artifact_tensors(results: Sequence[QuestionResult]) -> dict[str, Tensor]:
    """Tensors of the artifact, as `DecisionSpec` names them."""
    found = {}
    for number, one in enumerate(results):
        found[f"{number}.weight"] = one.calibration.weight
        found[f"{number}.bias"] = one.calibration.bias
        found[f"{number}.probabilities"] = one.scaled(one.split.calibrated)
        found[f"{number}.labels"] = one.calibration.labels
    return found


def build_manifest(
    job: DecisionsConfig,
    served: ServedModel,
    rows: Sequence[LabeledRow],
    results: Sequence[QuestionResult],
) -> Manifest:
    """Manifest of the artifact."""
    spec = DecisionSpec(
        questions=tuple(
            CalibratedQuestion(
                name=one.name,
                question=one.question,
                settings=one.ways[0].settings,
                method=one.ways[0].method,
            )
            for one in results
        )
    )
    return Manifest(
        kind="decision-calibration",
        model=Path(served.model).name,
        identity=identify_served(served, job.checkpoint),
        data_hash=_rows_hash(rows),
        seed=job.seed,
        versions=package_versions("entrostat", "safetensors") | {"vllm": served.vllm},
        settings={"rows": len(rows), "orders": job.orders},
        decision=spec,
        metrics=metrics(list(results)),
    )


def _artifact_id(job: DecisionsConfig, served: ServedModel) -> str:
    return job.name or f"{Path(served.model).name}/{Path(job.rows).stem}"
