"""Rows of `train-probe decisions` beside the tickets: comparisons, and a quiz with four options."""

import random
import re
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from training.common.errors import TrainingError
from training.datasets.loaders import load_problems

LETTERS = ("A", "B", "C", "D")
COMPARISON_QUESTION: dict[str, Any] = {
    "type": "predicate",
    "name": "larger",
    "instructions": "Is the first result larger than the second one?",
}
QUIZ_QUESTION: dict[str, Any] = {
    "type": "choice",
    "name": "answer",
    "instructions": "Which of the answers is right?",
    "choices": [{"value": letter} for letter in LETTERS],
}
"""The options differ from row to row, so they stand in the input and the values are letters: all
rows have one question, which can be calibrated."""
_MIN_ANSWERS = 8
"""Distinct answers that a kind needs, so that its wrong options vary."""


def comparisons(number: int, seed: int) -> Iterator[dict[str, Any]]:
    """Pairs of sums, half of them with the larger one first.

    Args:
        number: Number of rows, all different.
        seed: Seed; equal seeds give equal rows.

    Yields:
        `input`, `question` and `value`.
    """
    chance = random.Random(f"comparisons:{seed}")
    seen = set[str]()
    while len(seen) < number:
        first, second = ([chance.randrange(2, 100) for _ in range(2)] for _ in range(2))
        larger = len(seen) % 2 == 0
        if sum(first) == sum(second):
            continue
        if (sum(first) > sum(second)) != larger:
            first, second = second, first
        text = f"First: {first[0]} + {first[1]}\nSecond: {second[0]} + {second[1]}"
        if text not in seen:
            seen.add(text)
            yield {"input": text, "question": COMPARISON_QUESTION, "value": larger}


def quiz_choices(number: int, seed: int) -> Iterator[dict[str, Any]]:
    """Questions of the quiz with four answers; the wrong ones answer others of the same kind.

    Args:
        number: Number of rows.
        seed: Seed; equal seeds give equal rows.

    Yields:
        `input`, `question` and `value`.

    Raises:
        TrainingError: The quiz has fewer questions of kinds with enough different answers.
    """
    problems = load_problems(["quiz"], 10_000, seed)
    answers = defaultdict(set)
    for one in problems:
        answers[one.task].add(one.answer)
    usable = [one for one in problems if len(answers[one.task]) >= _MIN_ANSWERS]
    if number > len(usable):
        raise TrainingError(f"the quiz has {len(usable)} questions with options, not {number}")
    chance = random.Random(f"quiz choices:{seed}")
    for problem in usable[:number]:
        wrong = [one for one in sorted(answers[problem.task]) if _differs(one, problem.answer)]
        options = [problem.answer, *chance.sample(wrong, len(LETTERS) - 1)]
        chance.shuffle(options)
        listed = [f"{letter}) {one}" for letter, one in zip(LETTERS, options, strict=True)]
        yield {
            "input": "\n".join([problem.prompt, *listed]),
            "question": QUIZ_QUESTION,
            "value": LETTERS[options.index(problem.answer)],
        }


def _differs(one: str, other: str) -> bool:
    """Whether neither answer contains the other, which could make both right."""
    first, second = (re.sub(r"\W+", " ", text.lower()).strip() for text in (one, other))
    return first not in second and second not in first
