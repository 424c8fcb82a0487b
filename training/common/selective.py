"""How well a score separates wrong answers from right ones. Pure functions of arrays.

`score` is an uncertainty: the higher, the more likely the answer is wrong. Arrays of answers have
the shape (questions, answers); resamples weight whole questions.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from training.common.metrics import (
    Floats,
    Interval,
    calibration_error,
    chance_calibration_error,
    interval,
    smallest_difference,
)

COVERAGES = (0.25, 0.5, 0.75)


class ScoreFigures(NamedTuple):
    """What one score says about wrong answers."""

    auroc: Interval
    ahead: Interval | None
    """AUROC minus that of the reference; None for the reference itself."""
    smallest: float
    """Smallest difference to the reference that so many questions could show."""
    accuracy: tuple[Interval, ...]
    """Of the surest 25, 50 and 75 % of the answers."""
    excess_aurc: float
    ece: float | None
    """Of the probability of being right by the score; None if it was not estimated."""
    chance_ece: float | None
    """What an exact probability would show on so few answers."""
    brier: float | None


def compare_scores(
    scores: Mapping[str, Floats],
    reference: str,
    estimates: Mapping[str, Floats],
    wrong: Floats,
    weights: Floats,
) -> dict[str, ScoreFigures]:
    """Every score against the same answers.

    Args:
        scores: By name; each of shape (questions, answers).
        reference: Name of the score that the others are compared with.
        estimates: Probability of being right by some of the scores; same shape.
        wrong: 1 for a wrong answer, else 0; same shape.
        weights: Shape (resamples, questions).
    """
    once = np.full((1, len(wrong)), 1 / len(wrong))
    own = float(auroc(scores[reference], wrong, once)[0])
    own_values = auroc(scores[reference], wrong, weights)
    right, found = 1.0 - wrong.ravel(), {}
    for name, score in scores.items():
        value, values = float(auroc(score, wrong, once)[0]), auroc(score, wrong, weights)
        kept = ~np.isnan(values)
        gap = (values - own_values)[kept]
        estimate = estimates[name].ravel() if name in estimates else None
        found[name] = ScoreFigures(
            interval(value, values[kept]),
            None if name == reference else interval(value - own, gap),
            smallest_difference(gap),
            tuple(
                interval(float(covered), resampled)
                for (covered,), resampled in zip(
                    accuracy_at_coverages(score, wrong, COVERAGES, once),
                    accuracy_at_coverages(score, wrong, COVERAGES, weights),
                    strict=True,
                )
            ),
            excess_aurc(score.ravel(), wrong.ravel()),
            None if estimate is None else calibration_error(estimate, right),
            None if estimate is None else chance_calibration_error(estimate),
            None if estimate is None else float(((estimate - right) ** 2).mean()),
        )
    return found


def auroc(score: Floats, wrong: Floats, weights: Floats) -> Floats:
    """Probability that a wrong answer has a higher score than a right one; ties count half.

    Args:
        score: Shape (questions, answers).
        wrong: 1 for a wrong answer, else 0; same shape.
        weights: Weight of every question in each resample, shape (resamples, questions).

    Returns:
        One value for each resample; NaN where all answers are right or all are wrong.
    """
    bad, good = wrong.astype(float), 1.0 - wrong
    above = np.zeros((len(score), len(score)))
    for column, is_bad in zip(score.T, bad.T, strict=True):  # one answer of every question
        larger = column[:, None, None] > score[None]
        equal = column[:, None, None] == score[None]
        above += is_bad[:, None] * ((larger + 0.5 * equal) * good[None]).sum(-1)
    pairs = (weights @ bad.sum(1)) * (weights @ good.sum(1))
    hits = np.einsum("rq,qp,rp->r", weights, above, weights, optimize=True)
    values: Floats = np.full(len(weights), np.nan)
    np.divide(hits, pairs, out=values, where=pairs > 0)
    return values


def error_by_coverage(score: Floats, wrong: Floats) -> Floats:
    """Error rate of the k answers with the lowest score, for k = 1, 2, ...

    Tied answers come in random order, so each counts as the mean of its tie.

    Args:
        score: Shape (answers,).
        wrong: Shape (answers,).
    """
    _, tie = np.unique(score, return_inverse=True)
    mean = np.bincount(tie, wrong) / np.bincount(tie)
    errors = np.cumsum(mean[np.sort(tie)])
    return np.asarray(errors / np.arange(1, len(score) + 1), dtype=np.float64)


def aurc(score: Floats, wrong: Floats) -> float:
    """Area under the risk-coverage curve: the mean of `error_by_coverage`.

    Source: Geifman et al. 2019 (arXiv 1805.08206).
    """
    return float(error_by_coverage(score, wrong).mean())


def excess_aurc(score: Floats, wrong: Floats) -> float:
    """AURC minus that of an order which puts all right answers first (E-AURC)."""
    return aurc(score, wrong) - aurc(wrong.astype(float), wrong)


def accuracy_at_coverages(
    score: Floats, wrong: Floats, coverages: Sequence[float], weights: Floats
) -> Floats:
    """Accuracy of some shares of the answers, those with the lowest score.

    Args:
        score: Shape (questions, answers).
        wrong: Likewise.
        coverages: The shares, between 0 and 1.
        weights: Shape (resamples, questions).

    Returns:
        Shape (coverages, resamples).
    """
    _, tie = np.unique(score, return_inverse=True)
    tie = tie.reshape(score.shape)
    by_question = np.arange(len(score))[:, None] + np.zeros_like(tie)
    size = np.zeros((len(score), tie.max() + 1))
    right = np.zeros_like(size)
    np.add.at(size, (by_question, tie), 1.0)
    np.add.at(right, (by_question, tie), 1.0 - wrong)
    nothing = np.zeros((len(weights), 1))
    kept, hits = (np.cumsum(np.hstack([nothing, weights @ part]), axis=1) for part in (size, right))
    values = [_interpolate(coverage * kept[:, -1:], kept, hits) for coverage in coverages]
    return np.asarray(values, dtype=np.float64)


def _interpolate(limit: Floats, kept: Floats, hits: Floats) -> Floats:
    """Share of hits among the first `limit` answers of each row."""
    last = (kept < limit).sum(1, keepdims=True)  # the tie that reaches the limit, partly taken
    (low, high), (below, above) = (
        (np.take_along_axis(part, last - 1, 1), np.take_along_axis(part, last, 1))
        for part in (kept, hits)
    )
    share = (below + (above - below) * (limit - low) / (high - low)) / limit
    return np.asarray(share[:, 0], dtype=np.float64)
