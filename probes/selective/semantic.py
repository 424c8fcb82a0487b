"""Semantic entropy: how much several answers to one question disagree in what they say."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from probes.selective.scores import Cluster, Estimator


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


_KNOWN = 0.2
"""Probability above which a reply counts as yes or no at all."""


class DirectedAnswer(NamedTuple):
    """Probabilities of the replies yes and no to a question about two answers in one order."""

    yes: float
    no: float

    @property
    def share(self) -> float:
        """Probability of yes among the two; 0 if the reply is probably neither, or not a number."""
        return self.yes / (self.yes + self.no) if max(self) > _KNOWN else 0.0


def is_same(how: Cluster, forward: DirectedAnswer, backward: DirectedAnswer) -> bool:
    """Whether two answers say the same, by what a model says of both orders.

    `entailment` wants a yes in each order, `judge` in the mean of both. A reply that is neither yes
    nor no counts as no.
    """
    shares = (forward.share, backward.share)
    return (min(shares) if how == "entailment" else math.fsum(shares) / 2) >= 0.5


def agree(forward: DirectedAnswer, backward: DirectedAnswer) -> bool:
    """Whether the model says the same of two answers in both orders."""
    return (forward.share >= 0.5) == (backward.share >= 0.5)


def normalized(text: str) -> str:
    """A text in lower case with single spaces."""
    return " ".join(text.split()).casefold()
