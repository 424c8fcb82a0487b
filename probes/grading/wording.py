"""Words and sentences of a text, in the spelling that graders compare."""

import re
import unicodedata
from typing import Literal

_EMPHASIS = re.compile(
    r"(?<![\w*])(\*{2,3})(?=\S)((?:[^*\n]|\*(?!\*))+)(?<=\S)\1(?![\w*])"
    r"|(?<![\w*])(\*)(?=\S)([^*\n]+)(?<=\S)\*(?![\w*])"
    r"|(?<!\w)(__?)(?=[^\s_])([^_\n]+)(?<=\S)\5(?!\w)"
)
_ABBREVIATIONS = (
    r"(?<!\b(?:St|Mt|Dr|Mr|Ms|Jr|Sr|Ft|vs|ca)\.)(?<!\b(?:Mrs|etc|Rev|Gen)\.)"
    r"(?<!\b(?:Prof|Capt)\.)(?<!\bapprox\.)(?<!\b(?:e\.g|i\.e)\.)"
)
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
_ARTICLES = ("a", "an", "the")
_NAME = "\ue000"
"""Marks a capital A within a sentence, which is a name, as in "vitamin A"."""
_LETTER_NAME = re.compile(r"(?<=[a-z] )A(?![\w'\u2019])")
_OPTIONAL_MARKS = re.compile("[\u0300-\u036f\u0591-\u05c7\u0610-\u061a\u064b-\u065f\u0670]")
"""Accents, and the vowel signs of Hebrew and Arabic. Marks of other scripts tell letters apart."""
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
    """The text without the asterisks and underscores around emphasis in Markdown."""
    return _EMPHASIS.sub(r"\2\4\6", text)


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
    """The text without accents and vowel signs; NFKD also replaces variants, such as ² by 2.

    Marks that make another letter stay, as in Japanese, Hindi and Thai.
    """
    letters = unicodedata.normalize(form, text)
    return unicodedata.normalize("NFC", _OPTIONAL_MARKS.sub("", letters))


def plain_words(text: str) -> str:
    """The words of a text without case, accents, articles and the punctuation of sentences.

    Signs and symbols stay with their word, as in `-5`, `c++` and `.fr`. A text of nothing but
    articles and punctuation stays as it is. "A" is no article where it ends the text, follows
    another single letter, or is a capital within a sentence.
    """
    named = _LETTER_NAME.sub(f"A{_NAME}", without_emphasis(without_marks(text)))
    letters = without_accents(named.casefold())
    letters = re.sub("[\u2212\u2013]", "-", letters.replace("\u2044", "/"))
    for separator in (_BULLET, _LATEX, _JOINT, _STOP):
        letters = separator.sub(" ", letters)
    letters = _APART.sub(r" \g<0> ", letters)
    words = "".join(" " if _is_punctuation(letter) else letter for letter in letters).split()
    kept = [
        word.replace(_NAME, "")
        for before, word, after in zip(["", *words], words, [*words[1:], ""], strict=False)
        if word not in _ARTICLES or not after or (len(before) == 1 and before.isalpha())
    ]
    return " ".join(kept or words) or text.strip().casefold()


def _is_punctuation(letter: str) -> bool:
    """Whether it is punctuation of sentences; a backtick serves as a quote."""
    is_mark = unicodedata.category(letter).startswith("P") and letter not in _SYMBOLS
    return is_mark or letter == "`"
