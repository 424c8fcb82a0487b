"""Tokens of a text whose numbers have one spelling: numbers, words and operators."""

import re
from collections.abc import Iterator
from fractions import Fraction
from typing import NamedTuple

from probes.grading.spelling import COMPARISON, OPAQUE, THIN

_MAX_DIGITS = 300
_MAX_EXPONENT = 1000

_LATIN = r"A-Za-z\u00b5\u00c0-\u04ff"
_NUMERAL = (
    rf"(?:\d{{1,3}}(?:[ {THIN}]\d{{3}})+(?:[.,]\d+)?(?!\d)"
    rf"|\d+(?:[.,'_{THIN}]\d+)*|\.\d+)"
)
_TOKEN = re.compile(
    rf"(?P<number>{_NUMERAL})"
    r"(?:[eE](?P<exponent>[-+]?\d{1,3})(?!\d)"
    r"|[ ]{0,3}[x\u00d7*][ ]{0,3}10[ ]{0,2}\^[ ]{0,2}(?P<scientific>[-+]?\d{1,9})"
    r"|[ ]{0,2}\^[ ]{0,2}(?P<power>[-+]?\d{1,9})(?![.,]?\d))?"
    rf"|(?P<word>[{_LATIN}][{_LATIN}0-9_]*)"
    r"|(?P<equals>[=≈→⇒])"
    rf"|(?P<always>[\u00d7÷*^+±√_{OPAQUE}{COMPARISON}]|(?<=\d)![=]?(?=\s?[-+\u00d7*/=]))"
    r"|(?P<between>[-/:])"
    r"|(?P<open>[(\[])|(?P<close>[)\]])"
    r"|(?P<other>[^\s{}])"
)


class TextToken(NamedTuple):
    """A token of a text."""

    kind: str
    """number, word, equals, always (an operator), between (`-`, `/`, `:`), open, close, other."""
    text: str
    start: int
    end: int
    value: Fraction | None = None
    """Of a number; None where it has no single value, such as `1,2,3`."""


def tokens(text: str) -> Iterator[TextToken]:
    """The tokens of a text that `spelling.normalized` returned, in order."""
    for found in _TOKEN.finditer(text):
        kind = found.lastgroup or "other"
        if found["number"] is not None:
            before = text[max(0, found.start() - 2) : found.start()]
            pair = before.endswith(("(", "[", "\\{"))
            value = _value_of(
                found, in_brackets=pair and text.startswith((")", "]", "}", "\\}"), found.end())
            )
            yield TextToken("number", found[0], *found.span(), value)
        else:
            yield TextToken(kind, found[0], *found.span())


def _value_of(found: re.Match[str], *, in_brackets: bool) -> Fraction | None:
    base = _numeral(found["number"], decimal_comma=not in_brackets)
    if base is None:
        return None
    if power := found["power"]:
        exponent = int(power)
        size = len(found["number"]) * abs(exponent)
        if size > _MAX_EXPONENT or (exponent < 0 and not base):
            return None
        return base**exponent
    exponent = int(found["exponent"] or found["scientific"] or 0)
    return None if abs(exponent) > _MAX_EXPONENT else base * Fraction(10) ** exponent


def _numeral(text: str, *, decimal_comma: bool) -> Fraction | None:
    """The value of digits with separators; None where they are no one number, as in `1,2,3`."""
    if len(text) > _MAX_DIGITS:
        return None
    if set(text) & {" ", THIN, "'", "_"}:
        whole, mark, decimals = text.partition("." if "." in text else ",")
        groups = re.split(rf"[ {THIN}'_]", whole)
        ok = len(groups[0]) <= 3 and all(len(group) == 3 for group in groups[1:])
        return (
            _decimal("".join(groups), decimals) if ok and decimals.isdigit() == bool(mark) else None
        )
    commas, stops = text.count(","), text.count(".")
    if not commas and stops <= 1:
        return _decimal(*text.partition(".")[::2])
    if commas and text.rfind(",") < text.find(".") and stops == 1:
        whole, _, decimals = text.partition(".")
        return _decimal(whole.replace(",", ""), decimals) if _is_grouped(whole, ",") else None
    if not stops and _is_grouped(text, ","):
        return _decimal(text.replace(",", ""), "")
    if stops and commas <= 1 and _is_grouped(text.partition(",")[0], "."):
        whole, _, decimals = text.partition(",")
        return _decimal(whole.replace(".", ""), decimals)
    if commas == 1 and not stops and decimal_comma:
        return _decimal(*text.partition(",")[::2])
    return None


def _is_grouped(text: str, separator: str) -> bool:
    """Whether the separators are those of thousands, or of lakhs and crores."""
    first, *groups = text.split(separator)
    if first.startswith("0") or not groups:
        return False
    thousands = len(first) <= 3 and all(len(group) == 3 for group in groups)
    lakhs = len(first) <= 2 and len(groups[-1]) == 3 and all(len(g) == 2 for g in groups[:-1])
    return thousands or (separator == "," and lakhs)


def _decimal(whole: str, decimals: str) -> Fraction:
    return Fraction(int((whole + decimals) or "0"), 10 ** len(decimals))
