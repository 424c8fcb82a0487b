"""Weighted votes beside plain majority, on the same samples and therefore at equal tokens.

Reads the rows of `train-probe semantic` or `train-probe confidence`: several graded answers to each
question with their scores. For every number of samples n, votes are taken over random subsets of
the rows of a question; the weights are those of published methods, and random numbers.

    python -m benchmarks.votes runs/.../rows.jsonl --title "quiz, 0.5B" --out results/votes-quiz
"""

import argparse
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.machine import describe, markdown
from training.common.metrics import Floats, Interval, interval, resample_weights
from training.common.report import markdown_table
from training.selective.rows import GradedAnswer, GradedAnswers, load_rows

SIZES = (2, 4, 8)
_SUBSETS = 40
"""Random subsets of the samples of each question."""
NONE, RANDOM = "none (majority)", "random numbers"
Weigh = Callable[[Mapping[str, float], np.random.Generator], float]
WEIGHTS: dict[str, Weigh] = {
    NONE: lambda scores, draw: 1.0,
    "probability of a token": lambda scores, draw: math.exp(scores["logprob_mean"]),
    "probability of the answer": lambda scores, draw: math.exp(scores["logprob_sum"]),
    "self-certainty, mean": lambda scores, draw: scores["self_certainty_mean"],
    "self-certainty, lowest window": lambda scores, draw: scores["self_certainty_window_min"],
    RANDOM: lambda scores, draw: float(draw.uniform()),
}
"""Weight of a sample from its scores."""


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
        weights = [weigh(row.scores, draw) for row in chosen]
        found += chosen[winner([row.answer for row in chosen], weights)].right
    return found / len(subsets)


def compare(answers: GradedAnswers, size: int, seed: int = 0) -> dict[str, VoteFigures]:
    """Every weight at one number of samples; all see the same subsets."""
    questions: dict[str, list[GradedAnswer]] = {}
    for row in answers.rows:
        questions.setdefault(row.question, []).append(row)
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
    made = "\n".join(markdown(facts))
    return f"""# Votes on {title}

{made}

{questions:,} questions with {most} samples each at T = {answers.temperature}; of single samples
{single:.3f} are right.

{table}

All weights see the same samples, so all cost the same tokens. Every vote is taken over {_SUBSETS}
random subsets of the samples of a question. Intervals are 95 % bootstraps over questions.
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
