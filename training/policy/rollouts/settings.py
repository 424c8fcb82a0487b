"""Settings of rollouts: forks, a server. No torch in here."""

from typing import Any

from pydantic import Field

from probes.strict import StrictModel


class BranchConfig(StrictModel):
    """Rollouts that fork where the policy was unsure.

    Of each group, `roots` completions are drawn in full. The others begin like one of those up to
    a token of high entropy, one for each root, and go on from there with a new budget of
    `max_tokens`. Only what is new in them is trained on, and the whole group has one baseline.

    Source: stage 1 of CURE (arXiv 2508.11016), bytedance/CURE at c904b38, which has 4 roots in a
    group of 16.
    """

    roots: int = Field(4, ge=1)
    """Completions of a group drawn in full."""
    top: int = Field(20, ge=1)
    """A fork is at one of this many tokens of highest entropy of its root."""


class ServedConfig(StrictModel):
    """Where rollouts come from, and under which controls."""

    url: str = "http://127.0.0.1:8000"
    """Address of the server."""
    controls: dict[str, Any] = Field(default_factory=dict)
    """The field `entropy` of every request: laws, profiles, steering. Importance weights correct
    for them."""
