"""Reads the log-probabilities of every question's options after the shared input."""

import asyncio
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from probes.decisions.question import (
    DecisionQuestion,
    labels,
    letters_prompt,
    orders,
    statements,
    statements_prompt,
)
from probes.decisions.scores import OptionLogprobs, ReadSettings
from probes.inquiry.label_tokens import Tokens, branches, sequence_logprobs
from server.decisions.frame import ChatFrame
from server.errors import BadControl
from server.inquiry.engine_reads import MAX_CHOICES, NextToken, ReadError, Reads

MAX_READS = 65_536
"""Engine requests for one decision; 400 questions of 255 options take 43,200."""


class ReplyTree(NamedTuple):
    """A prompt after the input, and the replies whose log-probabilities are read after it."""

    rest: tuple[int, ...]
    """Tokens of the prompt after the input."""
    replies: list[Tokens]


class QuestionTrees(NamedTuple):
    """Everything that is read for one question."""

    letters: list[ReplyTree]
    """One for each order; replies in the order of the options."""
    statements: list[ReplyTree]
    """At most one."""


class AskedRead(NamedTuple):
    """A question and how to read it."""

    question: DecisionQuestion
    settings: ReadSettings
    param: str
    """Its parameter name, such as `questions.0`."""


async def build_trees(
    asked: Sequence[AskedRead], frame: ChatFrame, reads: Reads
) -> list[QuestionTrees]:
    """Tokenize the questions and the replies of each.

    Raises:
        BadControl: A question is too long, or two of its options have the same tokens.
    """
    known: dict[tuple[str, ...], list[Tokens]] = {}

    async def replies(texts: list[str], param: str) -> list[Tokens]:
        key = tuple(texts)
        if key not in known:
            known[key] = await frame.replies(texts, reads, param)
        return known[key]

    async def rest(text: str, param: str) -> tuple[int, ...]:
        try:
            return (*await frame.content(text, reads), *frame.tail)
        except ReadError as error:
            raise BadControl(f"`{param}`: {error}", param) from error

    async def tree(one: AskedRead) -> QuestionTrees:
        letters, texts = [], []
        options = f"{one.param}.{'levels' if one.question.kind == 'score' else 'choices'}"
        if "letters" in one.settings.reads:
            for order in orders(one.question, one.settings.orders):
                prompt = await rest(letters_prompt(one.question, order), one.param)
                letters.append(ReplyTree(prompt, await replies(labels(one.question, order), "")))
        if "statements" in one.settings.reads:
            prompt = await rest(statements_prompt(one.question), one.param)
            stated = await replies(statements(one.question), options)
            texts.append(ReplyTree(prompt, _ended(stated, frame)))
        return QuestionTrees(letters, texts)

    return [await tree(one) for one in asked]


def _ended(replies: list[Tokens], frame: ChatFrame) -> list[Tokens]:
    """Replies of which none begins another one.

    Where one does ("cat", "cat flap"), all are read with the token that ends the turn.
    """
    ordered = sorted(replies)
    nested = any(later[: len(one)] == one for one, later in pairwise(ordered))
    return [(*reply, frame.tail[0]) for reply in replies] if nested and frame.tail else replies


async def read_options(
    before: tuple[int, ...], trees: Sequence[QuestionTrees], reads: Reads
) -> list[OptionLogprobs]:
    """Log-probabilities of the replies after an input; the priors are left out.

    Args:
        before: Tokens of the chat's head and the input, which all prompts share.
        trees: From `build_trees`.
        reads: Reads from the engine.

    Raises:
        ReadError: The engine failed, or a prompt is too long.
    """
    flat = _flat(trees)
    wanted, places = await asyncio.to_thread(_requests, before, flat)
    # The first alone, so that the others find the input in the prefix cache.
    rows = await reads.next_tokens(wanted[:1])
    rows += await reads.next_tokens(wanted[1:])
    return _by_question(trees, await asyncio.to_thread(_assembled, flat, rows, places))


async def read_variants(
    variants: Sequence[tuple[int, ...]], trees: Sequence[QuestionTrees], reads: Reads
) -> list[list[OptionLogprobs]]:
    """As `read_options` after several inputs, in one batch.

    Args:
        variants: Inputs whose common beginning is in the prefix cache already.
        trees: From `build_trees`.
        reads: Reads from the engine.

    Raises:
        ReadError: The engine failed, or a prompt is too long.
    """
    flat = _flat(trees)

    def requests() -> tuple[list[NextToken], list[list[tuple[Tokens, int]]]]:
        found = [_requests(before, flat) for before in variants]
        return [read for wanted, _ in found for read in wanted], found[0][1]

    def assembled() -> list[list[OptionLogprobs]]:
        size = len(rows) // len(variants)
        parts = [rows[at : at + size] for at in range(0, len(rows), size)]
        return [_by_question(trees, _assembled(flat, part, places)) for part in parts]

    wanted, places = await asyncio.to_thread(requests)
    rows = await reads.next_tokens(wanted)
    return await asyncio.to_thread(assembled)


def _flat(trees: Sequence[QuestionTrees]) -> list[ReplyTree]:
    return [tree for one in trees for tree in (*one.letters, *one.statements)]


def _by_question(
    trees: Sequence[QuestionTrees], found: Sequence[list[float]]
) -> list[OptionLogprobs]:
    left = iter(found)
    return [
        OptionLogprobs(
            letters=[next(left) for _ in one.letters],
            statements=next(left) if one.statements else (),
        )
        for one in trees
    ]


def num_reads(trees: Sequence[QuestionTrees]) -> int:
    """Engine requests that `read_options` makes."""
    return sum(
        _num_parts(choices) for tree in _flat(trees) for choices in branches(tree.replies).values()
    )


def longest_prompt(trees: Sequence[QuestionTrees]) -> int:
    """Tokens of the longest prompt after the input."""
    return max(len(tree.rest) + max(map(len, tree.replies)) - 1 for tree in _flat(trees))


def _num_parts(choices: Sequence[int]) -> int:
    return -(-len(choices) // MAX_CHOICES)


def _requests(
    before: tuple[int, ...], flat: Sequence[ReplyTree]
) -> tuple[list[NextToken], list[list[tuple[Tokens, int]]]]:
    """One read for each place where the replies of a tree part.

    Returns:
        The reads; and for each tree its places with their number of reads.
    """
    wanted, places = list[NextToken](), []
    for tree in flat:
        own = []
        for beginning, choices in branches(tree.replies).items():
            for start in range(0, len(choices), MAX_CHOICES):
                part = choices[start : start + MAX_CHOICES]
                wanted.append(NextToken((before, tree.rest, beginning), part))
            own.append((beginning, _num_parts(choices)))
        places.append(own)
    return wanted, places


def _assembled(
    flat: Sequence[ReplyTree],
    rows: Sequence[Sequence[float]],
    places: Sequence[Sequence[tuple[Tokens, int]]],
) -> list[list[float]]:
    """Log-probability of every reply of every tree."""
    left = iter(rows)
    found = []
    for tree, own in zip(flat, places, strict=True):
        read = {
            beginning: [value for _ in range(count) for value in next(left)]
            for beginning, count in own
        }
        found.append(sequence_logprobs(tree.replies, read))
    return found
