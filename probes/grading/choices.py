"""The choice of a text: a letter, or a digit, of multiple choice."""

import re
from typing import NamedTuple

from probes.grading.final_answer import Several
from probes.grading.wording import without_latex_text

_LATIN = "0-9A-Za-z_\u00c0-\u024f"  # a letter may touch other scripts
_ARTICLE = (
    r"(?<=A) (?!(?:is|because|since|and|or|as|but|seems)\b)[a-z]"  # "A cat", not "A is right"
)
_AFTER = rf"(?![{_LATIN}+#]|['\u2019-]\w|\.[a-z0-9]|,\d|{_ARTICLE}|(?<=I) [a-z])"
_DENIAL = (
    r"(?i:\b(?:not|never|neither|nor|cannot|\w{2,6}n['\u2019]t|except|excluding|eliminate|rule out"
    r"|rather than|instead of|(?:any|every)thing but|all but|nicht|pas)\s{1,3}"
    r"(?:(?:be|the|an?|option|choice|answer|in|it)\s{1,3}){0,3})"
)
_WRONG = (
    r"(?:\s\w{1,12})?\s{1,3}(?:wrong|incorrect|false|not|eliminated|ruled out|falsch|nicht|fausse?"
    r"|incorrecta?|falsa?)|can['\u2019]t|can ?not"
    r"|(?:can|could|should|must) be (?:ruled out|eliminated|excluded|rejected)"
)
_REFUTED = (
    r"(?i:\s{1,3}(?:(?:is|was|would be|ist|est|es|[\u00e9\u00e8])"
    rf"{_WRONG}|(?:isn|wasn)['\u2019]t)\b)(?!\s(?:only|just)\b)"
)
"""Behind one letter."""
_ALL_REFUTED = rf"(?i:\s{{1,3}}(?:(?:are|were|sind|sont){_WRONG}|(?:aren|weren)['\u2019]t)\b)"
"""Behind several."""


class _Choice(NamedTuple):
    """A letter that a text chooses."""

    letter: str
    start: int
    """Its index in the text."""


def _patterns(letters: str) -> dict[str, re.Pattern[str]]:
    letter = rf"(?<![{_LATIN}.-])(?<![{_LATIN}]['\u2019])([{letters}])"
    choice = letter + _AFTER
    bracketed = (
        rf"[(\[\"'\u201c$]{{0,2}}(?<![{_LATIN}.-])[{letters}](?![{_LATIN}+#])[)\]\"'\u201d$]{{0,2}}"
    )
    and_or = r"\s{0,3}(?:/|&|,?\s{0,3}\b(?:and|or|nor)\b)\s{0,3}"
    several = rf"{bracketed}(?:,\s{{0,3}}{bracketed}){{0,8}}{and_or}{bracketed}"
    named = rf"(?i:option\s{{1,3}})?[(\"']?{choice}"
    return {
        "alone": re.compile(rf"\W*(?<![.\u2212-])([{letters}])(?![+#])\W*", re.IGNORECASE),
        "lower": re.compile(
            rf"^\W{{0,8}}([{letters.lower()}])(?:[).:](?=\s|$)|\s(?=(?:because|since|as)\b))"
            rf"|\b(?:option|choice|Option|Choice)(?:\s{{0,3}}[:=])?\s{{1,3}}[(\"']?([{letters.lower()}])"
            r"(?=\W*$|[).:,\"']|\s(?:is|because|since|as)\b)",
            re.MULTILINE,
        ),
        "stated": re.compile(
            r"(?i:answer|option|choice)\s{1,3}(?i:is|must be)\s{1,3}(?i:option\s{1,3})?"
            rf"(?:\\boxed\{{|[($\"'\u201c]){{0,4}}{choice}"
        ),
        "chosen": re.compile(
            rf"(?i:go with|going with|choose|pick|select|opt for)\s{{1,3}}{named}"
            rf"|{choice}[)\]]?\s(?i:is|must be|would be)\s(?i:the\s)?"
            r"(?i:best|correct|right|answer)\b"
        ),
        "first": re.compile(rf"\W*{choice}"),
        "marked": re.compile(rf"{letter}(?=[)\]:]|\.(?!\w))"),
        "any": re.compile(choice),
        "list": re.compile(
            rf"{letter}[)\].:]?\s{{0,3}}(?:,|/|&|\band\b|\bor\b|\+)\s{{0,3}}(?:(?:and|or)\s)?"
            rf"(?=[(\[]?(?![{_LATIN}])?([{letters}])(?![{_LATIN}'\u2019]))"
        ),
        "denied": re.compile(
            rf"{_DENIAL}(?:{several}|{bracketed})|{several}{_ALL_REFUTED}|{bracketed}{_REFUTED}"
        ),
    }


_TEN = _patterns("A-J")
_ALL = _patterns("A-Z")
_DIGITS = _patterns("0-9")


def choice_of(text: str, answer: str | None = None) -> str | Several | None:
    """The letter that a text chooses, A to J; A to Z or 0 to 9 if the answer is one of these.

    In this order: the letter that the text calls the answer; if it does not discuss several
    choices, the letter that it begins with, or that is in brackets or before `)`, `.` or `:`; the
    last single letter that is not a word, unlike in "A cat" or "I think". A letter that the text
    denies, as in "not A" or "A is wrong", is no choice; "A or B" is several.
    """
    found = _patterns_of(answer or "A")
    text = found["denied"].sub(" ", without_latex_text(text))
    chosen = _chosen(text, found)
    if chosen is None:
        return None
    for pair in found["list"].finditer(text):
        if chosen.start in (pair.start(1), pair.start(2)) and pair[1] != pair[2]:
            return Several.ANSWERS
    return chosen.letter


def boxed_choice(text: str, answer: str | None = None) -> str | None:
    """The letter that a box holds, alone or before `)`, `.` or `:` and its text."""
    patterns, text = _patterns_of(answer or "A"), without_latex_text(text)
    if alone := patterns["alone"].fullmatch(text):
        return alone[1].upper()
    label = patterns["marked"].search(text)
    return label[1] if label and not text[: label.start()].strip(" ($") else None


def _chosen(text: str, found: dict[str, re.Pattern[str]]) -> _Choice | None:
    if alone := found["alone"].fullmatch(text):
        return _choice(alone)
    for pattern in (found["stated"], found["chosen"]):
        if stated := list(pattern.finditer(text)):
            return _choice(stated[-1])
    marked = list(found["marked"].finditer(text))
    if len({one[1] for one in marked}) <= 1:  # not where a text goes through the choices
        if first := found["first"].match(text):
            return _choice(first)
        if marked:
            return _choice(marked[0])
        small = list(found["lower"].finditer(text))
        if len({one[1] or one[2] for one in small}) == 1:
            return _choice(small[0])
    names = {one[1] for one in marked}
    letters = [one for one in found["any"].finditer(text) if not names or one[1] in names]
    return _choice(letters[-1]) if letters else None


def _choice(found: re.Match[str]) -> _Choice:
    group = 1 if found[1] else 2
    return _Choice(found[group].upper(), found.start(group))


def _patterns_of(answer: str) -> dict[str, re.Pattern[str]]:
    alone = re.match(r"\W*(\w)(?!\w)", answer)
    if alone and alone[1].isdecimal():
        return _DIGITS
    return _TEN if not alone or "A" <= alone[1].upper() <= "J" else _ALL
