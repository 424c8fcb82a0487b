"""Whether the numbers that a server sees are distributed as those an artifact was made from.

A manifest keeps ten bins of about equal counts, the deciles of the training data. A server counts
what it sees in the same bins. The population stability index of the two is the sum over the bins of
(observed - expected) ln(observed / expected), of shares. In credit scoring, where it comes from,
below 0.1 counts as stable and above 0.25 as shifted.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple, Self

import numpy as np
from numpy.typing import ArrayLike
from pydantic import BaseModel, ConfigDict, Field, model_validator

NUM_BINS = 10
_MAX_BINS = 20
"""Of a foreign artifact: each is a time series."""

DriftInput = Literal["entropy", "state"]
"""Entropies of tokens, in nats; or distances of hidden states at the end of the prompt."""


class ReferenceHistogram(BaseModel):
    """Bins of the training data of an artifact, and how many values are in each."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    edges: tuple[float, ...] = Field(max_length=_MAX_BINS - 1)
    """Limits between the bins, rising; a value at a limit is in the bin above."""
    counts: tuple[int, ...] = Field(max_length=_MAX_BINS)
    """Number of training values in each bin, at least 1."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if len(self.counts) != len(self.edges) + 1 or min(self.counts) < 1:
            raise ValueError("a histogram needs one bin more than edges, and no empty bin")
        if any(low >= high for low, high in zip(self.edges, self.edges[1:], strict=False)):
            raise ValueError("the edges of a histogram must rise")
        return self

    @classmethod
    def of(cls, values: ArrayLike) -> Self:
        """The histogram of some values; equal deciles are one, so there may be fewer bins.

        Raises:
            ValueError: None of the values is finite.
        """
        found = np.asarray(values, dtype=np.float64).ravel()
        found = found[np.isfinite(found)]
        if not found.size:
            raise ValueError("a histogram needs a finite value")
        steps = np.arange(1, NUM_BINS) / NUM_BINS
        edges = np.unique(np.quantile(found, steps, method="lower"))
        edges = edges[edges > found.min()]
        counts = np.bincount(np.searchsorted(edges, found, "right"), minlength=len(edges) + 1)
        return cls(edges=tuple(edges.tolist()), counts=tuple(counts.tolist()))

    def count(self, values: Sequence[float]) -> list[int]:
        """How many of these values are in each bin; what is not finite is in none."""
        found = np.asarray(values, dtype=np.float64)
        bins = np.searchsorted(self.edges, found[np.isfinite(found)], "right")
        counted: list[int] = np.bincount(bins, minlength=len(self.counts)).tolist()
        return counted

    @property
    def shares(self) -> list[float]:
        """Share of the training values in each bin."""
        total = sum(self.counts)
        return [count / total for count in self.counts]


class MonitoredInput(NamedTuple):
    """What of a request is compared with the training data of an artifact."""

    artifact: str
    """Its id."""
    input: DriftInput
    reference: ReferenceHistogram
