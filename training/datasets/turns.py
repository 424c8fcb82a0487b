"""Taking turns."""

from collections.abc import Iterable, Iterator
from itertools import zip_longest
from typing import TypeVar

T = TypeVar("T")


def in_turn(sources: Iterable[Iterable[T]]) -> Iterator[T]:
    """One of each source, again and again; a source that has fewer ends earlier."""
    return (item for row in zip_longest(*sources) for item in row if item is not None)
