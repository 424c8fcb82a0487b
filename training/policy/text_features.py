"""Extracts the tensors that objectives need from the text of completions.

Completions of other processes are not needed: cluster numbers depend on the text only, so equal
answers have equal numbers on all processes.
"""

import re
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Mapping, Sequence
from decimal import Context, Decimal
from functools import cached_property
from hashlib import sha256
from itertools import accumulate
from typing import Any, NamedTuple

import torch
from torch import Tensor

from probes.grading.final_answer import final_answer
from probes.grading.wording import plain_words, sentences, without_accents
from training.objectives.core.requirements import RequiredTensor
from training.objectives.experimental.hicra import planning_mask

_NUMBER = (
    r"(?:(?<![\w)\]}])[-\u2212][$€£¥]?)?"  # a hyphen after a digit or letter is not a sign
    r"(?:(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+)"
    r"(?:[eE][-+\u2212]?\d{1,3}(?!\w))?"
)
_IS = r"(?:(?<![<>!~:])=|\b(?:is|are|was|equals)\b:?)"
_LEAD = rf"(?:(?!{_IS})[^=])*{_IS}\s*(?:[a-z]+ly\s+)?"  # "It is usually"
_STATED = re.compile(rf"(?:{_LEAD})?[\"'`$]*({_NUMBER})[.\"'`]*")
_NO_MATHS = r"[^\d\\^+*/<>]*"
_MENTIONED = re.compile(rf"(?:{_NO_MATHS}[\s=$(])?({_NUMBER})(?![\w%]){_NO_MATHS}")
_DELIMITER = re.compile(r"\\[()\[\]]")
_SYMBOLS = "\\^+*/=<>\u2212"
_NEAR_SYMBOL = re.compile(r"\s*([^\w\s])\s*")

STRATEGY_PHRASES = (
    "let us first",
    "the first step is",
    "let me check",
    "to double check",
    "another way to",
    "on the other hand",
    "we can use",
    "which means that",
    "wait a moment",
    "if we assume",
    "suppose that we",
    "the key is",
    "this tells us",
    "going back to",
)
"""Our own list of phrases that announce a strategy, for `RequiredTensor.PLANNING`."""


class CompletionTexts(NamedTuple):
    """The completions of this process."""

    rows: Sequence[Mapping[str, Any]]
    """Row of the data set of each completion."""
    texts: Sequence[str]
    token_ids: Tensor
    """(N, T), padded."""
    mask: Tensor
    """(N, T) bool: tokens that the policy drew, without tool results."""
    is_agent: bool = False
    """Whether completions are agent turns with tool results between them."""


def cluster_number(text: str) -> int:
    r"""Cluster number of a final answer, equal for equivalent answers; -1 without an answer.

    Numbers are compared by value. Words are compared without case, accents, articles and
    punctuation. Text with digits or symbols is compared without case, accents and spaces. The
    content of `\boxed` takes precedence over the text around it. "It is 5" equals 5, and so does
    text whose last sentence has 5 as its only number.
    """
    answer = _DELIMITER.sub("", _last_boxed(final_answer(text))).strip("$ \n").rstrip(".,;:!?$ \n")
    number = _number(answer)
    if number is not None:
        key = number
    elif any(letter.isnumeric() or letter in _SYMBOLS for letter in answer):
        key = _NEAR_SYMBOL.sub(r"\1", without_accents(answer.casefold(), "NFD"))
        key = " ".join(key.replace("\u2212", "-").split())
    else:
        key = plain_words(answer)
    return int.from_bytes(sha256(key.encode()).digest()[:6]) if key else -1


class TextFeatureReader:
    """Reads text features with the tokenizer of the model."""

    def __init__(
        self, tokenizer: Any, grader: Callable[[Mapping[str, Any], str], bool] | None
    ) -> None:
        """Store tokenizer and grader.

        Args:
            tokenizer: Tokenizer of the model.
            grader: Maps a row of the data set and an answer to whether the answer is right; None if
                no objective needs it.
        """
        self._tokenizer = tokenizer
        self._grader = grader

    def read(self, need: RequiredTensor, answers: CompletionTexts) -> Tensor:
        """Return a required tensor for the completions of this process.

        Raises:
            ValueError: The tensor cannot be computed from text.
        """
        if need is RequiredTensor.CORRECT:
            if self._grader is None:
                raise ValueError("an objective needs to know which answers are right: pass grader")
            pairs = zip(answers.rows, answers.texts, strict=True)
            return torch.tensor([self._grader(row, text) for row, text in pairs])
        if need is RequiredTensor.ANSWERS:
            return torch.tensor([cluster_number(text) for text in answers.texts])
        if need is RequiredTensor.PLANNING:
            return planning_mask(answers.token_ids, self._phrases)
        if need is RequiredTensor.STEPS:
            if answers.is_agent:
                return turn_steps(answers.mask)
            return sentence_steps(answers.token_ids, answers.mask, self._ends)
        if need is RequiredTensor.PHASES:
            rows = answers.token_ids.tolist()
            texts = [self._tokenizer.convert_ids_to_tokens(row) for row in rows]
            return thinking_phases(texts, answers.mask)
        if need is RequiredTensor.BELIEFS:
            return _beliefs(answers.rows)
        raise ValueError(f"{need} cannot be computed from text")

    @cached_property
    def _phrases(self) -> list[list[int]]:
        spellings = {
            f"{space}{phrase[0].upper() if capital else phrase[0]}{phrase[1:]}"
            for phrase in STRATEGY_PHRASES
            for space in ("", " ")
            for capital in (False, True)
        }
        return [self._ids(text) for text in sorted(spellings)]

    @cached_property
    def _ends(self) -> Tensor:
        """Ids of tokens that end a sentence."""
        texts = self._tokenizer.batch_decode([[index] for index in range(len(self._tokenizer))])
        ends = [
            i for i, text in enumerate(texts) if text.rstrip(" ").endswith((".", "!", "?", "\n"))
        ]
        return torch.tensor(ends, dtype=torch.long)

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids


def sentence_steps(token_ids: Tensor, mask: Tensor, ends: Tensor) -> Tensor:
    """Number of the sentence of each token, (N, T); -1 outside the answer.

    Args:
        token_ids: Shape (N, T).
        mask: Bool, shape (N, T).
        ends: Ids of tokens that end a sentence; the following token begins the next.
    """
    closes = torch.isin(token_ids, ends.to(token_ids.device)) & mask
    before = closes.cumsum(-1) - closes.long()
    return torch.where(mask, before, -1)


def turn_steps(mask: Tensor) -> Tensor:
    """Number of the turn of each token, (N, T), -1 outside; a turn is a span of masked tokens."""
    before = torch.nn.functional.pad(mask, (1, 0))[:, :-1]
    begins = mask & ~before
    return torch.where(mask, begins.cumsum(-1) - 1, -1)


THINK_END = "</think>"
"""The tag between the phases."""


def thinking_phases(tokens: Sequence[Sequence[str]], mask: Tensor) -> Tensor:
    """Phase of each token, (N, T): 0 thinking, 1 answer, -1 in the first end tag or outside.

    The tag is searched in the text, so it may span several tokens or be merged with its neighbors.
    Without a tag, all tokens are in the thinking phase.

    Args:
        tokens: Text of each token of each completion, padding included.
        mask: Bool, shape (N, T).
    """
    phases = torch.full(mask.shape, -1, dtype=torch.long, device=mask.device)
    for row, texts in enumerate(tokens):
        texts = [text or "" for text in texts]
        ends = list(accumulate(len(text) for text in texts))
        start = "".join(texts).find(THINK_END)
        first = len(texts) if start < 0 else bisect_right(ends, start)
        last = len(texts) if start < 0 else bisect_left(ends, start + len(THINK_END)) + 1
        phases[row, :first], phases[row, last:] = 0, 1
    return phases.masked_fill(~mask, -1)


def _beliefs(rows: Sequence[Mapping[str, Any]]) -> Tensor:
    missing = [row for row in rows if "beliefs" not in row]
    if missing:
        raise ValueError(
            "info_gain needs `beliefs` for every completion: probabilities over the hypotheses "
            "before and after the question, such as [[0.5, 0.5], [1.0, 0.0]]; return them from "
            "rollout_func"
        )
    return torch.tensor([row["beliefs"] for row in rows], dtype=torch.float64)


def _last_boxed(text: str) -> str:
    r"""The content of the last `\boxed{...}`; the whole text without one."""
    _, mark, rest = text.rpartition(r"\boxed{")
    depth = 1
    for index, letter in enumerate(rest):
        depth += {"{": 1, "}": -1}.get(letter, 0)
        if mark and depth == 0:
            return rest[:index]
    return text


def _number(answer: str) -> str | None:
    """The number that an answer is or states, in a canonical form; None without a number."""
    *reasons, last = sentences(answer)
    stated = _STATED.fullmatch(last) or (_MENTIONED.fullmatch(last) if reasons else None)
    if stated is None:
        return None
    value = Decimal(re.sub("[,$€£¥]", "", stated[1]).replace("\u2212", "-"))
    exact = Context(prec=len(stated[1]))  # the default of 28 digits would merge longer numbers
    return str(value.normalize(exact) if value else 0)
