"""Weighted votes beside plain majority, on the same samples and therefore at equal tokens.

Reads the rows of `train-probe semantic` or `train-probe confidence`: several graded answers to each
question with their scores. For every number of samples n, votes are taken over random subsets of
the rows of a question; the weights are those of published methods, and random numbers. A second
table has the rules that end a vote early, where the samples end in random order.

    python -m benchmarks.votes runs/.../rows.jsonl --title "quiz, 0.5B" --out results/votes-quiz
"""

import argparse
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.machine import describe, markdown
from probes.selective.scores import StopRule
from probes.selective.votes import is_decided
from training.common.metrics import Floats, Interval, interval, resample_weights
from training.common.report import markdown_table
from training.selective.rows import GradedAnswer, GradedAnswers, load_rows

SIZES = (2, 4, 8)
_SUBSETS = 40
"""Random subsets of the samples of each question."""
NONE, RANDOM = "none (majority)", "random numbers"
RULES: tuple[StopRule, ...] = ("none", "lead", "beta", "consensus")
Score = Callable[[Mapping[str, float], np.random.Generator], float]
Weigh = Callable[[Sequence[Mapping[str, float]], np.random.Generator], list[float]]


def _each(score: Score) -> Weigh:
    return lambda samples, draw: [score(one, draw) for one in samples]


def _half(score: Score) -> Weigh:
    """One vote for each of the half with the highest scores, none for the others."""

    def weigh(samples: Sequence[Mapping[str, float]], draw: np.random.Generator) -> list[float]:
        scores = np.array([score(one, draw) for one in samples])
        kept = np.argsort(-scores, kind="stable")[: math.ceil(len(scores) / 2)]
        return [float(number in kept) for number in range(len(scores))]

    return weigh


def _token(scores: Mapping[str, float], draw: np.random.Generator) -> float:
    return math.exp(scores["logprob_mean"])


def _certainty(scores: Mapping[str, float], draw: np.random.Generator) -> float:
    return scores["self_certainty_mean"]


def _random(scores: Mapping[str, float], draw: np.random.Generator) -> float:
    return float(draw.uniform())


WEIGHTS: dict[str, Weigh] = {
    NONE: lambda samples, draw: [1.0] * len(samples),
    "probability of a token": _each(_token),
    "probability of the answer": _each(lambda scores, draw: math.exp(scores["logprob_sum"])),
    "self-certainty, mean": _each(_certainty),
    "self-certainty, lowest window": _each(
        lambda scores, draw: scores["self_certainty_window_min"]
    ),
    RANDOM: _each(_random),
    "surer half by probability": _half(_token),
    "surer half by self-certainty": _half(_certainty),
    "random half": _half(_random),
}
"""Weights of samples from their scores."""


class VoteFigures(NamedTuple):
    """Accuracy of a kind of vote."""

    accuracy: Interval
    ahead: Interval
    """Minus that of the majority, paired by question."""


def winner(keys: Sequence[str | None], weights: Sequence[float]) -> int:
    """Index of the first sample of the heaviest group; 0 if no sample has an answer.

    Equally heavy groups: that of the earliest sample.
    """
    sums: dict[str, float] = {}
    for key, weight in zip(keys, weights, strict=True):
        if key is not None:
            sums[key] = sums.get(key, 0.0) + weight
    if not sums:
        return 0
    best = max(sums.values())
    return keys.index(next(key for key, value in sums.items() if value == best))


def right_share(rows: Sequence[GradedAnswer], size: int, weigh: Weigh, seed: int) -> float:
    """Share of random subsets of one question's answers whose winner is right."""
    draw = np.random.default_rng(seed)
    subsets = [draw.permutation(len(rows))[:size].tolist() for _ in range(_SUBSETS)]
    found = 0
    for subset in subsets:
        chosen = [rows[one] for one in subset]
        weights = weigh([row.scores for row in chosen], draw)
        found += chosen[winner([row.answer for row in chosen], weights)].right
    return found / len(subsets)


def compare(answers: GradedAnswers, size: int, seed: int = 0) -> dict[str, VoteFigures]:
    """Every weight at one number of samples; all see the same subsets."""
    questions = by_question(answers)
    shares: dict[str, Floats] = {
        name: np.array(
            [
                right_share(rows, size, weigh, seed + number)
                for number, rows in enumerate(questions.values())
            ]
        )
        for name, weigh in WEIGHTS.items()
    }
    resamples = resample_weights(len(questions), seed)
    return {
        name: VoteFigures(
            interval(float(own.mean()), resamples @ own),
            interval(float((own - shares[NONE]).mean()), resamples @ (own - shares[NONE])),
        )
        for name, own in shares.items()
    }


class StopFigures(NamedTuple):
    """A rule that ends a vote early."""

    drawn: float
    """Mean number of samples that ended."""
    tokens: float
    """Their share of the tokens of all samples."""
    accuracy: Interval
    ahead: Interval
    """Minus that of all samples, paired by question."""


def stopped(rows: Sequence[GradedAnswer], size: int, rule: StopRule, seed: int) -> Floats:
    """Samples that ended, their share of the tokens, and whether the winner is right.

    Means over random orders of one question's answers. An aborted sample costs no token here.
    """
    draw, found = np.random.default_rng(seed), []
    for _ in range(_SUBSETS):
        chosen = [rows[one] for one in draw.permutation(len(rows))[:size].tolist()]
        keys = [row.answer for row in chosen]
        ended = next(
            (n for n in range(1, size) if is_decided(keys[:n], size - n, rule)),
            size,
        )
        lengths = [row.scores["num_tokens"] for row in chosen]
        best = chosen[winner(keys[:ended], [1.0] * ended)]
        found.append([ended, sum(lengths[:ended]) / sum(lengths), best.right])
    means: Floats = np.mean(np.array(found, dtype=float), axis=0)
    return means


def compare_rules(answers: GradedAnswers, size: int, seed: int = 0) -> dict[StopRule, StopFigures]:
    """Every rule at one number of samples; all see the same orders."""
    questions = list(by_question(answers).values())
    resamples = resample_weights(len(questions), seed)
    found: dict[StopRule, StopFigures] = {}
    whole: Floats | None = None
    for rule in RULES:
        values = [stopped(rows, size, rule, seed + n) for n, rows in enumerate(questions)]
        drawn, tokens, own = np.array(values).T
        whole = own if whole is None else whole
        found[rule] = StopFigures(
            float(drawn.mean()),
            float(tokens.mean()),
            interval(float(own.mean()), resamples @ own),
            interval(float((own - whole).mean()), resamples @ (own - whole)),
        )
    return found


def by_question(answers: GradedAnswers) -> dict[str, list[GradedAnswer]]:
    """The answers to each question."""
    questions: dict[str, list[GradedAnswer]] = {}
    for row in answers.rows:
        questions.setdefault(row.question, []).append(row)
    return questions


def page(title: str, answers: GradedAnswers, facts: dict[str, object]) -> str:
    """The result as Markdown."""
    questions = len({row.question for row in answers.rows})
    single = np.mean([row.right for row in answers.rows])
    most = len(answers.rows) // questions
    lines = []
    for size in (one for one in SIZES if one <= most):
        for name, found in compare(answers, size).items():
            own, ahead = found
            lines.append(
                [
                    str(size),
                    name,
                    f"{own.value:.3f} ({own.low:.3f} to {own.high:.3f})",
                    ""
                    if name == NONE
                    else f"{ahead.value:+.3f} ({ahead.low:+.3f} to {ahead.high:+.3f})",
                ]
            )
    table = markdown_table(["samples", "weight of a vote", "right", "minus majority"], lines)
    size = max(one for one in SIZES if one <= most)
    rules = markdown_table(
        ["rule", "samples that end", "share of the tokens", "right", "minus all samples"],
        [
            [
                rule,
                f"{one.drawn:.1f}",
                f"{one.tokens:.2f}",
                f"{one.accuracy.value:.3f} ({one.accuracy.low:.3f} to {one.accuracy.high:.3f})",
                ""
                if rule == "none"
                else f"{one.ahead.value:+.3f} ({one.ahead.low:+.3f} to {one.ahead.high:+.3f})",
            ]
            for rule, one in compare_rules(answers, size).items()
        ],
    )
    made = "\n".join(markdown(facts))
    return f"""# Votes on {title}

{made}

{questions:,} questions with {most} samples each at T = {answers.temperature}; of single samples
{single:.3f} are right.

{table}

All weights see the same samples, so all cost the same tokens. Every vote is taken over {_SUBSETS}
random subsets of the samples of a question. Intervals are 95 % bootstraps over questions.

## Ending early

Votes of {size} samples that end in random order, under every `stop` of the control `vote`.

{rules}

An aborted sample counts no token here; on a server it costs those that were drawn before.
"""


def main() -> None:
    """Compare and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rows", type=Path)
    parser.add_argument("--title", required=True, help="task and model")
    parser.add_argument("--out", type=Path, required=True, help="without suffix")
    options = parser.parse_args()
    facts = describe("benchmarks.votes")
    found = page(options.title, load_rows(options.rows), facts)
    Path(f"{options.out}.md").write_text(found)  # a name such as model-0.5b has no suffix


if __name__ == "__main__":
    main()
