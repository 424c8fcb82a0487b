"""The choice of a text: a letter, or a digit, of multiple choice."""

import re

from probes.grading.final_answer import Several
from probes.grading.wording import without_latex_text

_LATIN = "0-9A-Za-z_\u00c0-\u024f"  # a letter may touch other scripts
_ARTICLE = (
    r"(?<=A) (?!(?:is|because|since|and|or|as|but|seems)\b)[a-z]"  # "A cat", not "A is right"
)
_AFTER = rf"(?![{_LATIN}+#]|['\u2019-]\w|\.[a-z]|{_ARTICLE}|(?<=I) [a-z])"


def _patterns(letters: str) -> dict[str, re.Pattern[str]]:
    letter = rf"(?<![{_LATIN}.-])(?<![{_LATIN}]['\u2019])([{letters}])"
    choice = letter + _AFTER
    return {
        "alone": re.compile(rf"\W*([{letters}])\W*", re.IGNORECASE),
        "stated": re.compile(
            r"(?i:answer|option|choice)\s{1,3}(?i:is|must be)\s{1,3}(?i:option\s{1,3})?"
            rf"(?:\\boxed\{{|[($\"'\u201c]){{0,4}}{choice}"
        ),
        "first": re.compile(rf"\W*{choice}"),
        "marked": re.compile(rf"{letter}(?=[)\]:]|\.(?!\w))"),
        "any": re.compile(choice),
        "list": re.compile(
            rf"{letter}[)\].:]?\s{{0,3}}(?:,|/|&|\band\b|\bor\b|\+)\s{{0,3}}(?:(?:and|or)\s)?"
            rf"[(\[]?(?![{_LATIN}])?([{letters}])(?![{_LATIN}'\u2019])"
        ),
    }


_TEN = _patterns("A-J")
_ALL = _patterns("A-Z")
_DIGITS = _patterns("0-9")


def choice_of(text: str, answer: str | None = None) -> str | Several | None:
    """The letter that a text chooses, A to J; A to Z or 0 to 9 if the answer is one of these.

    In this order: the letter that the text calls the answer; if it does not discuss several
    choices, the letter that it begins with, or that is in brackets or before `)`, `.` or `:`; the
    last single letter that is not a word, unlike in "A cat" or "I think".
    """
    found = _patterns_of(answer or "A")
    text = without_latex_text(text)
    if alone := found["alone"].fullmatch(text):
        return alone[1].upper()
    if stated := found["stated"].findall(text):
        return str(stated[-1])
    marked: list[str] = found["marked"].findall(text)
    if len(set(marked)) <= 1:  # not where a text goes through the choices
        if first := found["first"].match(text):
            return first[1]
        if marked:
            return marked[0]
    letters = [letter for letter in found["any"].findall(text) if not marked or letter in marked]
    return letters[-1] if letters else None


def boxed_choice(text: str, answer: str | None = None) -> str | None:
    """The letter that a box holds, alone or before `)`, `.` or `:` and its text."""
    patterns, text = _patterns_of(answer or "A"), without_latex_text(text)
    if alone := patterns["alone"].fullmatch(text):
        return alone[1].upper()
    label = patterns["marked"].search(text)
    return label[1] if label and not text[: label.start()].strip(" ($") else None


def stated_choice(text: str, answer: str | None = None) -> str | Several | None:
    """The letter that a statement of the final answer chooses; several are no choice."""
    pairs = _patterns_of(answer or "A")["list"].search(without_latex_text(text))
    if pairs and pairs[1].upper() != pairs[2].upper():
        return Several.ANSWERS
    return choice_of(text, answer)


def _patterns_of(answer: str) -> dict[str, re.Pattern[str]]:
    alone = re.match(r"\W*(\w)(?!\w)", answer)
    if alone and alone[1].isdecimal():
        return _DIGITS
    return _TEN if not alone or "A" <= alone[1].upper() <= "J" else _ALL
