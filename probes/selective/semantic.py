"""Semantic entropy: how much several answers to one question disagree in what they say."""

import math
from collections.abc import Sequence

from probes.selective.scores import Estimator


def cluster_ids(keys: Sequence[str | None]) -> list[int]:
    """Number of the cluster of each answer; an answer without a key is a cluster of its own.

    Args:
        keys: From `probes.selective.votes.answer_key`.
    """
    found: dict[str, int] = {}
    ids, number = [], 0
    for key in keys:
        if key is None or key not in found:
            ids.append(number)
            if key is not None:
                found[key] = number
            number += 1
        else:
            ids.append(found[key])
    return ids


def cluster_shares(
    ids: Sequence[int], estimator: Estimator, logprobs: Sequence[float] = ()
) -> list[float]:
    """Probability of each cluster.

    `discrete` counts answers. `likelihood` weighs each by the exponential of its mean token
    log-probability; the same text sampled twice counts twice.

    Args:
        ids: Of the clusters, from 0.
        estimator: Which one.
        logprobs: Mean log-probability of every answer, for `likelihood`.

    Source: Farquhar et al., Nature 2024, doi 10.1038/s41586-024-07421-0.
    """
    weights = [1.0] * len(ids)
    if estimator == "likelihood":
        top = max(logprobs)
        weights = [math.exp(value - top) for value in logprobs]
    total = math.fsum(weights)
    shares = [0.0] * (max(ids, default=-1) + 1)
    for one, weight in zip(ids, weights, strict=True):
        shares[one] += weight / total
    return shares


def semantic_entropy(shares: Sequence[float]) -> float:
    """Entropy of the clusters in nats: from 0, one cluster, to ln n, all answers different."""
    return max(0.0, -math.fsum(share * math.log(share) for share in shares if share > 0))
