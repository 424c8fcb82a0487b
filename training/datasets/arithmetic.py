"""Arithmetic and word problems in ten levels, generated from a seed."""

import random
from collections.abc import Callable, Iterator
from itertools import islice
from typing import NamedTuple

from training.datasets.problem import Problem
from training.datasets.turns import interleave

LEVELS = range(1, 11)
_PATIENCE = 50
"""Attempts per generated problem before a level counts as exhausted."""


def arithmetic(number: int, seed: int) -> list[Problem]:
    """Expressions: from one-digit sums (level 1) to products of three and two digits (level 10).

    Args:
        number: Number of distinct problems, spread evenly over the levels; a level with fewer
            problems returns all of them.
        seed: Seed; equal seeds give equal problems.
    """
    return _spread_over_levels("arithmetic", _expression, number, seed)


def word_problems(number: int, seed: int) -> list[Problem]:
    """Stories of one step (levels 1 and 2) to five steps (levels 9 and 10).

    Args:
        number: Number of distinct problems, spread evenly over the levels; a level with fewer
            problems returns all of them.
        seed: Seed; equal seeds give equal problems.
    """
    return _spread_over_levels("words", _story, number, seed)


def drill(number: int, seed: int) -> list[Problem]:
    """Products of 2 to 9 (level 1) and sums up to 40 (level 2), two to one.

    A model with 135M parameters learns this task in a few training steps.

    Args:
        number: Number of problems, at most the 64 distinct products and 703 sums.
        seed: Seed; equal seeds give equal problems.
    """
    chance = random.Random(f"drill:{seed}")
    digits = range(2, 10)
    products = [(1, f"What is {a} * {b}?", a * b) for a in digits for b in digits]
    sums = [(2, f"What is {a} + {b}?", a + b) for a in range(2, 39) for b in range(2, 41 - a)]
    chance.shuffle(products)
    chance.shuffle(sums)
    chosen = [
        row for rows in zip(sums, sums[len(products) :], products, strict=False) for row in rows
    ]
    chosen += sums[2 * len(products) :]
    return [
        Problem(task="drill", level=level, prompt=prompt, answer=str(answer), grader="numeric")
        for level, prompt, answer in chosen[:number]
    ]


def _spread_over_levels(
    task: str, make: Callable[[int, random.Random], tuple[str, int]], number: int, seed: int
) -> list[Problem]:
    chance, asked = random.Random(f"{task}:{seed}"), set[str]()

    def of(level: int) -> Iterator[Problem]:
        num_found = misses = 0
        # A remaining problem is drawn about once in `num_found` attempts or more often.
        while misses <= _PATIENCE * (num_found + 1):
            prompt, answer = make(level, chance)
            misses += 1
            if prompt not in asked:
                asked.add(prompt)
                num_found, misses = num_found + 1, 0
                yield Problem(
                    task=task, level=level, prompt=prompt, answer=str(answer), grader="numeric"
                )

    return list(islice(interleave(of(level) for level in LEVELS), number))


class _Operands(NamedTuple):
    """Operand ranges of one level."""

    left: tuple[int, int]
    right: tuple[int, int]
    operators: str


_OPERANDS = {
    1: _Operands((1, 9), (1, 9), "+"),
    2: _Operands((2, 20), (1, 9), "+-"),
    3: _Operands((2, 9), (2, 9), "*"),
    4: _Operands((10, 99), (10, 99), "+"),
    5: _Operands((20, 99), (10, 99), "-"),
    6: _Operands((11, 19), (2, 9), "*"),
    7: _Operands((100, 999), (100, 999), "+"),
    8: _Operands((100, 999), (100, 999), "-"),
    9: _Operands((12, 99), (12, 99), "*"),
    10: _Operands((100, 999), (12, 99), "*"),
}


def _expression(level: int, chance: random.Random) -> tuple[str, int]:
    operands = _OPERANDS[level]
    left, right = chance.randint(*operands.left), chance.randint(*operands.right)
    operator = chance.choice(operands.operators)
    if operator == "-" and right > left:
        left, right = right, left
    value = {"+": left + right, "-": left - right, "*": left * right}[operator]
    return f"What is {left} {operator} {right}?", value


_NAMES = ("Ada", "Bela", "Chidi", "Dana", "Emre", "Farah", "Goran", "Hana", "Ivo", "Jun")
_THINGS = ("apples", "pencils", "stamps", "marbles", "cards", "books", "shells", "coins")


def _story(level: int, chance: random.Random) -> tuple[str, int]:
    """A chain of steps that change one quantity, which never becomes negative."""
    steps, large = (level + 1) // 2, level % 2 == 0
    name, thing = chance.choice(_NAMES), chance.choice(_THINGS)
    top = 60 if large else 12
    have = chance.randint(3, top)
    sentences = [f"{name} has {have} {thing}."]
    for _ in range(steps):
        sentence, have = _step(have, top, thing, chance)
        sentences.append(sentence)
    return f"{' '.join(sentences)} How many {thing} does {name} have now?", have


def _step(have: int, top: int, thing: str, chance: random.Random) -> tuple[str, int]:
    kind = chance.choice(("more", "less", "times", "half"))
    some = chance.randint(2, top)
    if kind == "less" and have > 2:
        some = chance.randint(1, have - 1)
        return f"Then {some} of them are given away.", have - some
    if kind == "times" and have <= 200:
        factor = chance.randint(2, 4)
        word = {2: "doubles", 3: "triples", 4: "quadruples"}[factor]
        return f"Then the number of {thing} {word}.", have * factor
    if kind == "half" and have % 2 == 0:
        return f"Then half of the {thing} get lost.", have // 2
    return f"Then {some} more {thing} are found.", have + some
