r"""Where a text states its final answer: `\boxed`, `####`, "answer is" and "Answer:"."""

import re
from bisect import bisect_right
from collections.abc import Callable, Hashable, Iterator, Sequence
from enum import Enum
from typing import NamedTuple, TypeVar

from probes.grading.wording import (
    after_thinking,
    plain_words,
    sentences,
    without_emphasis,
    without_marks,
)

T = TypeVar("T", bound=Hashable)


class Rank(Enum):
    """How a text marks its final answer; earlier ranks take precedence."""

    BOXED = 0
    HASHES = 1
    FINAL = 2
    IS = 3
    COLON = 4


class Statement(NamedTuple):
    """A place where a text states an answer."""

    rank: Rank
    start: int
    """Index in the text where the statement begins."""
    text: str
    """What is stated, up to the end of the line (of the sentence, for "answer is")."""


class Several(Enum):
    """A text that states different answers."""

    ANSWERS = 0


_BRACES = re.compile(r"\\[{}]|\\(?:boxed|fbox)\s{0,3}\{|[{}]")
_BARE_BOX = re.compile(r"\\boxed\s{0,3}([^\s{}\\$.,;]+(?:[.,]\d+)*)")
_HASHES = re.compile(r"(?<!#)####(?!#)[ \t]{0,8}([^\n#]+)")
_HEADING = re.compile(
    r"\s*(?:(?:the\s+)?(?:final|correct)?\s*(?:answer|solution|step|explanation|calculation|result"
    r"|conclusion|part|problem|question|reasoning|summary|note|check|verification)\b"
    r"|\d+[.)]\s+\S|.*:\s*$)",
    re.IGNORECASE,
)
_NOUN = r"answer|antwort|antwoord|r[ée]ponse|respuesta|resposta|risposta|ответ"
_OF = (
    r"(?:\s{1,3}(?:to|of|for)\s(?:[a-z]{1,9}\s){0,3}(?:question|problem|exercise|puzzle|riddle|part)"
    r"[^\n.:=]{0,20}?)?"
)
_VERB = (
    r"(?:is|are|was|equals|must be|would be|will be|should be|seems to be|ist|lautet|est|es|[ée]|è)"
)
_NOT = r"(?!\s{1,3}(?:not|never|nicht|no|pas|non|n[ãa]o|wrong|incorrect)\b)"
_IS = re.compile(
    rf"\b(final\s{{1,3}})?(?:{_NOUN}){_OF}\s{{1,3}}{_VERB}\b{_NOT}\s{{0,3}}:?"
    r"|答案\s?(?:[是为為]:?|:)|答えは|정답은|답은",
    re.IGNORECASE,
)
_COLON = re.compile(rf"\b(final\s{{1,3}})?(?:{_NOUN})\s{{0,3}}[:=]|答え:|정?답:", re.IGNORECASE)
_TITLE = re.compile(r"^\W{0,8}final answer\W{0,8}$", re.IGNORECASE | re.MULTILINE)
_FRAME = re.compile(r"\\\[|\$\$|```\w*|-{3,}|")
"""A line that opens a formula or a block, or is empty."""
_LABEL = re.compile(r"^(?:[-*•]|1[.)])\s+(?=\S)")
"""The mark of the first item of a list."""
_EMPTY = frozenset(
    ("below", "as follows", "follows", "given below", "shown below", "here", "clear", "simple", "")
)
_CONTINUATION = re.compile(
    r"^\s{0,8}(?:question|q|problem|user|human|instruction)\s?\d{0,3}\s?:", re.I | re.M
)
_CORRECTION = re.compile(
    r"\b(?:wait|no|actually|correction|corrected|sorry|oops|mistake|mistaken|rather|instead|"
    r"scratch that|hold on|wrong|incorrect|re-?check|recheck\w*|reconsider\w*|revised?)\b",
    re.IGNORECASE,
)
_BOX = re.compile(r"\\boxed")
_FENCE = re.compile(r"^[ \t]{0,8}```.*$", re.MULTILINE)


def graded_text(text: str) -> str:
    """The text that is graded: after thinking, without Markdown's emphasis and format characters.

    A base model may continue with another question after its answer; that part is removed.
    """
    shown = without_emphasis(without_marks(after_thinking(text)))
    marks = [mark.search(shown) for mark in (_HASHES, _COLON, _IS, _BOX)]
    first = min((mark.start() for mark in marks if mark), default=len(shown))
    continued = _CONTINUATION.search(shown, first)
    return shown[: continued.start()] if continued else shown


def statements(shown: str) -> list[list[Statement]]:
    """The statements of each rank, earlier ranks first; ranks without one are left out.

    Those in blocks of code count only where no prose follows the blocks.
    """
    found = sorted(
        [*_boxed_statements(shown), *_marked_statements(shown)], key=lambda one: one.start
    )
    if code := _code_blocks(shown):
        starts = [start for start, _ in code]
        prose = [
            one
            for one in found
            if not (block := bisect_right(starts, one.start)) or one.start > code[block - 1][1]
        ]
        found = prose if prose or shown[code[-1][1] :].strip() else found
    by_rank = ([one for one in found if one.rank is rank] for rank in Rank)
    return [group for group in by_rank if group]


def agreed_reading(
    shown: str, group: Sequence[Statement], read: Callable[[str], T | None]
) -> T | Several | None:
    """What the statements say as `read` reads them; None where it reads nothing.

    Different readings are no answer, unless words such as "wait" or "actually" come between them:
    then those after the last such word count.
    """
    readings = [(one.start, value) for one in group if (value := read(one.text)) is not None]
    if len({value for _, value in readings}) > 1:
        starts = [start for start, _ in readings]
        cues = [cue.start() for cue in _CORRECTION.finditer(shown, starts[0], starts[-1])]
        if cues:
            readings = [(start, value) for start, value in readings if start > cues[-1]]
    values = {value for _, value in readings}
    if len(values) > 1:
        return Several.ANSWERS
    return next(iter(values), None)


def final_answer(text: str) -> str:
    r"""The final answer of a text: what it boxes, else what follows `####`, "answer is", "Answer:".

    Of several statements of the same rank it is the last one; without a statement it is the whole
    text. Thinking and the asterisks of Markdown are removed first.
    """
    shown = graded_text(text)
    groups = statements(shown)
    if groups:
        return groups[0][-1].text
    return "" if _COLON.search(shown) else shown.strip()


def _boxed_statements(shown: str) -> Iterator[Statement]:
    """The innermost boxes; those that never close are none."""
    opened: list[tuple[int, bool]] = []  # where the content begins; whether a box
    last_end = 0  # of a box; one that begins before it has another box within
    for found in _BRACES.finditer(shown):
        mark = found[0]
        if mark in (r"\{", r"\}"):
            continue
        if mark != "}":
            opened.append((found.end(), mark != "{"))
            continue
        if not opened:
            continue
        start, is_box = opened.pop()
        if is_box and start > last_end:
            last_end = found.start()
            yield Statement(Rank.BOXED, start, shown[start : found.start()].strip())
    for found in _BARE_BOX.finditer(shown):
        yield Statement(Rank.BOXED, found.start(), found[1])


def _marked_statements(shown: str) -> Iterator[Statement]:
    for found in _HASHES.finditer(shown):
        if not _HEADING.match(found[1]):
            yield Statement(Rank.HASHES, found.start(), found[1].strip())
    marks = [(found.start(), found.end(), Rank.FINAL, False) for found in _TITLE.finditer(shown)]
    for pattern, rank in ((_IS, Rank.IS), (_COLON, Rank.COLON)):
        for found in pattern.finditer(shown):
            is_sentence = rank is Rank.IS
            rank_found = Rank.FINAL if found[1] else rank
            marks.append((found.start(), found.end(), rank_found, is_sentence))
    marks.sort(key=lambda mark: mark[0])
    ends = [start for start, *_ in marks[1:]] + [len(shown)] * bool(marks)
    for (start, begin, rank, is_sentence), end in zip(marks, ends, strict=True):
        text = _rest_of_line(shown, begin, end)
        if is_sentence:
            text = sentences(text)[0]
        if plain_words(text) not in _EMPTY:
            yield Statement(rank, start, text)


def _rest_of_line(shown: str, start: int, end: int) -> str:
    """The rest of the line, or the first line below it that holds anything, up to an index."""
    first = start
    while start < end:
        stop = shown.find("\n", start, end)
        stop = end if stop < 0 else stop
        line = shown[start:stop].strip()
        if not _FRAME.fullmatch(line):
            return line if start == first else _LABEL.sub("", line)
        start = stop + 1
    return ""


def _code_blocks(shown: str) -> list[tuple[int, int]]:
    """Where the fenced blocks of code begin and end; an open one ends with the text."""
    fences = [fence.span() for fence in _FENCE.finditer(shown)]
    ends = [end for _, end in fences[1::2]] + [len(shown)] * (len(fences) % 2)
    return [(start, end) for (start, _), end in zip(fences[::2], ends, strict=True)]
