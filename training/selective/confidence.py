"""`train-probe confidence`: the probability that an answer is right, from its scores."""

from collections import Counter
from pathlib import Path

import numpy as np
from rich.console import Console

from probes.artifact import Artifact
from probes.selective.confidence import ConfidenceProbe
from probes.selective.scores import MEASURED, SCORE_NAMES, ScoreName
from training.common.errors import TrainingError
from training.common.metrics import Floats
from training.common.report import provenance, write_page
from training.common.selective import ScoreFigures
from training.selective.answers import AnsweredTask, graded_answers
from training.selective.config import ConfidenceConfig
from training.selective.figures import (
    PROBE,
    REFERENCE,
    compare,
    compare_elsewhere,
    figures_table,
    uncalibrated_errors,
)
from training.selective.fit import (
    STATE,
    Feature,
    FitData,
    ProbeChoice,
    candidates,
    cross_fitted,
    final_probe,
    probabilities,
)
from training.selective.prompt_state import coordinates, read_states
from training.selective.rows import GradedAnswers, load_rows


def train_confidence(job: ConfidenceConfig, console: Console) -> Path:
    """Run the job.

    Returns:
        The artifact's folder.

    Raises:
        TrainingError: It cannot be done; what was drawn stays in the run folder.
    """
    task = graded_answers(job, job.samples, {}, console, ask_itself=job.self_report)
    others = {test: load_rows(test) for test in map(Path, job.test)}
    for test, other in others.items():
        refuse_shared_questions(task.answers, other, test)
    data = fit_data(task.answers)
    if job.state:
        data = data._replace(states=read_states(task, task.answers, job, console))
    sets = feature_sets(data, job)
    with console.status("fitting"):
        probability, chosen = cross_fitted(data, sets, job.seed)
        figures = compare(task.answers.rows, data, probability, job.seed)
        before = uncalibrated_errors(task.answers.rows, data)
        best = candidates(data, sets, job.seed)[0]
        probe = final_probe(data, best, task.answers, job.seed)
    elsewhere = ""
    for test, other in others.items():
        states = read_states(task, other, job, console) if job.state else None
        elsewhere += _elsewhere(probe, test.name, other, states, job.seed)
    artifact = Artifact(
        id=job.name or f"{task.model}/confidence",
        manifest=task.manifest(
            job,
            ("entrostat", "safetensors", "scikit-learn"),
            kind="confidence",
            confidence=probe.spec,
            metrics=_metrics(data, figures),
        ),
        tensors=probe.tensors(),
    )
    folder = artifact.save(job.out)
    text = _page(job, task, artifact, figures, before, best, chosen) + elsewhere
    page = write_page(task.run, "confidence", text)
    console.print(verdict(figures), highlight=False, soft_wrap=True)
    console.print(f"artifact: {folder}\nreport:   {page}", highlight=False, soft_wrap=True)
    return folder


def refuse_shared_questions(own: GradedAnswers, other: GradedAnswers, test: Path) -> None:
    """Refuse a test on questions that the probe is fitted to.

    Raises:
        TrainingError: Some questions are in both.
    """
    if shared := {row.question for row in own.rows} & {row.question for row in other.rows}:
        raise TrainingError(
            f"--test {test}: {len(shared)} of its questions are among those of the fit"
        )


def fit_data(answers: GradedAnswers) -> FitData:
    """Arrays of the scores that all answers have.

    Raises:
        TrainingError: `logprob_mean` is missing.
    """
    known = set.intersection(*(set(row.scores) for row in answers.rows))
    columns: dict[ScoreName, np.ndarray] = {
        name: np.array([row.scores[name] for row in answers.rows])
        for name in MEASURED
        if name in known
    }
    if REFERENCE not in columns:
        raise TrainingError("`logprob_mean` is missing in some rows: it is the score to beat")
    right = np.array([float(row.right) for row in answers.rows])
    questions = [row.question for row in answers.rows]
    groups = np.unique(questions, return_inverse=True)[1].astype(float)
    return FitData(columns, right, groups)


def feature_sets(data: FitData, job: ConfidenceConfig) -> list[tuple[Feature, ...]]:
    """The features to choose from: those of the job, or each score alone and all together.

    If states were read: also the state alone, and beside the scores.

    Raises:
        TrainingError: A feature of the job is missing in the answers.
    """
    known = tuple(data.columns)
    chosen = tuple(name for name in known if not job.features or name in job.features)
    if missing := set(job.features) - set(chosen):
        raise TrainingError(f"--features: the answers have no `{sorted(missing)[0]}`")
    sets: list[tuple[Feature, ...]] = [chosen]
    if not job.features and len(known) > 1:
        sets = [*((name,) for name in known), known]
    return sets if data.states is None else [*sets, (STATE,), (*chosen, STATE)]


def verdict(figures: dict[str, ScoreFigures]) -> str:
    """Whether the probe orders answers better than `logprob_mean`, in one sentence."""
    ahead = figures[PROBE].ahead
    assert ahead is not None
    what = "beats" if ahead.low > 0 else "is behind" if ahead.high < 0 else "is not told apart from"
    return (
        f"The probe {what} `{REFERENCE}`: AUROC {ahead.value:+.3f} ({ahead.low:+.3f} to "
        f"{ahead.high:+.3f})."
    )


def _metrics(data: FitData, figures: dict[str, ScoreFigures]) -> dict[str, float | int]:
    probe, reference = figures[PROBE], figures[REFERENCE]
    found = {
        "answers": len(data.right),
        "accuracy": float(data.right.mean()),
        "auroc": probe.auroc.value,
        "auroc_low": probe.auroc.low,
        "auroc_high": probe.auroc.high,
        "logprob_mean_auroc": reference.auroc.value,
        "excess_aurc": probe.excess_aurc,
        "ece": probe.ece or 0.0,
        "brier": probe.brier or 0.0,
    }
    return {name: round(value, 4) for name, value in found.items()}


def _page(
    job: ConfidenceConfig,
    task: AnsweredTask,
    artifact: Artifact,
    figures: dict[str, ScoreFigures],
    before: dict[str, float],
    best: ProbeChoice,
    chosen: list[ProbeChoice],
) -> str:
    rows = task.answers.rows
    questions = len({row.question for row in rows})
    right = sum(row.right for row in rows) / len(rows)
    table = figures_table(figures, before)
    counts = Counter(f"{_names(one, figures)}, {one.calibrator}" for one in chosen)
    folds = "; ".join(f"{choice} ({count} of {len(chosen)})" for choice, count in counts.items())
    return f"""# Confidence of {task.model} on {Path(job.task).name}

{provenance(artifact.manifest, job.command)}

{len(rows):,} answers to {questions:,} questions, {right:.3f} of them right. {verdict(figures)}
So many questions could show a difference of {figures[PROBE].smallest:.3f}.

{table}

AUROC is the probability that a wrong answer has more doubt than a right one. Intervals are 95 %
bootstraps over questions. The row `probe` is cross-fitted: features, calibrator and weights come
from the other four fifths of the questions. ECE and Brier of a single score are those of a logistic
curve fitted in the same way. "ECE before" is that of scores that are a probability before a curve
is fitted: the exponential of log-probabilities, the collision probability, p(True) and the
verbalized number. "ECE by chance" is what an exact probability would show on so few answers.
E-AURC: area under the risk-coverage curve above a perfect order.

The artifact `{artifact.id}` uses {_names(best, figures)} with {best.calibrator} and was fitted to
all answers. The folds chose: {folds}.
"""


def _names(choice: ProbeChoice, figures: dict[str, ScoreFigures]) -> str:
    """The features, or that all scores were chosen."""
    known = [name for name in figures if name in SCORE_NAMES]
    scores = [name for name in choice.features if name != STATE]
    names = [f"`{name}`" for name in scores]
    if 1 < len(scores) == len(known):
        names = [f"all {len(known)} scores"]
    used = ", ".join(names)
    if STATE not in choice.features:
        return used
    return f"{used} and the state of the prompt" if used else "the state of the prompt"


def _elsewhere(
    probe: ConfidenceProbe, name: str, answers: GradedAnswers, states: Floats | None, seed: int
) -> str:
    """The finished probe on other questions."""
    data = fit_data(answers)._replace(states=states)
    figures = compare_elsewhere(data, probabilities(probe, data), seed)
    return f"""
## On {name}

{len(data.right):,} answers to questions that had no part in the fit, {data.right.mean():.3f} of
them right. {verdict(figures)}

{figures_table(figures)}
{_flagged(probe, states)}"""


def _flagged(probe: ConfidenceProbe, states: Floats | None) -> str:
    """How many of other questions are out of distribution."""
    state, reader = probe.spec.state, probe.reader
    if state is None or reader is None or states is None:
        return ""
    far = coordinates(reader, states)[1] > state.threshold
    return f"""
{int(far.sum()):,} of the {len(far):,} questions are out of distribution: their Mahalanobis distance
is above {state.threshold:.1f}, the {state.quantile:.2f} quantile of questions left out of a fit.
"""
