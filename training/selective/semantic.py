"""`train-probe semantic`: predicts from the prompt alone whether answers to it will disagree.

Semantic entropy probes (arXiv 2406.15927): the label of a question is whether the entropy of its
sampled answers is high, the features are the hidden state at the end of the prompt. A probe of the
same states that predicts wrong answers is fitted beside it, on the same folds.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from rich.console import Console

from probes.artifact import Artifact
from probes.selective.semantic import cluster_ids, cluster_shares, semantic_entropy
from training.common.errors import TrainingError
from training.common.metrics import Floats, resample_weights
from training.common.report import provenance, write_page
from training.common.selective import ScoreFigures, compare_scores
from training.selective.answers import AnsweredTask, graded_answers
from training.selective.config import SemanticConfig
from training.selective.figures import REFERENCE, figures_table
from training.selective.fit import STATE, FitData, candidates, cross_fitted, final_probe
from training.selective.prompt_state import read_states
from training.selective.rows import GradedAnswer, GradedAnswers

SEP, ACCURACY, SAMPLED = "SEP, state of the prompt", "accuracy probe, same states", "samples"


class Sampled(NamedTuple):
    """One question, its graded answer, and how much the other answers disagree."""

    graded: GradedAnswer
    entropy: float
    """Discrete semantic entropy, nats."""
    agreement: float
    """Share of the most frequent answer."""
    saturated: bool
    """Whether all answers differ."""


def train_semantic(job: SemanticConfig, console: Console) -> Path:
    """Run the job.

    Returns:
        The artifact's folder.

    Raises:
        TrainingError: It cannot be done; what was drawn stays in the run folder.
    """
    task = graded_answers(job, job.samples + 1, {}, console)
    questions = sampled_questions(task.answers)
    entropies = np.array([one.entropy for one in questions])
    limit = best_split(entropies)
    states = read_states(task, task.answers, job, console)
    high, right = (entropies > limit).astype(float), _right(questions)
    data = question_data(high, states)
    with console.status("fitting"):
        likely = cross_fitted(data, [(STATE,)], job.seed)[0]
        able = cross_fitted(question_data(right, states), [(STATE,)], job.seed)[0]
        mixed = np.random.default_rng(job.seed).permutation(high)
        chance = cross_fitted(question_data(mixed, states), [(STATE,)], job.seed)[0]
        doubts = {**_doubts(questions), SEP: likely, ACCURACY: -able, "SEP, shuffled": chance}
        of_errors = _compare(doubts, {ACCURACY: able}, 1 - right, job.seed)
        del doubts[SAMPLED]  # it is the label
        of_entropy = _compare(doubts, {}, high, job.seed)
        best = candidates(data, [(STATE,)], job.seed)[0]
        probe = final_probe(data, best, task.answers, job.seed, "high_entropy")
    artifact = Artifact(
        id=job.name or f"{task.model}/semantic",
        manifest=task.manifest(
            job,
            ("entrostat", "safetensors", "scikit-learn"),
            kind="confidence",
            confidence=probe.spec,
            metrics={
                "questions": len(questions),
                "samples": job.samples,
                "high_entropy": round(float(high.mean()), 4),
                "high_entropy_from": round(limit, 4),
                "auroc_high_entropy": round(of_entropy[SEP].auroc.value, 4),
                "auroc_errors": round(of_errors[SEP].auroc.value, 4),
                "accuracy_probe_auroc_errors": round(of_errors[ACCURACY].auroc.value, 4),
            },
        ),
        tensors=probe.tensors(),
    )
    folder = artifact.save(job.out)
    page = _page(job, task, artifact, questions, limit, of_errors, of_entropy)
    written = write_page(task.run, "semantic", page)
    console.print(f"artifact: {folder}\nreport:   {written}", highlight=False, soft_wrap=True)
    return folder


def sampled_questions(answers: GradedAnswers) -> list[Sampled]:
    """Every question, in the order of their texts.

    Raises:
        TrainingError: A question has fewer than three answers, or most are saturated.
    """
    for row in answers.rows:
        if REFERENCE not in row.scores or "entropy_mean" not in row.scores:
            raise TrainingError(f"every row needs `{REFERENCE}` and `entropy_mean`")
    if all(row.answer is None for row in answers.rows):
        raise TrainingError("no row has an `answer`, by which answers could be compared")
    by_question: dict[str, list[GradedAnswer]] = {}
    for row in answers.rows:
        by_question.setdefault(row.question, []).append(row)
    found = []
    for question, (first, *others) in sorted(by_question.items()):
        if len(others) < 2:
            raise TrainingError(
                f"`{question[:60]}` has {len(others) + 1} answers: three are needed, of which one "
                "is graded"
            )
        ids = cluster_ids([row.answer for row in others])
        shares = cluster_shares(ids, "discrete")
        entropy, saturated = semantic_entropy(shares), len(shares) == len(ids)
        found.append(Sampled(first, entropy, max(shares), saturated))
    if np.mean([one.saturated for one in found]) > 0.5:
        raise TrainingError(
            "all answers differ for more than half of the questions, so their entropy says "
            "nothing: ask for shorter answers or lower --temperature"
        )
    return found


def best_split(values: Floats) -> float:
    """The value between two neighbors that leaves the least squared error on both sides.

    Raises:
        TrainingError: All values are equal.
    """
    distinct = np.unique(values)
    if len(distinct) < 2:
        raise TrainingError("answers to all questions disagree equally: nothing can be predicted")
    limits = (distinct[1:] + distinct[:-1]) / 2
    errors = [
        sum(((part - part.mean()) ** 2).sum() for part in (values[values < x], values[values > x]))
        for x in limits
    ]
    return float(limits[int(np.argmin(errors))])


def question_data(labels: Floats, states: Floats) -> FitData:
    """A label for each question and its state, as `fit_probe` takes them."""
    return FitData({}, labels, np.arange(len(labels), dtype=float), states)


def _right(questions: list[Sampled]) -> Floats:
    return np.array([float(one.graded.right) for one in questions])


def _doubts(questions: list[Sampled]) -> dict[str, Floats]:
    """What else tells doubtful questions, before or after an answer."""
    rows = [one.graded for one in questions]
    scores = [row.scores for row in rows]
    return {
        REFERENCE: -np.array([one[REFERENCE] for one in scores], dtype=float),
        SAMPLED: np.array([one.entropy for one in questions]),
        "entropy_mean": np.array([one["entropy_mean"] for one in scores]),
        "num_tokens": np.array([one.get("num_tokens", 0.0) for one in scores]),
        "question length": np.array([float(len(row.question)) for row in rows]),
    }


def _compare(
    doubts: dict[str, Floats], estimates: dict[str, Floats], label: Floats, seed: int
) -> dict[str, ScoreFigures]:
    """AUROC of every doubt for a label of the questions."""
    columns = {name: doubt[:, None] for name, doubt in doubts.items()}
    weights = resample_weights(len(label), seed)
    return compare_scores(columns, REFERENCE, estimates, label[:, None], weights)


def _page(
    job: SemanticConfig,
    task: AnsweredTask,
    artifact: Artifact,
    questions: list[Sampled],
    limit: float,
    of_errors: dict[str, ScoreFigures],
    of_entropy: dict[str, ScoreFigures],
) -> str:
    rows = len(questions)
    saturated = sum(one.saturated for one in questions)
    high = sum(one.entropy > limit for one in questions)
    return f"""# Semantic entropy of {task.model} on {Path(job.task).name}, from the prompt alone

{provenance(artifact.manifest, job.command)}

{rows:,} questions, {_right(questions).mean():.3f} of their first answers right. The label is the
entropy of {job.samples} other answers: high above {limit:.3f} nats, at {high:,} questions; at
{saturated:,} all answers differ.

## Which first answers are wrong

{figures_table(of_errors)}

## Where the entropy is high

{figures_table(of_entropy)}

AUROC is the probability that a question with the label has more doubt than one without; in the
second table, "right" stands for a low entropy. Intervals are 95 % bootstraps over questions. Both
probes are cross-fitted on the same folds: axes, weights and calibration come from the other four
fifths of the questions. "SEP, shuffled" is fitted to permuted labels. `{SAMPLED}` is the semantic
entropy itself, at the cost of {job.samples} answers; the probes read one prompt and cost no token.
"""
