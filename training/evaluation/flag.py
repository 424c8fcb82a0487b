"""The entropy report as a flag for wrong answers, compared with simpler scores."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from sklearn.linear_model import LogisticRegression

from training.common.metrics import Floats, Interval, interval, resample_weights
from training.common.selective import COVERAGES, ScoreFigures, compare_scores
from training.evaluation.answers import ArmAnswers

ENTROPY = "entropy_mean"
SHUFFLED = "entropy_mean, shuffled"
CONTROLS = (
    "mean logprob (stock)",
    "answer length",
    "question length",
    "kind of question",
    SHUFFLED,
)
"""Scores that need no report of ours."""


class FlagResult(NamedTuple):
    """Every score beside each other."""

    accuracy: Interval
    """Of all answers."""
    scores: dict[str, ScoreFigures]
    votes: dict[str, ScoreFigures]
    """Scores of a question against its majority being wrong; needs several answers each."""
    num_questions: int
    num_answers: int
    thresholds: tuple[float, ...]
    """`entropy_mean` below which the surest 25, 50 and 75 % of the answers are."""


def measure_flag(
    answers: ArmAnswers, kinds: Sequence[str], lengths: Sequence[int], half: Floats, seed: int
) -> FlagResult | None:
    """Compare the scores; None where all answers are right, or all wrong.

    Args:
        answers: Plain answers.
        kinds: Kind of every question.
        lengths: Characters of every question.
        half: 0 or 1 for every question. What is fitted on one half scores the other.
        seed: Of the resamples and the permutation.
    """
    wrong = 1.0 - answers.right
    if wrong.min() == wrong.max():
        return None
    weights = resample_weights(len(wrong), seed)
    columns = np.ones_like(wrong)
    scores = {
        ENTROPY: answers.entropy_mean,
        "entropy_max": answers.entropy_max,
        "varentropy_mean": answers.varentropy_mean,
        "mean logprob (stock)": -answers.logprob_mean,
        "sum of logprobs (stock)": -answers.logprob_sum,
        **_final_part(answers),
        "answer length": answers.tokens,
        "question length": np.array(lengths, dtype=np.float64)[:, None] * columns,
        "kind of question": _by_kind(wrong, kinds, half)[:, None] * columns,
        SHUFFLED: _permuted(answers.entropy_mean, seed),
    }
    scores = {name: score for name, score in scores.items() if not np.isnan(score).any()}
    majority = 1.0 - answers.majority_right()[:, None]
    votes = {
        "share of the votes": 1.0 - answers.vote_share()[:, None],
        "entropy_mean over the answers": answers.entropy_mean.mean(1)[:, None],
    }
    decided = np.round(majority)  # a tie counts as wrong if it is wrong more often
    return FlagResult(
        accuracy=interval(float(answers.right.mean()), weights @ answers.right.mean(1)),
        scores=_compare(scores, wrong, weights, half),
        votes=_compare(votes, decided, weights, half) if decided.min() < decided.max() else {},
        num_questions=len(wrong),
        num_answers=wrong.size,
        thresholds=tuple(np.quantile(answers.entropy_mean, COVERAGES).tolist()),
    )


def _final_part(answers: ArmAnswers) -> dict[str, Floats]:
    """Scores over the part that the grader reads; none where that is always the whole answer."""
    if np.array_equal(answers.final_entropy_mean, answers.entropy_mean):
        return {}
    return {
        "entropy_mean, final part": answers.final_entropy_mean,
        "varentropy_mean, final part": answers.final_varentropy_mean,
        "mean logprob, final part (stock)": -answers.final_logprob_mean,
        "sum of logprobs, final part (stock)": -answers.final_logprob_sum,
    }


def _compare(
    scores: Mapping[str, Floats], wrong: Floats, weights: Floats, half: Floats
) -> dict[str, ScoreFigures]:
    estimates = {name: _probability(score, wrong, half) for name, score in scores.items()}
    return compare_scores(scores, next(iter(scores)), estimates, wrong, weights)


def _by_kind(wrong: Floats, kinds: Sequence[str], half: Floats) -> Floats:
    """Error rate of the question's kind on the other half; a kind not seen gets the mean."""
    names = np.array(kinds)
    rates = np.zeros(len(names))
    for part in (0, 1):
        seen, new = half != part, half == part
        rate = wrong[seen].mean()
        for kind in set(kinds):
            among = seen & (names == kind)
            rates[new & (names == kind)] = wrong[among].mean() if among.any() else rate
    return rates


def _permuted(score: Floats, seed: int) -> Floats:
    order = np.random.default_rng(seed).permutation(score.size)
    return np.asarray(score.ravel()[order].reshape(score.shape))


def _probability(score: Floats, wrong: Floats, half: Floats) -> Floats:
    """Probability of being right by the score, from a curve fitted on the other half."""
    found = np.full(score.shape, 1.0 - wrong.mean())
    centered = (score - score.mean()) / (score.std() or 1.0)
    for part in (0, 1):
        seen, new = half != part, half == part
        truth = 1.0 - wrong[seen].ravel()
        if 0 < truth.sum() < len(truth):
            model = LogisticRegression().fit(centered[seen].ravel()[:, None], truth)
            probability = model.predict_proba(centered[new].ravel()[:, None])[:, 1]
            found[new] = probability.reshape(found[new].shape)
    return found
