"""Numbers of a text: one normalizer for signs, separators, powers, fractions and units."""

import re
from collections.abc import Iterator
from enum import Enum
from fractions import Fraction
from itertools import pairwise
from typing import NamedTuple

from probes.grading.final_answer import Several
from probes.grading.spelling import COMPARISON, OPAQUE, normalized
from probes.grading.tokens import TextToken, tokens
from probes.grading.wording import sentences


class Expression(Enum):
    r"""A formula that contains a number but is not one, such as `5\sqrt{2}` or `3x`."""

    FORMULA = 0


Reading = Fraction | Several | Expression | None
"""The number of a text; or several, or a formula; None where it has none."""

_VARIABLES = frozenset("xyznabkpqtuvwirXYZN")
_TIGHT_VARIABLES = frozenset("xyznabi")
_MAGNITUDES = {"hundred": 100} | {
    name: 1000**power
    for power, names in enumerate(
        (("thousand",), ("million", "millions"), ("billion", "billions"), ("trillion",)), start=1
    )
    for name in names
}
_NEGATIVE = frozenset(("minus", "negative"))
_DENIALS = frozenset(("not", "never", "cannot", "nor", "neither"))
_COMPARATIVES = (
    "rather",
    "less",
    "fewer",
    "more",
    "greater",
    "larger",
    "smaller",
    "higher",
    "lower",
)
_DENIED_PAIRS = frozenset((*((word, "than") for word in _COMPARATIVES), ("instead", "of")))
_BETWEEN = frozenset(("be", "equal", "equals", "to", "exactly", "the", "a"))
"""Words that may stand between a denial and its number."""
_CHOICE_WORDS = re.compile(r"\b(?:or|oder|ou|maybe|perhaps|possibly)\b", re.IGNORECASE)
_LIST = frozenset((",", "and", ", and", "&", "/", ";", "und", "et", "y"))
_SUBORDINATE = re.compile(
    r",?\s+(?:because|since|as|so|where|which|given|due|being|that is|i\.e\.|weil|denn|car)\b",
    re.IGNORECASE,
)
_NUMERIC = re.compile("[\\d\u00b2\u00b3\u00b9\u00bc-\u00be\u2070-\u2079\u2150-\u215e\u2189]")
_INFINITY = re.compile(r"\u221e|\\infty")
_BULLET = re.compile(r"^\s{0,8}[-*•>]\s+(?=\S)")


class _Item(NamedTuple):
    """A number or a formula of a text."""

    value: Fraction | None
    start: int
    end: int
    depth: int
    """How many round or square brackets are open."""


def single_number(text: str) -> Reading:
    """The only number of a short text; a currency, percent sign or unit is ignored.

    An equation such as `x = 5` or `6 * 7 = 42` states its last number. Numbers in brackets count
    only if there is no other.
    """
    return Expression.FORMULA if _INFINITY.search(text) else _agreed(normalized(text))


def stated_number(text: str) -> Reading:
    """The number of a line that follows a mark such as "Answer:".

    Where it begins with the number, that is its first sentence; else it is the last number, as in
    "Answer: 3 boxes of 5 are 15".
    """
    if _INFINITY.search(text):
        return Expression.FORMULA
    line = normalized(text)
    first = sentences(line)[0]
    number = _agreed(first)
    items = _items(line)
    if not items:
        return None
    if isinstance(number, Fraction) and (_begins_with_number(first) or len(items) == 1):
        return number
    if _begins_with_number(first) and "=" not in line:
        return number
    return _last(line)


def last_number(text: str) -> Reading:
    """The last number of a text, from the last sentence that has any.

    It is several numbers where the sentence offers a choice, as in "3 or 5".
    """
    for line in reversed(text.splitlines()):
        for sentence in reversed(sentences(line)):
            if _NUMERIC.search(sentence):
                found = _last(normalized(_BULLET.sub("", sentence)))
                if found is not None:
                    return found
    return None


def _agreed(text: str) -> Reading:
    for part in (text, _SUBORDINATE.split(text, maxsplit=1)[0]):
        chains = _chains(part)
        values = {value for value, _ in chains}
        if len(values) <= 1:
            break
    if not values:
        return None
    if len(values) > 1:
        return Several.ANSWERS
    return next(iter(values)) or _zero_or_formula(values)


def _zero_or_formula(values: set[Fraction | None]) -> Fraction | Expression:
    (value,) = values
    return Expression.FORMULA if value is None else value


def _last(text: str) -> Reading:
    chains = _chains(text)
    if not chains:
        return None
    value, item = chains[-1]
    if value is None:
        return Expression.FORMULA
    if len(chains) > 1 and chains[-2][0] != value:
        gap = text[chains[-2][1].end : item.start].strip().casefold()
        if gap in _LIST or _CHOICE_WORDS.search(gap):
            return Several.ANSWERS
    return value


def _begins_with_number(text: str) -> bool:
    words = (token for token in tokens(text) if token.text.casefold() not in _NEGATIVE)
    token = next((token for token in words if token.text not in ("-", "+", "(")), None)
    return token is not None and token.kind == "number"


def _chains(text: str) -> list[tuple[Fraction | None, _Item]]:
    """The value of each chain of equal terms and its last item."""
    items = _items(text)
    if any(item.depth == 0 for item in items):
        items = [item for item in items if item.depth == 0]
    chains: list[tuple[Fraction | None, _Item]] = []
    for before, item in pairwise([None, *items]):
        assert item is not None
        gap = text[before.end : item.start] if before else ""
        if re.search("[=≈→⇒]", gap) and not _CHOICE_WORDS.search(gap):
            value, _ = chains.pop()
            chains.append((value if item.value is None else item.value, item))
        else:
            chains.append((item.value, item))
    return chains


def _items(text: str) -> list[_Item]:
    """The numbers and formulas of a normalized text, in order."""
    return list(_Parser(text).items())


class _Parser:
    """Groups tokens into numbers and formulas."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens = list(tokens(text))

    def items(self) -> Iterator[_Item]:
        tokens, depth, index = self._tokens, 0, 0
        while index < len(tokens):
            token = tokens[index]
            depth += {"open": 1, "close": -1}.get(token.kind, 0)
            if token.kind != "number":
                index += 1
                continue
            end, value = self._value(index)
            is_part = self._has_operator(index - 1, -1) or self._has_operator(end, 1)
            sign = self._sign(index, end)
            if value is not None:
                value *= sign
            span = (tokens[index].start, tokens[end - 1].end)
            if not self._is_denied(index) and not self._is_of_name(index):
                yield _Item(None if is_part else value, *span, max(0, depth))
            index = end

    def _is_denied(self, index: int) -> bool:
        """Whether "not", "less than" or the like stands before the number."""
        index -= 1
        while index >= 0 and self._tokens[index].text.casefold() in _BETWEEN:
            index -= 1
        before = tuple(
            token.text.casefold() for token in self._tokens[max(0, index - 1) : index + 1]
        )
        return before[-1:] in {(word,) for word in _DENIALS} or before in _DENIED_PAIRS

    def _is_of_name(self, index: int) -> bool:
        """Whether the number is part of a name such as "Covid-19"."""
        if index < 2:
            return False
        name, hyphen, number = self._tokens[index - 2 : index + 1]
        is_tight = name.end == hyphen.start and hyphen.end == number.start
        return hyphen.text == "-" and is_tight and name.kind == "word" and len(name.text) > 1

    def _value(self, index: int) -> tuple[int, Fraction | None]:
        """The index after the number that begins here, and its value."""
        tokens = self._tokens
        value = tokens[index].value
        if fraction := self._fraction(index):
            return index + 3, fraction[0]
        whole = value is not None and value.denominator == 1
        if whole and self._near(index, index + 1) and (fraction := self._fraction(index + 1)):
            part = fraction[0]
            if part is not None and 0 < part < 1:
                return index + 4, value + part if value is not None else None
        word = tokens[index + 1] if index + 1 < len(tokens) else None
        if word and word.kind == "word" and word.text.casefold() in _MAGNITUDES:
            factor = _MAGNITUDES[word.text.casefold()]
            return index + 2, None if value is None else value * factor
        return index + 1, value

    def _fraction(self, index: int) -> tuple[Fraction | None] | None:
        """The value of `n/d` that begins here; None where none begins."""
        tokens = self._tokens[index : index + 4]
        kinds = [token.kind for token in tokens]
        if kinds[:3] != ["number", "between", "number"] or tokens[1].text != "/":
            return None
        if kinds[3:] == ["between"] and tokens[3].text == "/" and self._is_number(index + 4):
            return (None,)
        above, below = tokens[0].value, tokens[2].value
        return (above / below if above is not None and below else None,)

    def _near(self, one: int, other: int) -> bool:
        """Whether only spaces stand between two tokens."""
        if other >= len(self._tokens):
            return False
        gap = self._text[self._tokens[one].end : self._tokens[other].start]
        return 0 < len(gap) <= 3 and "\n" not in gap

    def _is_number(self, index: int) -> bool:
        return 0 <= index < len(self._tokens) and self._tokens[index].kind == "number"

    def _sign(self, index: int, end: int) -> int:
        """The sign of the number between two indices."""
        if index == 0:
            return 1
        before = self._tokens[index - 1]
        if before.kind == "word" and before.text.casefold() in _NEGATIVE:
            return 1 if self._is_number(index - 2) else -1
        if before.kind == "open" and index > 1 and self._tokens[index - 2].text == "-":
            closes = any(token.kind == "close" for token in self._tokens[end : end + 1])
            return -1 if closes and self._is_sign(index - 2) else 1
        return -1 if before.text == "-" and self._is_sign(index - 1) else 1

    def _is_sign(self, index: int) -> bool:
        """Whether a `-` or `+` before a number is its sign and no operator or hyphen."""
        token = self._tokens[index]
        tight = self._tokens[index + 1].start == token.end
        if index == 0:
            return tight or not self._text[: token.start].strip(" ")
        letter = self._text[token.start - 1]
        if letter.isspace() or letter in "{$":
            return tight or self._tokens[index - 1].kind in ("equals", "open")
        return not (letter.isalnum() or letter in ")]}%_")

    def _has_operator(self, index: int, step: int) -> bool:
        """Whether the token at an index ties the number beside it to a formula."""
        if not 0 <= index < len(self._tokens):
            return False
        token = self._tokens[index]
        number = self._tokens[index - step]
        other = self._tokens[index + step] if 0 <= index + step < len(self._tokens) else None
        if "\n" in self._text[min(token.end, number.end) : max(token.start, number.start)]:
            return False
        if token.text in (OPAQUE, COMPARISON, "^"):
            return True
        if token.kind == "word":
            tight = step > 0 and token.start == number.end and token.text in _TIGHT_VARIABLES
            product = token.text in "xX" and other is not None and other.kind == "number"
            return tight or (product and self._is_number(index - step))
        if token.kind == "always":
            if token.text in "+±" and step < 0 and self._is_sign(index):
                return token.text == "±"
            operand = "close" if step < 0 else "open"
            return other is not None and (
                other.kind in ("number", "word", operand) or other.text in (OPAQUE, "-")
            )
        if token.kind == "between" and other is not None:
            return self._binds(token, number, other, step)
        return False

    def _binds(self, token: TextToken, number: TextToken, other: TextToken, step: int) -> bool:
        """Whether `-`, `/` or `:` is an operator between a number and its other neighbor."""
        operand = (
            other.kind == "number"
            or other.text in _VARIABLES
            or other.text in (OPAQUE, ")" if step < 0 else "(")
        )
        if not operand:
            return False
        left, right = (number, other) if step > 0 else (other, number)
        if token.text == "-":
            return token.start > left.end and right.start > token.end
        if token.text == ":":
            return token.start == left.end and right.start == token.end
        return True
