"""The page of ways to group samples: figures with paired intervals over questions."""

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np

from benchmarks.difficulty.page import interval_cell
from benchmarks.machine import markdown
from probes.selective.scores import Estimator
from probes.selective.semantic import cluster_shares, semantic_entropy
from training.common.metrics import Floats, interval, resample_weights
from training.common.report import markdown_table
from training.common.selective import auroc, excess_aurc

REFERENCE, RANDOM, BASE = "logprob_mean", "at random", "answer"


class Drawn(NamedTuple):
    """One graded answer, and others to the same question."""

    right: bool
    scores: Mapping[str, float]
    length: int
    """Characters of the question."""
    logprobs: list[float]
    """Mean log-probability of a token, of the others."""
    others_right: list[bool]


class Grouping(NamedTuple):
    """One way to group the others."""

    name: str
    ids: list[list[list[int]]]
    """By question and draw: number of the group of each answer."""
    pairs: float = 0.0
    """Pairs that the model was asked about, for each question."""
    tokens: float = 0.0
    """Prompt tokens of these requests, for each question."""
    agreement: float | None = None
    """Share of pairs of which it says the same in both orders."""


Doubt = Callable[[Sequence[int], Sequence[float]], float]


def _entropy(estimator: Estimator) -> Doubt:
    return lambda ids, logprobs: semantic_entropy(cluster_shares(ids, estimator, logprobs))


ESTIMATES: dict[str, Doubt] = {
    "discrete": _entropy("discrete"),
    "likelihood": _entropy("likelihood"),
    "share of the largest group": lambda ids, _: -max(cluster_shares(ids, "discrete")),
}
"""Doubt from the groups of one question's samples."""


def doubts(drawn: Sequence[Drawn], way: Grouping, estimate: Doubt) -> Floats:
    """Doubt of every question; the mean over draws."""
    return np.array(
        [
            np.mean([estimate(ids, one.logprobs) for ids in draws])
            for one, draws in zip(drawn, way.ids, strict=True)
        ]
    )


def joined(drawn: Sequence[Drawn], way: Grouping, *, both_right: bool) -> float:
    """Share of pairs of answers in one group; of two right ones, or of a right and a wrong one."""
    found = [
        ids[one] == ids[two]
        for each, draws in zip(drawn, way.ids, strict=True)
        for ids in draws
        for one, two in combinations(range(len(ids)), 2)
        if each.others_right[one] + each.others_right[two] == 1 + both_right
    ]
    return float(np.mean(found)) if found else float("nan")


def page(title: str, facts: dict[str, Any], drawn: list[Drawn], ways: list[Grouping]) -> str:
    """The result as Markdown.

    Args:
        title: Task and model.
        facts: From `benchmarks.machine.describe`.
        drawn: Questions.
        ways: Ways to group their samples.
    """
    samples = len(drawn[0].others_right)
    right = np.mean([one.right for one in drawn])
    made = "\n".join(markdown(facts))
    return f"""# Ways to group samples: {title}

{made}

{len(drawn)} questions; {right:.3f} of the graded answers are right. {samples} other answers to
each are grouped, the same in every way.

## Which graded answers are wrong

{_figures(drawn, ways)}

AUROC is the probability that a wrong answer has more doubt than a right one. Intervals are 95 %,
a paired bootstrap over questions. "{RANDOM.capitalize()}" is a judge that says yes as often and
looks at nothing, the mean of several draws: what equal words alone tell.

## The groups

{_groups(drawn, ways)}

"Joined" is the share of pairs of samples that are in one group. Two right answers say the same, a
right and a wrong one do not. "Both orders" is the share of pairs of which the model says the same
in both orders.
"""


def _figures(drawn: list[Drawn], ways: list[Grouping]) -> str:
    wrong = np.array([not one.right for one in drawn], dtype=float)[:, None]
    weights = resample_weights(len(drawn), 0)
    once = np.full((1, len(drawn)), 1 / len(drawn))
    columns: dict[tuple[str, str], Floats] = {
        (way.name, name): doubts(drawn, way, estimate)
        for way in ways
        for name, estimate in ESTIMATES.items()
    }
    scores = [one.scores for one in drawn]
    for name, sign in ((REFERENCE, -1), ("entropy_mean", 1), ("num_tokens", 1)):
        columns[name, ""] = np.array([sign * one[name] for one in scores])
    columns["question length", ""] = np.array([float(one.length) for one in drawn])
    own = {key: auroc(one[:, None], wrong, once)[0] for key, one in columns.items()}
    drawn_values = {key: auroc(one[:, None], wrong, weights) for key, one in columns.items()}

    def beside(key: tuple[str, str], other: tuple[str, str]) -> str:
        if key == other or other not in columns:
            return ""
        gap = drawn_values[key] - drawn_values[other]
        return interval_cell(interval(own[key] - own[other], gap[~np.isnan(gap)]), "+.3f")

    lines = []
    for key in sorted(columns, key=lambda one: -own[one]):
        values = drawn_values[key][~np.isnan(drawn_values[key])]
        lines.append(
            [
                f"`{key[0]}`" if key[0] in scores[0] else key[0],
                key[1],
                interval_cell(interval(float(own[key]), values), ".3f"),
                beside(key, (REFERENCE, "")),
                beside(key, (BASE, key[1])) if key[1] else "",
                f"{excess_aurc(columns[key], wrong.ravel()):.3f}",
            ]
        )
    head = ("groups or score", "doubt", "AUROC", f"minus `{REFERENCE}`")
    return markdown_table((*head, f"minus {BASE}", "E-AURC"), lines)


def _groups(drawn: list[Drawn], ways: list[Grouping]) -> str:
    samples = len(drawn[0].others_right)
    lines = []
    for way in ways:
        sizes = np.array([np.mean([max(ids) + 1 for ids in draws]) for draws in way.ids])
        lines.append(
            [
                way.name,
                f"{sizes.mean():.2f}",
                f"{(sizes == samples).mean():.3f}",
                f"{joined(drawn, way, both_right=True):.3f}",
                f"{joined(drawn, way, both_right=False):.3f}",
                f"{way.pairs:.1f}" if way.pairs else "",
                f"{way.tokens:,.0f}" if way.tokens else "",
                "" if way.agreement is None else f"{way.agreement:.3f}",
            ]
        )
    head = ("groups", "number", "all differ", "joined, both right", "joined, right and wrong")
    return markdown_table((*head, "pairs", "prompt tokens", "both orders"), lines)
