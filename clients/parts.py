"""Figures over a part of an answer, such as the number at its end.

Needs `logprobs=True` and `controls(trace="tokens")` in the request: the log-probabilities carry the
text of every token, and so where it stands.
"""

import math
from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import NamedTuple

from openai.types.chat.chat_completion import Choice

from clients.reports import report


class PartFigures(NamedTuple):
    """What was measured at the tokens of a part."""

    entropy_mean: float | None
    """Nats; None where no entropy is a number."""
    varentropy_mean: float | None
    """Nats^2; None where no varentropy is a number."""
    logprob_mean: float
    """Of the tokens at temperature 1, nats."""
    logprob_sum: float
    """Log-probability of the part, given the text before it."""
    num_tokens: int


def part_figures(choice: Choice, start: int, end: int) -> PartFigures | None:
    """Figures over the tokens that have a character of `message.content[start:end]`.

    Args:
        choice: Of a response, not of a stream.
        start: First character.
        end: After the last one.

    Returns:
        None where the response has no log-probabilities or no trace of tokens, or where the tokens
        do not spell the content.
    """
    measured, logprobs = report(choice), choice.logprobs and choice.logprobs.content
    if measured is None or not measured.tokens or not logprobs:
        return None
    pieces = [token.token for token in logprobs]
    part = tokens_of(pieces, choice.message.content or "", start, end)
    if part is None or len(measured.tokens) < part.stop:
        return None
    tokens, found = measured.tokens[part], [token.logprob for token in logprobs[part]]
    return PartFigures(
        _mean(token.entropy for token in tokens),
        _mean(token.varentropy for token in tokens),
        math.fsum(found) / len(found),
        math.fsum(found),
        len(found),
    )


def _mean(values: Iterable[float | None]) -> float | None:
    """Mean of those that are numbers."""
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if known else None


def tokens_of(pieces: Sequence[str], text: str, start: int, end: int) -> slice | None:
    """The tokens that have a character of `text[start:end]`; None if there is none.

    Args:
        pieces: Text of every token of the answer, its thinking included.
        text: The answer, which the tokens end with but for the token that ends it.
        start: First character.
        end: After the last one.
    """
    before = "".join(pieces).rfind(text)
    if before < 0 or not 0 <= start < end <= len(text):
        return None
    ends = list(accumulate(map(len, pieces)))
    first = next(place for place, stop in enumerate(ends) if stop > before + start)
    last = next(place for place, stop in enumerate(ends) if stop >= before + end)
    return slice(first, last + 1)
