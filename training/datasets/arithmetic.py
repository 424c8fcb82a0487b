"""Sums and word problems in ten grades, made from a seed."""

import random
from collections.abc import Callable, Iterator
from itertools import islice
from typing import NamedTuple

from training.datasets.problem import Problem
from training.datasets.turns import in_turn

GRADES = range(1, 11)
_PATIENCE = 50
"""Attempts per problem found before a grade counts as exhausted."""


def arithmetic(number: int, seed: int) -> list[Problem]:
    """Expressions: from one-digit sums (grade 1) to products of three and two digits (grade 10).

    Args:
        number: How many, no two the same, spread evenly over the grades; a grade that has fewer
            gives all it has.
        seed: Same seed, same problems.
    """
    return _spread("arithmetic", _expression, number, seed)


def word_problems(number: int, seed: int) -> list[Problem]:
    """Stories of one step (grades 1 and 2) to five steps (grades 9 and 10).

    Args:
        number: How many, no two the same, spread evenly over the grades; a grade that has fewer
            gives all it has.
        seed: Same seed, same problems.
    """
    return _spread("words", _story, number, seed)


def drill(number: int, seed: int) -> list[Problem]:
    """Products of 2 to 9 (grade 1) and sums up to 40 (grade 2), two to one.

    Small enough that a model of 135M parameters learns it in a few steps of training.

    Args:
        number: How many; there are 64 different products and 703 sums, and no more are given.
        seed: Same seed, same problems.
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
        Problem(task="drill", grade=grade, prompt=prompt, answer=str(answer), grader="numeric")
        for grade, prompt, answer in chosen[:number]
    ]


def _spread(
    task: str, make: Callable[[int, random.Random], tuple[str, int]], number: int, seed: int
) -> list[Problem]:
    chance, asked = random.Random(f"{task}:{seed}"), set[str]()

    def of(grade: int) -> Iterator[Problem]:
        num_found = misses = 0
        # Each problem that is left comes up once in about `num_found` attempts or sooner.
        while misses <= _PATIENCE * (num_found + 1):
            prompt, answer = make(grade, chance)
            misses += 1
            if prompt not in asked:
                asked.add(prompt)
                num_found, misses = num_found + 1, 0
                yield Problem(
                    task=task, grade=grade, prompt=prompt, answer=str(answer), grader="numeric"
                )

    return list(islice(in_turn(of(grade) for grade in GRADES), number))


class _Level(NamedTuple):
    """Operand ranges of one grade."""

    left: tuple[int, int]
    right: tuple[int, int]
    operators: str


_LEVELS = {
    1: _Level((1, 9), (1, 9), "+"),
    2: _Level((2, 20), (1, 9), "+-"),
    3: _Level((2, 9), (2, 9), "*"),
    4: _Level((10, 99), (10, 99), "+"),
    5: _Level((20, 99), (10, 99), "-"),
    6: _Level((11, 19), (2, 9), "*"),
    7: _Level((100, 999), (100, 999), "+"),
    8: _Level((100, 999), (100, 999), "-"),
    9: _Level((12, 99), (12, 99), "*"),
    10: _Level((100, 999), (12, 99), "*"),
}


def _expression(grade: int, chance: random.Random) -> tuple[str, int]:
    level = _LEVELS[grade]
    left, right = chance.randint(*level.left), chance.randint(*level.right)
    operator = chance.choice(level.operators)
    if operator == "-" and right > left:
        left, right = right, left
    value = {"+": left + right, "-": left - right, "*": left * right}[operator]
    return f"What is {left} {operator} {right}?", value


_NAMES = ("Ada", "Bela", "Chidi", "Dana", "Emre", "Farah", "Goran", "Hana", "Ivo", "Jun")
_THINGS = ("apples", "pencils", "stamps", "marbles", "cards", "books", "shells", "coins")


def _story(grade: int, chance: random.Random) -> tuple[str, int]:
    """A chain of steps over one quantity, which never becomes negative."""
    steps, large = (grade + 1) // 2, grade % 2 == 0
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
