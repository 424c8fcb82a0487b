"""Unbiased estimators from n answers to a question. Pure functions."""

from collections.abc import Sequence
from math import comb

import numpy as np

from training.common.metrics import Floats


def pass_at_k(num_right: int, num_answers: int, k: int) -> float:
    """Probability that at least one of k answers is right.

    Args:
        num_right: Right ones among the answers.
        num_answers: Answers drawn, at least k.
        k: Answers that a user would draw.

    Source: Chen et al. 2021 (arXiv 2107.03374), eq. 1.
    """
    return 1.0 - comb(num_answers - num_right, k) / comb(num_answers, k)


def majority_at_k(num_right: int, wrong: Sequence[int], k: int) -> float:
    """Probability that the most frequent of k answers is right; ties are broken at random.

    The mean over all subsets of k answers, counted by a generating function: the right answer has r
    votes, and every wrong one fewer, or as many and ties with it.

    Args:
        num_right: Votes for the right answer among all that were drawn.
        wrong: Votes for each wrong answer.
        k: Size of the vote, at most the number of answers.
    """
    total = num_right + sum(wrong)
    won = 0.0
    for votes in range(1, min(num_right, k) + 1):
        ways = _ways_to_lose(wrong, votes, k - votes)
        won += comb(num_right, votes) * sum(
            count / (ties + 1) for ties, count in enumerate(ways.tolist())
        )
    return won / comb(total, k)


def _ways_to_lose(wrong: Sequence[int], most: int, size: int) -> Floats:
    """Ways to draw `size` wrong answers, none more than `most` times, by how many tie."""
    ways = np.zeros((size + 1, len(wrong) + 1))  # by answers drawn and by ties
    ways[0, 0] = 1.0
    for votes in wrong:
        added = np.zeros_like(ways)
        for drawn in range(min(votes, most, size) + 1):
            shifted = np.zeros_like(ways)
            shifted[drawn:] = ways[: size + 1 - drawn] * comb(votes, drawn)
            if drawn == most:
                shifted[:, 1:] = shifted[:, :-1].copy()
                shifted[:, 0] = 0.0
            added += shifted
        ways = added
    return np.asarray(ways[size], dtype=np.float64)


def at_equal(x: Floats, curve_x: Floats, curve_y: Floats) -> Floats:
    """Height of a curve at `x`, linear between its points, constant beyond its ends.

    Args:
        x: Shape (resamples,).
        curve_x: Shape (resamples, points), in any order.
        curve_y: Likewise.
    """
    order = np.argsort(curve_x, axis=1)
    xs = np.take_along_axis(curve_x, order, 1)
    ys = np.take_along_axis(curve_y, order, 1)
    heights = [np.interp(at, row_x, row_y) for at, row_x, row_y in zip(x, xs, ys, strict=True)]
    return np.asarray(heights, dtype=np.float64)
