"""One spelling of numbers: digits, signs, separators, powers, fractions and LaTeX."""

import re
import unicodedata

from probes.grading.wording import without_marks

_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻", "0123456789+-")
_LETTERS: dict[str, str] = {
    **dict.fromkeys("\u2010\u2011\u2012\u2013\u2212\ufe63", "-"),
    **dict.fromkeys("\u2044\u2215", "/"),
    **dict.fromkeys("\u2018\u2019\u02bc", "'"),
    **dict.fromkeys("✕✖⋅·∙", "\u00d7"),
    "\u066b": ".",
    "\u066c": ",",
    "\u066a": "%",
    "\u02d9": ".",
}
THIN = "\u202f"
"""Stands for every space that may separate thousands."""
_VULGAR = re.compile(r"(?<=\d)[ ]?\ue000")
"""A vulgar fraction behind a whole number; U+E000 marks where one begins."""
OPAQUE = "\ufffc"
"""Stands for a part of a formula that is no number."""
COMPARISON = "\u2276"
"""Stands for every sign that compares two numbers, other than an equals sign."""

_LATEX: list[tuple[re.Pattern[str], str]] = [
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"\\\\", "\n"),
        (r"\{,\}|,\\![ ]{0,3}", ","),
        (r"\\(?:begin|end)[ ]?\{[a-zA-Z*]{1,20}\}", " "),
        (
            r"\\(?:therefore|because|boxed|fbox|checkmark|square|[lcd]?dots|bullet|star)(?![a-zA-Z])",
            " ",
        ),
        (r"\\(?:Omega|mu|ell|AA|euro|pounds|prime)(?![a-zA-Z])", " "),
        (r"\\!|\\(?:left|right|[bB]igg?[lr]?|displaystyle|limits)(?![a-zA-Z])", ""),
        (r"\\[,;:> ]|~", THIN),
        (r"\\q?quad\b|\\[()\[\]&]", " "),
        (r"\^[ ]?\{?[ ]?\\circ[ ]?\}?|\\degree(?![a-zA-Z])|°", " deg "),
        (r"\\(?:text|math|mbox|operatorname|emph|rm|bf|it)[a-z]{0,6}\*?[ ]{0,3}\{", " {"),
        (r"\\(?:underline|[lL]arge|LARGE|[hH]uge|bm|boldsymbol)(?![a-zA-Z])", " "),
        (
            r"\{[ ]?([^{}\\]{1,60}?)[ ]?\\over(?![a-zA-Z])[ ]?([^{}\\]{1,60}?)[ ]?\}",
            r"\\frac{\1}{\2}",
        ),
        (r"\\([%$#_])", r"\1"),
        (r"\\[dtc]?frac", r"\\frac "),
        (r"\\(?:times|cdot|ast)(?![a-zA-Z])", "\u00d7"),
        (r"\\div(?![a-zA-Z])", "÷"),
        (
            r"\\(?:approx|simeq|sim|implies|Rightarrow|Longrightarrow|rightarrow|to)(?![a-zA-Z])",
            "≈",
        ),
        (r"\\(?:leq?|geq?|lt|gt|neq?|leqslant|geqslant)(?![a-zA-Z])", f" {COMPARISON} "),
        (r"\\pm(?![a-zA-Z])", "±"),
        (r"\\(?:in|cup|cap)(?![a-zA-Z])", " ; "),
    )
]
_SIMPLE = r"[-+]?(?:\d[\d,]{0,60}(?:\.\d{1,60})?|\.\d{1,60})"
_FRACTION = re.compile(
    rf"(\d[ ]?)?([-+])?\\frac[ ]{{0,3}}(?:\{{[ ]?({_SIMPLE})[ ]?\}}|(\d))[ ]{{0,3}}"
    rf"(?:\{{[ ]?({_SIMPLE})[ ]?\}}|(\d))"
)
_FORMULA = re.compile(
    r"\\frac[ ]{0,3}\{[^{}]{0,200}\}[ ]{0,3}\{[^{}]{0,200}\}"
    r"|(?:\\sqrt|√|\\binom|\\log|\\ln|\\sin|\\cos|\\tan|\\exp"
    r"|\b(?:sqrt|log|ln|sin|cos|tan)(?![a-zA-Z]))"
    r"[ ]?(?:\[[^\]]{0,20}\])?[ ]?(?:\{[^{}]{0,200}\}|\([^()]{0,200}\)|[ ]?\d{1,60})?"
    r"|\\pi\b|π|∞|\\infty\b|\\[a-zA-Z]{1,30}"
)
_SIGNS: list[tuple[re.Pattern[str], str]] = [
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"</?[A-Za-z]{1,20}[ ]?/?>|<\|[^|<>]{1,40}\|>|<<|>>", " "),  # tags; GSM8K's calculator
        (r"[-=]{1,3}>", "→"),
        (r"[<>!]=|[<>≤≥≠≦≧⩽⩾]", COMPARISON),
        (r"(?<=[a-z])n't\b", " not"),
        (r"([$€£¥₹][ ]?\d[\d.,]{0,30})[ ]?[kK]\b|(?<![\w.,])(\d[\d.,]{0,30})k\b", r"\1\2 thousand"),
        (r"([$€£¥₹][ ]?\d[\d.,]{0,30})[ ]?(?:[mM]|mn|mio)\b", r"\1 million"),
        (r"([$€£¥₹][ ]?\d[\d.,]{0,30})[ ]?(?:[bB]|bn|mrd)\b", r"\1 billion"),
    )
]
"""Signs and short forms behind LaTeX."""
_CURRENCY_SIGN = re.compile(r"(?<![\w)\]}])-[ ]?[$€£¥₹][ ]?(?=[\d.])")
_GROUPS = r"\d{1,3}(?:\.\d{3}){1,20}(?![\d.,]?\d|[eE][-+]?\d|[ ]{0,3}[x\u00d7*^])"
_EURO = re.compile(
    rf"(?<![\d.,])(?:(?:€|\bEUR|[Ee]uros?)[ \u202f]?({_GROUPS})"
    rf"|({_GROUPS})[ \u202f]?(?:€|EUR\b|[Ee]uros?\b))"
)
_BRACED_SIGN = re.compile(r"(?<![\w)\]}])-[ ]{0,2}\{[ ]?(?=[\d.])")
_IN_BRACKETS = re.compile(r"^[ ]{0,3}([-+]?)[ ]?\(([-+]?[\d.](?:[^(),;:]|,(?=\d{3})){0,60})\)")
"""A text that begins with a number in brackets."""
_BRACED_POWER = re.compile(r"\^[ ]{0,3}\{[ ]{0,3}([-+]?\d{1,60})[ ]{0,3}\}")
_STARS = re.compile(r"(?<=\d)[ ]?\*\*[ ]?(?=[-+]?\d)")
_UNIT_POWER = re.compile(r"(?<=[^\W\d_])[ ]{0,3}\}?[ ]{0,3}\^[ ]{0,3}[-+]?\d{1,9}")

_MONTHS = (
    r"(?:Jan|Febr)uary|March|April|May|June|July|August|(?:Sept|Nov|Dec)ember|October"
    r"|(?:Jan|Feb|Mar|Apr|Jun|Jul|Aug|Sept?|Oct|Nov|Dec)\b\.?"
)
_DAY = re.compile(
    rf"\b(?:{_MONTHS}) \d{{1,2}}(?:st|nd|rd|th)?,? (?=\d{{4}}\b)"
    rf"|\b\d{{1,2}}(?:st|nd|rd|th)? (?:of )?(?:{_MONTHS}),? (?=\d{{4}}\b)"
)
"""Day and month before a year, which is the number of a date."""


def normalized(text: str) -> str:
    """The text with one spelling of digits, signs, separators, powers and fractions."""
    text = _one_alphabet(without_marks(text))
    for pattern, replacement in _LATEX:
        text = pattern.sub(replacement, text)
    for pattern, replacement in _SIGNS:
        text = pattern.sub(replacement, text)
    text = _FRACTION.sub(_slash, text)
    text = _BRACED_POWER.sub(r"^\1", text)
    text = _FORMULA.sub(OPAQUE, text)
    text = _BRACED_SIGN.sub("-", text)
    text = _CURRENCY_SIGN.sub("-", _DAY.sub("", text))
    text = _EURO.sub(lambda found: (found[1] or found[2]).replace(".", ",") + " ", text)
    text = "".join(" " if _is_currency(letter) else letter for letter in text)
    text = _IN_BRACKETS.sub(r"\1\2", text)
    return _UNIT_POWER.sub(" ", _STARS.sub("^", text))


def _slash(found: re.Match[str]) -> str:
    r"""`n/d` for `\frac{n}{d}`, behind a space where it follows a whole number."""
    parts = found[3] or found[4], found[5] or found[6]
    num_minus = sum(part.startswith("-") for part in (found[2] or "", *parts))
    above, below = (part.lstrip("+-").replace(",", "") for part in parts)
    sign = "-" if num_minus % 2 else ""
    if not found[1]:
        return f"{sign}{above}/{below} "
    return f"{found[1].strip()} {f'{found[2]} ' if found[2] else sign}{above}/{below} "


def _one_alphabet(text: str) -> str:
    """ASCII digits and signs; exponents as `^2`, vulgar fractions as `1/2`."""
    text = re.sub("[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻]+", lambda run: "^" + run[0].translate(_SUPERSCRIPTS), text)
    table = {ord(letter): _spelling(letter) for letter in set(text) if letter > "\x7f"}
    return _VULGAR.sub(" ", text.translate(table)).replace("\ue000", "")


def _spelling(letter: str) -> str:
    if letter in _LETTERS:
        return _LETTERS[letter]
    category = unicodedata.category(letter)
    if category == "Nd":
        return str(unicodedata.digit(letter))
    if category == "Zs":
        return THIN
    if unicodedata.decomposition(letter).startswith("<fraction>"):
        return "\ue000" + unicodedata.normalize("NFKD", letter).replace("\u2044", "/") + " "
    return letter


def _is_currency(letter: str) -> bool:
    return letter == "$" or (letter > "\x7f" and unicodedata.category(letter) == "Sc")
