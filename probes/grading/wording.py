"""Words and sentences of a text, in the spelling that graders compare."""

import re
import unicodedata
from typing import Literal

_EMPHASIS = re.compile(
    r"(?<![\w*])(\*{2,3})(?=\S)((?:[^*\n]|\*(?!\*))+)(?<=\S)\1(?![\w*])"
    r"|(?<![\w*])(\*)(?=\S)([^*\n]+)(?<=\S)\*(?![\w*])"
)
_ABBREVIATIONS = r"(?<!\b(?:St|Mt|Dr|Mr|Ms|Jr|Sr|Ft|vs|ca)\.)(?<!\b(?:Mrs|etc|Rev|Gen)\.)"
_FUNCTION_WORDS = (
    "An?|And|Another|But|Else|Her?|His|However|I[fnt]?|Its|Maybe|Not?|Of|Or|Perhaps|She|So|That|The"
    "|Then|There|These|They|This|Those|To|We|Yes|You"
)
_INITIAL = rf"(?<!\b[A-Z]\.)|(?<=\.)(?=\s+(?:{_FUNCTION_WORDS})\b)"
_SENTENCE_END = re.compile(
    rf"(?<=[.!?])(?<!\\!){_ABBREVIATIONS}(?:{_INITIAL})\s+"
    rf"|(?<=[.!?][\"'\u201d)])\s+|(?<=[\u3002\uff01\uff1f])|\n"
)

_BULLET = re.compile(r"^\s*[-*•#]+\s+(?=[^\W\d])")
_JOINT = re.compile(r"(?<=[^\W\d])[-/](?=\w)|(?<=\w)[-/](?=[^\W\d])")
_LATEX = re.compile(r"\\[()\[\]]")
_STOP = re.compile(r"\.(?!\w)|(?<=\.)\.|(?<=[^\W\d])\.|(?<=\d)\.(?!\d)")
_APART = re.compile(r"[=%°$€£¥]")
_SYMBOLS = "-#%&*/@\\_."
"""Characters of Unicode's punctuation that are part of a word."""

_WRAPPER = re.compile(
    r"\\(?:text(?:bf|it|rm|tt|sf|normal)?|math(?:bf|it|rm|sf|tt|bb|cal)|operatorname|mbox|emph)"
    r"\*?[ ]{0,3}\{([^{}]*)\}"
)
_DELIMITED = re.compile(r"(\$\$?|`{1,3}|\\[(\[])[ ]{0,3}(.*?)[ ]{0,3}(\$\$?|`{1,3}|\\[)\]])", re.S)
_SPACING = re.compile(r"\\[,;:! ]|\\q?quad\b|~")


def after_thinking(text: str) -> str:
    """What follows the last `</think>`; nothing where a `<think>` never closes."""
    visible = text.rpartition("</think>")[2]
    return "" if "<think>" in visible else visible


def without_emphasis(text: str) -> str:
    """The text without the asterisks of Markdown."""
    return _EMPHASIS.sub(r"\2\4", text)


def without_marks(text: str) -> str:
    """The text without invisible format characters, and with full-width ASCII made plain.

    Zero-width spaces, direction marks and byte order marks are format characters.
    """
    odd = {letter for letter in set(text) if letter > "\x7f"}
    table = {ord(x): "" for x in odd if unicodedata.category(x) == "Cf"}
    table |= {ord(x): chr(ord(x) - 0xFEE0) for x in odd if "\uff01" <= x <= "\uff5e"}
    return text.translate(table)


def without_latex_text(text: str) -> str:
    r"""The text without LaTeX's spaces, `\text{...}` and the delimiters around the whole of it."""
    for _ in range(3):  # macros within macros
        text = _WRAPPER.sub(r"\1", text)
    text = _SPACING.sub(" ", text).strip()
    inside = _DELIMITED.fullmatch(text.rstrip(".,;!? "))
    return inside[2] if inside and "$" not in inside[2] else text


def sentences(text: str) -> list[str]:
    """The sentences and lines of a text; initials and abbreviations such as "St." do not end one.

    Initials are single capitals with a period, unless a word such as "It" or "Or" follows.
    """
    return [part for part in _SENTENCE_END.split(text) if part is not None]


def without_accents(text: str, form: Literal["NFD", "NFKD"] = "NFKD") -> str:
    """The text without combining marks; NFKD also replaces variants, such as ² by 2."""
    letters = unicodedata.normalize(form, text)
    return "".join(letter for letter in letters if not unicodedata.combining(letter))


def plain_words(text: str) -> str:
    """The words of a text without case, accents, articles and the punctuation of sentences.

    Signs and symbols stay with their word, as in `-5`, `c++` and `.fr`. A text of nothing but
    articles and punctuation stays as it is.
    """
    letters = without_accents(without_emphasis(without_marks(text)).casefold())
    letters = re.sub("[\u2212\u2013]", "-", letters.replace("\u2044", "/"))
    for separator in (_BULLET, _LATEX, _JOINT, _STOP):
        letters = separator.sub(" ", letters)
    letters = _APART.sub(r" \g<0> ", letters)
    words = "".join(" " if _is_punctuation(letter) else letter for letter in letters).split()
    kept = [word for word in words if word not in ("a", "an", "the")]
    return " ".join(kept or words) or text.strip().casefold()


def _is_punctuation(letter: str) -> bool:
    """Whether it is punctuation of sentences; a backtick serves as a quote."""
    is_mark = unicodedata.category(letter).startswith("P") and letter not in _SYMBOLS
    return is_mark or letter == "`"
