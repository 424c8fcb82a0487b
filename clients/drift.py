"""How far what a server sees is from the training data of its artifacts."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from clients.scrape import Scrape

_LEAST = 1e-4
"""Share of a bin in which nothing was seen: the logarithm needs one."""
_SEEN, _EXPECTED = "entrostat_drift_observations_total", "entrostat_drift_reference_share"


class Drift(NamedTuple):
    """Of one artifact."""

    artifact: str
    input: str
    """`entropy` of tokens, or `state` of prompts."""
    psi: float
    """Population stability index: below 0.1 stable, above 0.25 shifted."""
    seen: int
    """Tokens or prompts that were seen."""


def stability_index(counts: Sequence[float], shares: Sequence[float]) -> float:
    """Population stability index: sum of (observed - expected) ln(observed / expected).

    Args:
        counts: What was seen, by bin; at least one.
        shares: Expected shares of these bins, each above 0.
    """
    total = math.fsum(counts)
    observed = [max(count / total, _LEAST) for count in counts]
    pairs = zip(observed, shares, strict=True)
    return math.fsum((seen - expected) * math.log(seen / expected) for seen, expected in pairs)


def drifts(now: Scrape) -> list[Drift]:
    """Of every artifact that was used, since the server started."""
    found: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for labels, share in now.samples.get(_EXPECTED, ()):
        names = {key: labels[key] for key in ("artifact", "input")}
        seen = now.total(_SEEN, **names, bin=labels["bin"])
        found.setdefault((names["artifact"], names["input"]), []).append((seen, share))
    rows = {key: list(zip(*bins, strict=True)) for key, bins in found.items()}
    return [
        Drift(*key, stability_index(counts, shares), round(sum(counts)))
        for key, (counts, shares) in rows.items()
        if sum(counts)
    ]
