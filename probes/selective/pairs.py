"""Groups answers by what a model says of pairs of them."""

import math
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

from probes.selective.scores import Cluster

Compare = Callable[[Sequence[tuple[str, str]]], Awaitable[list[bool]]]
"""Says of each pair of answers whether both say the same."""
REPLIES = ("Yes", "No")
"""What the model may say of a pair; the first token of each is read."""
_MAX_TEXT = 2000
"""Characters of an answer that the model is shown."""
_ASKED = {
    "judge": "Do both answers say the same? Reply with Yes or No only.",
    "entailment": "If the first answer is right, does the second one follow from it? "
    "Reply with Yes or No only.",
}
_KNOWN = 0.2
"""Probability above which a reply counts as yes or no at all."""


def pair_question(how: Cluster, first: str, second: str) -> str:
    """What a model is asked about two answers, after the conversation that they answer.

    Args:
        how: `judge` or `entailment`.
        first: One answer.
        second: The other one.
    """
    shown = (text.strip()[:_MAX_TEXT] for text in (first, second))
    return "First answer: {}\n\nSecond answer: {}\n\n".format(*shown) + _ASKED[how]


class DirectedAnswer(NamedTuple):
    """Probabilities of the replies yes and no to a question about two answers in one order."""

    yes: float
    no: float

    @property
    def share(self) -> float:
        """Probability of yes among the two; 0 if the reply is probably neither, or not a number."""
        return self.yes / (self.yes + self.no) if max(self) > _KNOWN else 0.0


def is_same(how: Cluster, forward: DirectedAnswer, backward: DirectedAnswer) -> bool:
    """Whether two answers say the same, by what a model says of both orders.

    `entailment` wants a yes in each order, `judge` in the mean of both. A reply that is neither yes
    nor no counts as no.
    """
    shares = (forward.share, backward.share)
    return (min(shares) if how == "entailment" else math.fsum(shares) / 2) >= 0.5


def agree(forward: DirectedAnswer, backward: DirectedAnswer) -> bool:
    """Whether the model says the same of two answers in both orders."""
    return (forward.share >= 0.5) == (backward.share >= 0.5)


def normalized(text: str) -> str:
    """A text in lower case with single spaces."""
    return " ".join(text.split()).casefold()


async def group_texts(texts: Sequence[str], compare: Compare) -> list[int]:
    """Put each answer into the first group whose first answer says the same.

    Answers in the same words are not compared, and an answer without words is a group of its own.

    Args:
        texts: The answers.
        compare: Gets all pairs with the first answer of one group at a time.

    Returns:
        Number of the group of each answer.
    """
    places: dict[str, list[int]] = {}
    for place, text in enumerate(texts):
        places.setdefault(normalized(text), []).append(place)
    groups = [[place] for place in places.pop("", [])]
    left = list(places.values())
    while left:
        first, *others = left
        pairs = [(texts[first[0]], texts[other[0]]) for other in others]
        same = await compare(pairs) if pairs else []
        joined = [other for other, one in zip(others, same, strict=True) if one]
        groups.append([place for one in (first, *joined) for place in one])
        left = [other for other, one in zip(others, same, strict=True) if not one]
    number = {place: one for one, members in enumerate(groups) for place in members}
    return [number[place] for place in range(len(texts))]
