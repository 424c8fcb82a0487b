"""`train-probe abstain`: the rows from which a server computes when to decline."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rich.console import Console

from probes.artifact import Artifact
from probes.selective.abstention import MAX_ROWS, Abstention, AbstentionSpec, CannotPromise
from probes.selective.scores import Promise, uncertainty
from training.common.errors import TrainingError
from training.common.report import markdown_table, provenance, write_page
from training.selective.answers import AnsweredTask, graded_answers
from training.selective.config import AbstainConfig
from training.selective.rows import GradedAnswers

ALPHAS = (0.05, 0.1, 0.2)
PROMISES: tuple[Promise, ...] = ("joint", "selective")
SHARES = (0.25, 0.5, 2 / 3, 0.75, 0.9)
_SPLITS = 1000


class SplitRates(NamedTuple):
    """Means over random halves: one calibrates, the other is tested."""

    answered: float
    answered_and_wrong: float
    error: float
    """Error among the answers that are given, of all halves together; NaN if none gives any."""
    violated: float
    """Share of halves whose test error among given answers is above alpha."""


def train_abstention(job: AbstainConfig, console: Console) -> Path:
    """Run the job.

    Returns:
        The artifact's folder.

    Raises:
        TrainingError: It cannot be done; what was drawn stays in the run folder.
    """
    control = {} if job.probe is None else {"probe": job.probe}
    task = graded_answers(job, 1, control, console)
    contents = abstention(task.answers, job)
    with console.status("random halves"):
        rates = {
            (promise, alpha): split_rates(contents, promise, alpha, job.delta, job.seed)
            for promise in PROMISES
            for alpha in ALPHAS
        }
    artifact = Artifact(
        id=job.name or f"{task.model}/abstain",
        manifest=task.manifest(
            job,
            ("entrostat", "safetensors"),
            kind="abstention",
            abstention=contents.spec,
            metrics=_metrics(contents, rates),
        ),
        tensors=contents.tensors(),
    )
    folder = artifact.save(job.out)
    page = write_page(task.run, "abstain", _page(job, task, artifact, contents, rates))
    console.print(f"artifact: {folder}\nreport:   {page}", highlight=False, soft_wrap=True)
    return folder


def abstention(answers: GradedAnswers, job: AbstainConfig) -> Abstention:
    """The calibration: the first answer to each question, since answers to one are not independent.

    An answer without the score counts as one that is never given.

    Raises:
        TrainingError: No answer has the score, or there are too many.
    """
    first = {row.question: row for row in reversed(answers.rows)}
    rows = list(reversed(first.values()))
    if len(rows) > MAX_ROWS:
        raise TrainingError(f"{len(rows):,} rows: at most {MAX_ROWS:,} can be kept")
    scores = [row.scores.get(job.score, math.nan) for row in rows]
    unscored = sum(map(math.isnan, scores))
    if unscored == len(rows):
        raise TrainingError(f"--score {job.score}: no answer has it")
    spec = AbstentionSpec(
        score=job.score,
        rows=len(rows),
        unscored=unscored,
        temperature=answers.temperature,
        window=answers.window if job.score == "self_certainty_window_min" else None,
        probe_hash=answers.probe_hash,
    )
    doubts = [uncertainty(job.score, value) for value in scores]
    return Abstention(spec, doubts, [not row.right for row in rows])


def split_rates(
    found: Abstention, promise: Promise, alpha: float, delta: float, seed: int
) -> SplitRates | None:
    """What the promise comes to on rows that were not used for it; None if there are too few."""
    doubts, wrong = np.array(found.uncertainties), np.array(found.wrong)
    draw, half = np.random.default_rng(seed), len(wrong) // 2
    rates: list[tuple[float, float, bool]] = []
    for _ in range(_SPLITS):
        order = draw.permutation(len(wrong))
        own, rest = order[:half], order[half:]
        part = Abstention(found.spec, doubts[own].tolist(), wrong[own].tolist())
        try:
            threshold = part.threshold(promise, alpha, delta)
        except CannotPromise:
            return None
        given = doubts[rest] <= (-math.inf if threshold is None else threshold)
        bad = float((given & wrong[rest]).mean())
        share = float(given.mean())
        rates.append((share, bad, bad > alpha * share))
    answered, joint, violated = np.array(rates).mean(0).tolist()
    return SplitRates(answered, joint, joint / answered if answered else math.nan, violated)


def _metrics(
    contents: Abstention, rates: dict[tuple[Promise, float], SplitRates | None]
) -> dict[str, float | int]:
    found: dict[str, float | int] = {"error_rate": round(float(np.mean(contents.wrong)), 4)}
    for (promise, alpha), one in rates.items():
        if one is not None:
            name = f"{promise}_{alpha:g}"
            found[f"{name}_answered"] = round(one.answered, 4)
            found[f"{name}_answered_and_wrong"] = round(one.answered_and_wrong, 4)
            if not math.isnan(one.error):
                found[f"{name}_error_among_answered"] = round(one.error, 4)
    return found


def _page(
    job: AbstainConfig,
    task: AnsweredTask,
    artifact: Artifact,
    contents: Abstention,
    rates: dict[tuple[Promise, float], SplitRates | None],
) -> str:
    lines = [_line(contents, job.delta, *key, one) for key, one in rates.items()]
    table = markdown_table(
        [
            "promise",
            "alpha",
            "threshold",
            "answered",
            "answered and wrong",
            "error among answered",
            "halves above alpha",
        ],
        lines,
    )
    spec = contents.spec
    unscored = f" {spec.unscored} have no score and are never given." if spec.unscored else ""
    return f"""# When {task.model} declines on {Path(job.task).name}

{provenance(artifact.manifest, job.command)}

{spec.rows:,} questions, one answer each; {np.mean(contents.wrong):.3f} of the answers are wrong.
The score is `{spec.score}`.{unscored}

{table}

{_shares(contents)}

The threshold is that of all rows; the rates are means over {_SPLITS:,} random halves, of which
one calibrates and the other is tested. "Halves above alpha" counts test halves whose error among
the given answers is above alpha. Test halves are small, so some are even where `selective` holds;
`joint` does not promise it.

- `joint` promises that an answer is given **and** wrong with probability at most alpha. It does
  not promise that at most alpha of the given answers are wrong: see the column before the last.
- `selective` promises that at most alpha of the given answers are wrong, except with probability
  {job.delta:g} over the calibration.

Both hold for questions drawn like these, asked one by one, with this model, chat template and
temperature. They do not hold for follow-up questions in a chat or for other questions.
"""


def _shares(contents: Abstention) -> str:
    """Which alpha lets which share of the answers through."""
    order = np.argsort(np.nan_to_num(contents.uncertainties, nan=math.inf), kind="stable")
    wrong = np.cumsum(np.array(contents.wrong)[order])
    lines = []
    for share in SHARES:
        answered = max(1, round(share * len(wrong)))
        bad = int(wrong[answered - 1])
        alpha = (bad + 1) / (len(wrong) + 1)
        shown = math.ceil(alpha * 1000) / 1000  # a smaller one would decline more
        lines.append([f"{share:.0%}", f"{shown:.3f}", f"{bad / answered:.3f}"])
    return markdown_table(["answered", "alpha of `joint`", "wrong among them, here"], lines)


def _line(
    contents: Abstention, delta: float, promise: Promise, alpha: float, one: SplitRates | None
) -> Sequence[str]:
    try:
        threshold = contents.threshold(promise, alpha, delta)
    except CannotPromise:
        return [promise, f"{alpha:g}", "too few rows", "", "", "", ""]
    shown = "declines always" if threshold is None else f"{threshold:.4f}"
    if one is None:
        return [promise, f"{alpha:g}", shown, "too few rows for halves", "", "", ""]
    return [
        promise,
        f"{alpha:g}",
        shown,
        f"{one.answered:.3f}",
        f"{one.answered_and_wrong:.3f}",
        "" if math.isnan(one.error) else f"{one.error:.3f}",
        f"{one.violated:.3f}",
    ]
