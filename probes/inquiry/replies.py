"""Rules that interpret replies without a model: a task's words for an answer, and plain English.

The rules read a reply from its beginning. Negation comes first ("not really", "it does not"), then
phrases without information ("no idea", "maybe"), then words for yes and no. Replies that match no
rule are left to the model.
"""

import re
import tomllib
import unicodedata
from collections.abc import Iterator, Sequence
from functools import lru_cache
from importlib.resources import files
from typing import NamedTuple

from probes.inquiry.likelihood import NO, UNKNOWN, YES
from probes.inquiry.task import Task
from probes.inquiry.text import normalize_question

Words = tuple[str, ...]
_MAX_CLAUSES = 20


@lru_cache(maxsize=1)
def _english() -> dict[str, frozenset[Words]]:
    text = (files("probes.inquiry") / "english.toml").read_text("utf-8")
    return {name: _phrases(value) for name, value in tomllib.loads(text).items()}


def _phrases(text: str) -> frozenset[Words]:
    return frozenset(tuple(one.split()) for one in re.split(r"[,\n]", text) if one.strip())


def _is_listed(word: str, name: str) -> bool:
    """Whether a word is in a list of the English file."""
    return (word,) in _english()[name]


class Lexicon(NamedTuple):
    """Phrases by what they mean."""

    yes: frozenset[Words]
    no: frozenset[Words]
    english: bool
    """Whether the rules of English apply."""


def literal_answer(task: Task, question: str, reply: str) -> int | None:
    """Interpret a reply with the rules.

    Args:
        task: Provides words for yes and no, and further ones under `replies`.
        question: The question; a reply may repeat its words ("it has stripes").
        reply: The user's text.

    Returns:
        `YES`, `NO`, `UNKNOWN` for a reply without information, or None if no rule matches.
    """
    lexicon = _lexicon(task.answers, task.replies.yes, task.replies.no)
    clauses = _clauses(reply)
    if not clauses:
        return UNKNOWN
    answer = _clause(lexicon, clauses[0], question, clauses[1:])
    if answer is None or answer == UNKNOWN or len(clauses) == 1:
        return answer
    # A reply such as "Yes. No, wait: no!" contradicts itself: leave it to the model.
    later = {_clause(lexicon, one, question, []) for one in clauses[1:]}
    return None if (YES + NO - answer) in later else answer


@lru_cache(maxsize=64)
def _lexicon(answers: tuple[str, str], yes: tuple[str, ...], no: tuple[str, ...]) -> Lexicon:
    english = tuple(map(normalize_question, answers)) == ("yes", "no")
    own = [{tuple(_words(one)) for one in (answers[at], *more)} for at, more in ((0, yes), (1, no))]
    return Lexicon(frozenset(own[0]), frozenset(own[1]), english)


def _clauses(reply: str) -> list[list[str]]:
    """The words of each part of a reply between punctuation marks."""
    found = [_words(part) for part in re.split(r"[.,;:!?\n()\u2014\u2013]+| - ", reply)]
    return [words for words in found if words][:_MAX_CLAUSES]


def _words(text: str) -> list[str]:
    folded = unicodedata.normalize("NFKC", text).casefold()
    folded = re.sub(r"['\u2019\u02bc`]", "", folded)
    kept = "".join(" " if unicodedata.category(c)[0] in "PZCS" else c for c in folded)
    words = [re.sub(r"(.)\1{2,}", r"\1", one) for one in kept.split()]  # "nooo" is "no"
    return words


def _clause(
    lexicon: Lexicon, words: list[str], question: str, rest: Sequence[list[str]]
) -> int | None:
    """Meaning of one clause; a clause of fillers defers to the next one."""
    own = _own_answer(lexicon, words)
    if not lexicon.english:
        return own
    if _begins_with(words, _english()["says_nothing"]):
        return UNKNOWN
    stripped = _strip_phrases(words)
    if _begins_with(stripped, _english()["says_nothing"]):
        return UNKNOWN
    if _begins_with(words, _english()["yes"]) and not _begins_with(
        words, _english()["not_an_answer"]
    ):
        return _yes_unless_negated(words)
    if not stripped:
        if tuple(words) in _english()["yes_alone"]:
            return YES
        return _clause(lexicon, rest[0], question, rest[1:]) if rest else None
    if _begins_with(words, _english()["not_an_answer"]) or _begins_with(
        stripped, _english()["not_an_answer"]
    ):
        return None
    if _begins_with(stripped, _english()["yes"]):  # before `no`: "no doubt"
        return _yes_unless_negated(stripped)
    if own is not None:
        return own
    for form in (stripped, _strip_phrases(stripped, "emphasis")):
        if _begins_with(form, _english()["no"]) or tuple(form) in _english()["no_alone"]:
            return NO
    if tuple(words) in _english()["yes_alone"] or tuple(stripped) in _english()["yes_alone"]:
        return YES
    if not _strip_phrases(stripped, "emphasis"):
        return YES
    short = _short_answer(words, question)
    return _short_answer(stripped, question) if short is None else short


def _own_answer(lexicon: Lexicon, words: list[str]) -> int | None:
    """The task's own words for no, then for yes, at the beginning of a clause."""
    if _begins_with(words, lexicon.no):
        return NO
    return YES if _begins_with(words, lexicon.yes) else None


def _yes_unless_negated(words: list[str]) -> int | None:
    """Yes, but not for "of course not" or "yes it does not"."""
    first = next((phrase for phrase in _matches(words, _english()["yes"])), ())
    after = words[len(first) :]
    if after[:1] in (["not"], ["never"], ["no"]):
        return NO
    return None if "not" in after and "but" not in after else YES


def _short_answer(words: Sequence[str], question: str) -> int | None:
    """A short answer such as "it does" or "isn't", or one in the question's own words."""
    left = list(words)
    subject = (
        left.pop(0)
        if left and (_is_listed(left[0], "subjects") or _is_listed(left[0], "contracted"))
        else ""
    )
    _drop_leading(left, "adverbs")
    verb = (
        left.pop(0)
        if left and (_is_listed(left[0], "verbs") or _is_listed(left[0], "negated_verbs"))
        else ""
    )
    _drop_leading(left, "adverbs")
    negative = _is_listed(verb, "negated_verbs")
    if left and _is_listed(left[0], "negations"):
        negative = True
        left.pop(0)
    if not subject and not verb:
        return None
    answer = NO if negative else YES
    tail = _strip_phrases(left, "tail")
    if tail:
        brief = negative and bool(subject and verb) and len(tail) <= 2
        return answer if brief or _repeats(tail, question) else None
    return answer if verb else None


def _drop_leading(words: list[str], name: str) -> None:
    while words and _is_listed(words[0], name):
        words.pop(0)


def _repeats(words: Sequence[str], question: str) -> bool:
    """Whether all content words occur in the question, up to an ending."""
    asked = {_stem(word) for word in _words(question)}
    content = [_stem(word) for word in words if not _is_listed(word, "small")]
    return bool(content) and all(word in asked for word in content)


def _stem(word: str) -> str:
    for ending in ("ing", "ies", "es", "s"):
        if word.endswith(ending) and len(word) > len(ending) + 2:
            return word[: -len(ending)]
    return word.rstrip("e") if len(word) > 3 else word


def _strip_phrases(words: list[str], name: str = "fillers") -> list[str]:
    """Remove phrases of a list from the beginning."""
    while first := next(_matches(words, _english()[name]), None):
        words = words[len(first) :]
    return words


def _begins_with(words: Sequence[str], phrases: frozenset[Words]) -> bool:
    return next(_matches(words, phrases), None) is not None


def _matches(words: Sequence[str], phrases: frozenset[Words]) -> Iterator[Words]:
    """Phrases that the words begin with, the longest first."""
    for length in range(min(6, len(words)), 0, -1):
        if (first := tuple(words[:length])) in phrases:
            yield first
