"""Interleaves iterables."""

from collections.abc import Iterable, Iterator
from itertools import zip_longest
from typing import TypeVar

T = TypeVar("T")


def interleave(sources: Iterable[Iterable[T]]) -> Iterator[T]:
    """Yield one item of each source in turn, until all sources are exhausted."""
    return (item for row in zip_longest(*sources) for item in row if item is not None)
