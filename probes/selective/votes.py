"""Votes of several answers to one question: which are equal, who wins, when to stop."""

import json
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from probes.graders import stated_answer
from probes.grading.final_answer import Rank, final_answer, graded_text, statements
from probes.grading.numerals import single_number
from probes.selective.scores import AnswerKind, StopRule

BETA = 0.95
"""Probability at which `beta` stops."""
CONSENSUS, LEAST_VOTES = 0.95, 4
"""Share of the votes at which `consensus` stops, and the votes that it needs."""


def answer_key(text: str, kind: AnswerKind) -> str | None:
    r"""The answer of a text, in a spelling that equal answers share; None if there is none.

    `auto` compares numbers by value where the final answer is one, and words otherwise. `boxed`
    reads `\\boxed{...}` only, `line` the last line that is not empty, `json` the whole text as JSON
    without regard to the order of keys. `numeric`, `choice` and `exact` are those of
    `probes.graders.stated_answer`.
    """
    if kind == "json":
        return _canonical_json(text)
    if kind == "line":
        last = graded_text(text).strip().split("\n")[-1]
        return " ".join(last.split()).casefold() or None
    if kind == "boxed":
        groups = statements(graded_text(text))
        boxed = [one for group in groups for one in group if one.rank is Rank.BOXED]
        return "".join(boxed[-1].text.split()) if boxed else None
    if kind == "auto":
        kind = "exact" if single_number(final_answer(text)) is None else "numeric"
    return stated_answer(text, kind)


def _canonical_json(text: str) -> str | None:
    try:
        return json.dumps(json.loads(text), sort_keys=True)
    except (ValueError, RecursionError):
        return None


class VoteGroup(NamedTuple):
    """Equal answers."""

    key: str
    members: list[int]
    """Indices of the samples, ascending."""
    weight: float
    """Sum of their weights."""


def count_votes(
    keys: Sequence[str | None], weights: Sequence[float] | None = None
) -> list[VoteGroup]:
    """Groups of equal answers, the heaviest first; of equal ones that of the lowest index.

    Args:
        keys: From `answer_key`.
        weights: Of the votes, above 0; by default all weigh 1.
    """
    groups: dict[str, list[int]] = {}
    for index, key in enumerate(keys):
        if key is not None:
            groups.setdefault(key, []).append(index)
    each = [1.0] * len(keys) if weights is None else weights
    found = [
        VoteGroup(key, members, math.fsum(each[one] for one in members))
        for key, members in groups.items()
    ]
    return sorted(found, key=lambda group: (-group.weight, group.members[0]))


def is_decided(keys: Sequence[str | None], left: int, rule: StopRule) -> bool:
    """Whether further samples need not be waited for.

    `lead`: the first group leads by more votes than are left, so the majority is certain. `beta`:
    the probability that the first group has more votes than the second in the long run is at least
    .95, P(Beta(v1 + 1, v2 + 1) > 1/2). `consensus`: it has .95 of at least four votes, which `beta`
    accepts as well.

    Args:
        keys: Of the samples that ended.
        left: Samples that did not end.
        rule: Which one.

    Source: `beta`, adaptive consistency (arXiv 2305.11860); `consensus`, DeepConf (arXiv
        2508.15260).
    """
    groups = count_votes(keys)
    if rule == "none" or not groups:
        return False
    first = len(groups[0].members)
    second = len(groups[1].members) if len(groups) > 1 else 0
    if rule == "lead":
        return first - second > left
    if rule == "consensus":
        votes = sum(len(group.members) for group in groups)
        return votes >= LEAST_VOTES and first >= CONSENSUS * votes
    return beta_lead(first, second) >= BETA


def weak_threshold(lowest: Sequence[float], percentile: float) -> float:
    """The lowest window that the samples after a warm-up need to go on and to have a vote.

    Args:
        lowest: That of every sample of the warm-up, from `probes.confidence.lowest_window`.
        percentile: From 0 to 100, interpolated linearly.

    Source: the online rule of DeepConf, arXiv 2508.15260; its "high" is percentile 10, "low" 90.
    """
    return float(np.percentile(lowest, percentile))


def beta_lead(first: int, second: int) -> float:
    """P(Beta(first + 1, second + 1) > 1/2), exact."""
    total = first + second + 1
    return float(sum(math.comb(total, k) for k in range(first + 1)) / 2**total)
