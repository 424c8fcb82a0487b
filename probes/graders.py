"""Graders: whether the text of an answer holds the right one. Pure functions of two strings."""

import re
import unicodedata
from collections.abc import Callable
from decimal import Decimal
from typing import Literal

GraderName = Literal["exact", "contains", "numeric", "math", "choice"]

_MARK = re.compile(r"(?:final answer|answer)(?:\s*is)?\s*[:=]\s*", re.IGNORECASE)
_FRAME = re.compile(r"\\\[|\$\$|```\w*|-{3,}|")
"""A line that opens a formula or a block, or is empty."""
_EMPHASIS = re.compile(
    r"(?<![\w*])(\*{2,3})(?=\S)((?:[^*\n]|\*(?!\*))+)(?<=\S)\1(?![\w*])"
    r"|(?<![\w*])(\*)(?=\S)([^*\n]+)(?<=\S)\*(?![\w*])"
)

NUMBER = re.compile(
    r"(?:(?<![\w)\]}])[-\u2212][$€£¥]?)?"  # a hyphen after a digit or a letter is no sign
    r"(?:(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+)"
    r"(?:[eE][-+\u2212]?\d{1,3}(?!\w))?"
)
"""A number in a text: with sign, thousands separators, decimals and exponent as far as given."""

_LATIN = "0-9A-Za-z_\u00c0-\u024f"  # a letter may touch other scripts
_LETTER = rf"(?<![{_LATIN}.-])(?<![{_LATIN}]['\u2019])([A-J])"
_ARTICLE = r"(?<=A) (?!(?:is|because|since)\b)[a-z]"  # "A cat", not "A is right"
_CHOICE = re.compile(rf"{_LETTER}(?![{_LATIN}+#]|['\u2019-]\w|\.[a-z]|{_ARTICLE}|(?<=I) [a-z])")
_SAID_CHOICE = re.compile(
    r"(?i:answer|option|choice)\s+(?i:is|must be)\s+(?i:option\s+)?"
    rf"(?:\\boxed\{{|[($\"'\u201c])*{_CHOICE.pattern}"
)
_FIRST_CHOICE = re.compile(rf"\W*{_CHOICE.pattern}")
_LONE_CHOICE = re.compile(r"\W*([A-J])\W*", re.IGNORECASE)
_MARKED_CHOICE = re.compile(rf"{_LETTER}(?=[)\]:]|\.(?!\w))")

_SENTENCE_END = re.compile(r"(?<=[.!?])(?<!\b(?:St|Mt|Dr|Mr|Ms)\.)\s+|\n")
_INTERJECTION = re.compile(
    r"(?:sure|yes|no|ok|okay|certainly|absolutely|hello|hi)[.!]\s+", re.IGNORECASE
)

_BULLET = re.compile(r"^\s*[-*•#]+\s+(?=[^\W\d])")
_JOINT = re.compile(r"(?<=[^\W\d])[-/](?=\w)|(?<=\w)[-/](?=[^\W\d])")
_LATEX = re.compile(r"\\[()\[\]]")
_STOP = re.compile(r"\.(?!\w)|(?<=\.)\.|(?<=[^\W\d])\.|(?<=\d)\.(?!\d)")
_APART = re.compile(r"[=%°$€£¥]")
_SYMBOLS = "-#%&*/@\\_."
"""Punctuation, as Unicode has it, that is no punctuation of sentences."""


def after_thinking(text: str) -> str:
    """What follows the last `</think>`; nothing where a `<think>` never closes."""
    said = text.rpartition("</think>")[2]
    return "" if "<think>" in said else said


def final_answer(text: str) -> str:
    """What follows the last `Answer:`, up to the end of its line; the whole text without one.

    Thinking is no part of the text, and neither are the asterisks of Markdown.
    """
    said = _EMPHASIS.sub(r"\2\4", after_thinking(text))
    marks = list(_MARK.finditer(said))
    if not marks:
        return said.strip()
    lines = (line.strip() for line in said[marks[-1].end() :].splitlines())
    return next((line for line in lines if not _FRAME.fullmatch(line)), "")


def sentences(text: str) -> list[str]:
    """The sentences and lines of a text; "St." and the like end none."""
    return _SENTENCE_END.split(text)


def without_accents(text: str, form: Literal["NFD", "NFKD"] = "NFKD") -> str:
    """The text without combining marks; NFKD makes plain characters of variants, such as ² of 2."""
    letters = unicodedata.normalize(form, text)
    return "".join(letter for letter in letters if not unicodedata.combining(letter))


def plain(text: str) -> str:
    """The words of a text without case, accents, articles and the punctuation of sentences.

    Signs and symbols stay with their word, as in `-5`, `c++` and `.fr`. A text of nothing but
    articles and punctuation stays as it is.
    """
    letters = without_accents(_EMPHASIS.sub(r"\2\4", text).casefold())
    letters = re.sub("[\u2212\u2013]", "-", letters.replace("\u2044", "/"))
    for separator in (_BULLET, _LATEX, _JOINT, _STOP):
        letters = separator.sub(" ", letters)
    letters = _APART.sub(r" \g<0> ", letters)
    words = "".join(" " if _is_punctuation(letter) else letter for letter in letters).split()
    kept = [word for word in words if word not in ("a", "an", "the")]
    return " ".join(kept or words) or text.strip().casefold()


def numbers(text: str) -> list[Decimal]:
    """The numbers of a text, in order."""
    return [_number(found) for found in NUMBER.findall(text)]


def exact(text: str, answer: str) -> bool:
    """Whether the final answer is this one, but for case, accents, articles and punctuation.

    Signs and symbols count: `-5` is not `5`, and `C++` is not `C`.
    """
    return plain(final_answer(text)) == plain(answer)


def contains(text: str, answer: str) -> bool:
    """Whether the final answer names this one in whole words, and that within its first sentence.

    A list of guesses further on does not count; a word such as "Sure!" before it is no sentence.
    """
    final = final_answer(text)
    opening = _INTERJECTION.match(final)
    start = opening.end() if opening else 0
    length = len(sentences(answer))  # "D. H. Lawrence" is one name
    first = final[:start] + " ".join(sentences(final[start:])[:length])
    return f" {plain(answer)} " in f" {plain(first)} "


def numeric(text: str, answer: str) -> bool:
    """Whether the last number of the final answer equals this one.

    Thousands separators and exponents are read; `12.50` equals `12.5`. Nothing is rounded. The
    answer is the one number it has, be it with a currency, a percent sign or a unit.
    """
    found = numbers(final_answer(text)) or numbers(after_thinking(text))
    return bool(found) and found[-1:] == numbers(answer)


def choice(text: str, answer: str) -> bool:
    """Whether the letter of the final answer that stands for a choice, A to J, is this one.

    That is the letter it calls the answer; else, where it does not go through several, the letter
    it begins with or the one in brackets or before `)`, `.` or `:`; else the last that stands alone
    and is no word, as in "A cat" or "I think". The answer may have text after its letter, as in
    `B) Paris`.
    """
    found = _choice(final_answer(text)) or _choice(after_thinking(text))
    return found is not None and found == _choice(answer)


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


def _is_punctuation(letter: str) -> bool:
    """Whether it is punctuation of sentences; a backtick serves as a quote."""
    is_mark = unicodedata.category(letter).startswith("P") and letter not in _SYMBOLS
    return is_mark or letter == "`"


def _number(found: str) -> Decimal:
    return Decimal(re.sub("[,$€£¥]", "", found).replace("\u2212", "-"))


def _choice(text: str) -> str | None:
    if alone := _LONE_CHOICE.fullmatch(text):
        return alone[1].upper()
    if said := _SAID_CHOICE.findall(text):
        return str(said[-1])
    marked: list[str] = _MARKED_CHOICE.findall(text)
    if len(set(marked)) <= 1:  # not where a text goes through the choices
        if first := _FIRST_CHOICE.match(text):
            return first[1]
        if marked:
            return marked[0]
    found = [letter for letter in _CHOICE.findall(text) if not marked or letter in marked]
    return found[-1] if found else None
