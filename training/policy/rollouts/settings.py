"""Settings of branched and served rollouts. Does not import torch."""

from typing import Any

from pydantic import Field

from probes.strict import StrictModel


class BranchConfig(StrictModel):
    """Rollouts that fork at tokens of high entropy.

    In each group, `roots` completions are drawn in full. Each other completion copies a root up to
    its fork point, a token of high entropy, and continues with a new budget of `max_tokens`. Only
    the new tokens are trained on, and the whole group has one baseline.

    Source: stage 1 of CURE (arXiv 2508.11016), bytedance/CURE at c904b38, which uses 4 roots in a
    group of 16.
    """

    roots: int = Field(4, ge=1)
    """Completions of a group drawn in full."""
    top: int = Field(20, ge=1)
    """Number of candidates of a fork point: the tokens of the root with the highest entropy."""


class ServedConfig(StrictModel):
    """Server that draws the rollouts, and its controls."""

    url: str = "http://127.0.0.1:8000"
    """Address of the server."""
    controls: dict[str, Any] = Field(default_factory=dict)
    """The field `entropy` of every request: laws, profiles, steering. Importance weights correct
    for it."""
