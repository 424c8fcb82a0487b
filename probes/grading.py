"""Graders: whether the text of an answer holds the right one. Pure functions of two strings."""

import re
import unicodedata
from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from typing import Literal

GraderName = Literal["exact", "contains", "numeric", "math", "choice"]

_MARK = re.compile(r"(?:final answer|answer)\s*(?:is)?\s*[:=]\s*", re.IGNORECASE)
_NUMBER = re.compile(r"[-\u2212]?\d+(?:,\d{3})+(?:\.\d+)?|[-\u2212]?\d+(?:\.\d+)?|[-\u2212]?\.\d+")
_CHOICE = re.compile(r"(?<![A-Za-z])\(?([A-J])\)?(?![A-Za-z'])")


def final_answer(text: str) -> str:
    """What follows the last `Answer:`, up to the end of its line; the whole text without one."""
    marks = list(_MARK.finditer(text))
    if not marks:
        return text.strip()
    rest = text[marks[-1].end() :].strip()
    return rest.splitlines()[0].strip() if rest else ""


def exact(text: str, answer: str) -> bool:
    """Whether the final answer is this one, but for case, accents, articles and punctuation."""
    return _plain(final_answer(text)) == _plain(answer)


def contains(text: str, answer: str) -> bool:
    """Whether the final answer names this one in whole words, and that within its first sentence.

    A list of guesses further on does not count.
    """
    first = re.split(r"(?<=[.!?])\s|\n", final_answer(text), maxsplit=1)[0]
    return f" {_plain(answer)} " in f" {_plain(first)} "


def numeric(text: str, answer: str) -> bool:
    """Whether the last number of the final answer equals this one.

    Thousands separators are read; `12.50` equals `12.5`. Nothing is rounded.
    """
    found = _NUMBER.findall(final_answer(text)) or _NUMBER.findall(text)
    return bool(found) and _number(found[-1]) == _number(answer)


def choice(text: str, answer: str) -> bool:
    """Whether the last letter of the final answer that stands for a choice, A to J, is this one."""
    found = _CHOICE.findall(final_answer(text)) or _CHOICE.findall(text)
    return bool(found) and str(found[-1]) == answer.strip().strip("()").upper()


def math(text: str, answer: str) -> bool:
    r"""Whether the answer is mathematically this one, as math-verify sees it (LaTeX, \boxed).

    Raises:
        ModuleNotFoundError: math-verify is not installed.
    """
    from math_verify import parse, verify

    gold = parse(f"${answer}$")
    said = parse(final_answer(text))
    return bool(verify(gold, said))


GRADERS: dict[GraderName, Callable[[str, str], bool]] = {
    "exact": exact,
    "contains": contains,
    "numeric": numeric,
    "math": math,
    "choice": choice,
}


def _plain(text: str) -> str:
    letters = unicodedata.normalize("NFKD", text.casefold())
    words = re.findall(r"[\w]+", "".join(c for c in letters if not unicodedata.combining(c)))
    return " ".join(word for word in words if word not in ("a", "an", "the"))


def _number(text: str) -> Decimal | None:
    try:
        return Decimal(text.strip().strip("$").replace(",", "").replace("\u2212", "-"))
    except InvalidOperation:
        return None
