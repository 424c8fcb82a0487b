"""Inputs of the objectives, and the loss plan that they modify.

B: sequences of a micro-batch. N: sequences of a generation batch, groups contiguous. T: tokens of
the longest completion. G: generations per prompt. Entropies are in nats and belong to the sampling
distribution (logits divided by the rollout temperature). Masks are bool, True at tokens with a
loss.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple, Self

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from training.objectives.core.distributed import Ranks, SingleProcess
from training.objectives.core.requirements import RequiredTensor

UNCLIPPED = 1e6
"""A clip range wide enough for every importance ratio."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RolloutBatch:
    """A generation batch of all processes."""

    rewards: Float[Tensor, " sequences"]
    """(N,); NaN where no grader returned a score."""
    advantages: Float[Tensor, "sequences tokens"]
    """(N, T)."""
    mask: Bool[Tensor, "sequences tokens"]
    """(N, T) bool."""
    num_generations: int
    scale_rewards: Literal["group", "batch", "none"] = "group"
    """Which standard deviation divides the advantages when they are recomputed."""
    measured: Mapping[RequiredTensor, Tensor] = field(default_factory=dict)

    def per_group(
        self, values: Shaped[Tensor, " sequences *rest"]
    ) -> Shaped[Tensor, "groups generations *rest"]:
        """(N, ...) as (N / G, G, ...)."""
        return values.view(-1, self.num_generations, *values.shape[1:])

    def to_tokens(self, values: Shaped[Tensor, "..."]) -> Float[Tensor, "sequences tokens"]:
        """Repeat one value per sequence, (N,) or (N / G, G), for each of its tokens."""
        return values.flatten()[:, None].expand(self.mask.shape).to(self.advantages)


@dataclass(frozen=True, kw_only=True, slots=True)
class MicroBatch:
    """A micro-batch of this process; only `logprobs` and `entropy` have a gradient."""

    logprobs: Float[Tensor, "sequences tokens"]
    """(B, T)."""
    entropy: Float[Tensor, "sequences tokens"]
    """(B, T), nats."""
    old_logprobs: Float[Tensor, "sequences tokens"]
    """(B, T): under the sampling policy."""
    mask: Bool[Tensor, "sequences tokens"]
    """(B, T) bool."""
    measured: Mapping[RequiredTensor, Tensor] = field(default_factory=dict)
    statistics: Mapping[str, Shaped[Tensor, "sequences _"]] = field(default_factory=dict)
    """Per objective: its statistics of the whole rollout batch, one row per sequence."""
    ranks: Ranks = field(default_factory=SingleProcess)

    @property
    def ratio(self) -> Float[Tensor, "sequences tokens"]:
        """Importance ratios, (B, T), without gradient."""
        return (self.logprobs.detach() - self.old_logprobs).exp()

    def without_padding(self) -> Self:
        """Return a copy with zeros where the mask is False."""
        outside = ~self.mask
        return replace(
            self,
            logprobs=self.logprobs.masked_fill(outside, 0.0),
            entropy=self.entropy.masked_fill(outside, 0.0),
            old_logprobs=self.old_logprobs.masked_fill(outside, 0.0),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class LossPlan:
    """How the loss of one micro-batch is computed; every method returns a modified copy.

    The loss is that of the trainer, with `advantages * weight` and the two clip ranges, plus the
    terms. A weight >= 0 on the advantage equals a weight on the clipped loss, because
    w min(r A, clip(r) A) = min(r w A, clip(r) w A).
    """

    advantages: Float[Tensor, "sequences tokens"]
    """(B, T)."""
    weight: Float[Tensor, "sequences tokens"]
    """(B, T), >= 0."""
    epsilon_low: Float[Tensor, "sequences tokens"] | float
    """The ratio is clipped at 1 - epsilon_low; a number or (B, T)."""
    epsilon_high: Float[Tensor, "sequences tokens"] | float
    """The ratio is clipped at 1 + epsilon_high; a number or (B, T)."""
    policy_terms: Float[Tensor, "sequences tokens"] | None = None
    """(B, T): added to the loss of each token and normalized in the same way."""
    mean_terms: Float[Tensor, "sequences tokens"] | None = None
    """(B, T): averaged over all tokens of the optimizer step, for every loss type."""
    scalar: Float[Tensor, ""] | None = None
    """(): averaged over the micro-batches of the optimizer step and over processes."""
    metrics: Mapping[str, Tensor] = field(default_factory=dict)

    def with_weight(self, weight: Float[Tensor, "sequences tokens"]) -> Self:
        """Multiply the loss of each token by a weight >= 0."""
        return replace(self, weight=self.weight * weight)

    def with_clip_range(
        self,
        low: Float[Tensor, "sequences tokens"] | float,
        high: Float[Tensor, "sequences tokens"] | float,
    ) -> Self:
        """Set the clip range."""
        return replace(self, epsilon_low=low, epsilon_high=high)

    def with_terms(
        self,
        *,
        policy: Float[Tensor, "sequences tokens"] | None = None,
        mean: Float[Tensor, "sequences tokens"] | None = None,
        scalar: Float[Tensor, ""] | None = None,
    ) -> Self:
        """Add loss terms; see `policy_terms`, `mean_terms`, `scalar`."""
        return replace(
            self,
            policy_terms=_sum(self.policy_terms, policy),
            mean_terms=_sum(self.mean_terms, mean),
            scalar=_sum(self.scalar, scalar),
        )

    def with_metrics(self, **metrics: Tensor | float) -> Self:
        """Add metrics to the log."""
        new = {name: torch.as_tensor(value).detach() for name, value in metrics.items()}
        return replace(self, metrics={**self.metrics, **new})


def _sum(
    one: Float[Tensor, "*shape"] | None, other: Float[Tensor, "*shape"] | None
) -> Float[Tensor, "*shape"] | None:
    if one is None or other is None:
        return one if other is None else other
    return one + other


class StepStatistics(NamedTuple):
    """Statistics of one optimizer step, over all its micro-batches and processes.

    All means are NaN if no token had a loss.
    """

    num_tokens: int
    entropy: float
    """Mean over tokens, nats."""
    surprisal: float
    """Mean of -logprob of the sampled tokens, nats; an estimate of the entropy."""
    covariance: float
    """Cov(logprob, advantage) over tokens: the entropy falls by about learning rate times this."""
    predicted_change: float
    """Mean of STEER's Omega over tokens; positive predicts a falling entropy."""
