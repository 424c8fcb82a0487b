r"""Graders: decide whether a text contains the right answer. Pure functions of two strings.

The final answer of a text is, in this order, what it puts in `\boxed{...}`, after `####`, after
"the answer is" or after `Answer:`. A text that states different answers has none.
"""

import re
from collections.abc import Callable
from fractions import Fraction
from functools import partial
from typing import Literal

from probes.grading import mathematics
from probes.grading.choices import boxed_choice, choice_of
from probes.grading.final_answer import Rank, Several, agreed_reading, graded_text, statements
from probes.grading.numerals import (
    Expression,
    Reading,
    last_number,
    single_number,
    stated_number,
)
from probes.grading.wording import plain_words, sentences, without_latex_text

_BASE = re.compile(r"(?<=\d)_\s{0,3}\{?\s{0,3}(\d{1,3})")
_FACTORIAL = re.compile(r"\d!\s*$")
GraderName = Literal["exact", "contains", "numeric", "math", "choice"]

_INTERJECTION = re.compile(
    r"(?:sure|yes|no|ok|okay|certainly|absolutely|hello|hi)[.!]\s+", re.IGNORECASE
)
_UNSPACED = re.compile(
    r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7a3]"
)
"""Scripts without spaces between words, and Hangul, which appends particles to words."""
_NUMBER = re.compile(r"\d+(?:[.,:/]\d+)*")
_DENIED_BEFORE = re.compile(
    r"\b(?:not|never|nor|neither|cannot|hardly|unlikely|\w{2,6}n t|rather than|instead of|except"
    r"|excluding|anything but|nicht|kein|keine|pas|no es|nao e|non e)"
    r"(?: (?:be|in|at|by|from|called|named|really|actually|of|(?:city|town|country|state) of))* $"
    r"|\b(?:do not|don t|doubt)(?: think| believe)?(?: that)?(?: (?:it|he|she|this)(?: i?s| was)"
    r"| the answer is)? $|(?:不是|并非|並非|不在)$"
)
_DENIED_AFTER = re.compile(
    r"^ ?(?:(?:is|was|are|were|would be)(?: \w{1,12})? (?:wrong|incorrect|false)\b"
    r"|(?:is|was|are|were) not (?:it|correct|right)\b|(?:では|じゃ)(?:ありません|ない)"
    r"|(?:가|이) 아(?:닙니다|니))"
)
_OR_BEFORE = re.compile(r"\beither (?:\S+ ){0,6}?$|^ (?:\S+ ){1,3}or $")
_DOTTED = re.compile(r"(?:\b[^\W\d_]\.\s?){2}")
_INITIALS = re.compile(r"\b[^\W\d_](?: [^\W\d_]\b)+")
"""Single letters in a row, in plain words."""


def exact(text: str, answer: str) -> bool:
    """Whether the final answer equals `answer`, up to case, accents, articles and punctuation.

    Signs and symbols count: `-5` is not `5`, and `C++` is not `C`.
    """
    right = _joined_words(answer)
    return _holds_for_statements(text, lambda stated: _joined_words(stated) == right)


def contains(text: str, answer: str) -> bool:
    """Whether the first sentence of the final answer contains `answer` in whole words.

    Later guesses do not count, nor does a name that is denied, as in "not Paris" and "Paris is
    wrong", or is offered beside another, as in "either Paris or Lyon" and a bare "Paris or Lyon".
    An interjection such as "Sure!" is not a sentence. Scripts without spaces need no word
    boundaries.
    """
    return _holds_for_statements(
        text, lambda stated: _states_only(without_latex_text(stated), answer)
    )


def numeric(text: str, answer: str) -> bool:
    r"""Whether the number of the final answer equals that of `answer`.

    Reads signs, thousands separators, decimal commas, exponents, powers of ten, fractions and mixed
    numbers; ignores currencies, percent signs and units. Nothing is rounded. A number inside a
    formula, such as `5\\sqrt{2}`, does not count. Without a marked answer the last number of the
    text is read.
    """
    return _number(answer) is not None and _stated_number(text) == _number(answer)


def choice(text: str, answer: str) -> bool:
    """Whether the final answer chooses the same letter as `answer`.

    Letters are A to J; K to Z or digits are read if `answer` is one. `answer` may have text after
    its letter, as in `B) Paris`.
    """
    right = choice_of(answer, answer)
    shown = graded_text(text)
    for group in statements(shown):
        strict = group[0].rank in (Rank.BOXED, Rank.HASHES)
        found = agreed_reading(
            shown, group, partial(boxed_choice if strict else choice_of, answer=answer)
        )
        if found is not None:
            return found == right
    found = choice_of(shown, answer)
    return found is not None and found == right


def math(text: str, answer: str) -> bool:
    r"""Whether the final answer is mathematically equal (LaTeX, as math-verify reads it).

    Numbers are compared by value first, so `2 2/3` is not 2.

    Raises:
        ModuleNotFoundError: math-verify is not installed.
    """
    gold = _without_box(answer)
    shown = graded_text(text)
    for group in statements(shown):
        found = agreed_reading(shown, group, lambda stated: _same_mathematics(stated, gold))
        if found is not None:
            return found is True
    number, right = last_number(shown), _number(gold)
    if right is not None and (isinstance(number, Fraction) or number is Several.ANSWERS):
        return number == right
    return mathematics.equal(shown[-mathematics.MAX_CHARACTERS :], f"${gold}$")


GRADERS: dict[GraderName, Callable[[str, str], bool]] = {
    "exact": exact,
    "contains": contains,
    "numeric": numeric,
    "math": math,
    "choice": choice,
}


def stated_answer(text: str, grader: GraderName) -> str | None:
    """The final answer of a text, in a spelling that equal answers share; None if there is none.

    For votes and counts of different answers. `numeric` compares values and `choice` letters; the
    other graders compare the words of the first sentence, so one answer in two wordings counts as
    two.
    """
    if grader == "numeric":
        number = _stated_number(text)
        return str(number) if isinstance(number, Fraction) else None
    if grader == "choice":
        letter = choice_of(graded_text(text))
        return letter if isinstance(letter, str) else None
    shown = graded_text(text)
    stated = next((group[-1].text for group in statements(shown)), shown)
    return plain_words(without_latex_text(" ".join(sentences(stated)[:1]))) or None


def final_span(text: str, grader: GraderName) -> tuple[int, int] | None:
    """Where the final answer stands in a text: its first character and the one after its last.

    That of `numeric` is the number alone. None where the text has no answer, where the answer is
    not marked and is no number, or where Markdown within it was removed before grading.
    """
    answer = stated_answer(text, grader)
    if answer is None:
        return None
    shown = graded_text(text)
    groups = statements(shown)
    stated = groups[0][-1].text if groups else shown
    if grader == "numeric":
        numbers = reversed(_NUMBER.findall(stated))
        stated = next((one for one in numbers if _size(one) == abs(Fraction(answer))), "")
    elif not groups:
        return None
    start = text.rfind(stated)
    return (start, start + len(stated)) if stated and start >= 0 else None


def _holds_for_statements(text: str, read: Callable[[str], bool]) -> bool:
    """Whether `read` holds for all statements of the first rank or, if none, for the whole text."""
    shown = graded_text(text)
    for group in statements(shown):
        return agreed_reading(shown, group, read) is True
    return read(shown.strip())


def _states_only(stated: str, answer: str) -> bool:
    opening = _INTERJECTION.match(stated)
    start = opening.end() if opening else 0
    length = len(sentences(answer))
    first = stated[:start] + " ".join(sentences(stated[start:])[:length])
    words, name = plain_words(first), plain_words(answer)
    return _has_name(words, name) or _has_name(
        _join_initials(words, first), _join_initials(name, answer)
    )


def _has_name(words: str, name: str) -> bool:
    """Whether the words contain the name where they neither deny it nor offer another."""
    text, name = (words, name) if _UNSPACED.search(name) else (f" {words} ", f" {name} ")
    found = text.find(name)
    while found >= 0:
        before = text[max(0, found - 40) : found + (name[0] == " ")]
        end = found + len(name)
        after = text[end - (name[-1] == " ") : end + 40]
        is_one_of_two = _OR_BEFORE.search(before) or (
            not before.strip() and after.startswith(" or ")
        )
        if not (is_one_of_two or _DENIED_BEFORE.search(before) or _DENIED_AFTER.search(after)):
            return True
        found = text.find(name, found + 1)
    return False


def _joined_words(text: str) -> str:
    return _join_initials(plain_words(without_latex_text(text)), text)


def _join_initials(words: str, text: str) -> str:
    """The words of a text, `j k rowling` as `jk rowling`, if it has "J. K." or "J.K."."""
    if not _DOTTED.search(text):
        return words
    return _INITIALS.sub(lambda run: run[0].replace(" ", ""), words)


def _number(answer: str) -> Fraction | None:
    number = single_number(answer)
    return number if isinstance(number, Fraction) else None


def _size(literal: str) -> Fraction | None:
    number = _number(literal)
    return None if number is None else abs(number)


def _stated_number(text: str) -> Reading:
    shown = graded_text(text)
    for group in statements(shown):
        strict = group[0].rank in (Rank.BOXED, Rank.HASHES, Rank.IS)
        found: Reading = agreed_reading(shown, group, single_number if strict else stated_number)
        if found is not None:
            return found
    return last_number(shown)


def _same_mathematics(stated: str, gold: str) -> bool | None:
    """Whether a statement equals `gold`; None if it is empty."""
    if not stated:
        return None
    if _spelling(stated) == _spelling(gold):
        return True
    number, right = single_number(stated), _number(gold)
    is_formula = _FACTORIAL.search(stated) or _FACTORIAL.search(gold)
    if (
        not is_formula
        and right is not None
        and not isinstance(number, Expression)
        and number is not None
    ):
        return number == right
    if len(stated) > mathematics.MAX_CHARACTERS or _bases(stated) != (
        _bases(gold) or _bases(stated)
    ):
        return False
    is_number = isinstance(number, Fraction) and not is_formula
    text = str(number) if is_number else stated.replace("$", "")
    return mathematics.equal(f"${text}$", f"${gold}$")


def _bases(text: str) -> list[str]:
    """The bases of numbers such as `101_2`, which math-verify ignores."""
    return _BASE.findall(text)


def _spelling(text: str) -> str:
    return "".join(without_latex_text(text).split()).rstrip(".")


def _without_box(answer: str) -> str:
    boxed = statements(answer)
    inside = boxed[0][-1].text if boxed and boxed[0][0].rank is Rank.BOXED else answer
    return inside.strip().strip("$").strip()
