"""Hold back the few tokens whose log-probability and advantage move together the most.

The entropy of a softmax policy falls by about the learning rate times Cov(logprob, A) per step,
and a handful of tokens makes up most of that covariance.

Source of both: The Entropy Mechanism of RL (arXiv 2505.22617), code in
PRIME-RL/Entropy-Mechanism-of-RL at 8850579.
"""

from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from training.objectives.batch import UNCLIPPED, Need, Plan, Tokens
from training.objectives.distributed import smallest, token_count, token_mean
from training.objectives.interface import Config, Objective, Slot


def token_covariance(tokens: Tokens, advantages: Tensor) -> Tensor:
    """Product of deviations (A - mean A) (logprob - mean logprob) per token, (B, T); no gradient.

    Means are over the batch of all processes; the published code takes each process's own.
    """
    logprobs = tokens.logprobs.detach()
    mean_advantage = token_mean(advantages, tokens.mask, tokens.ranks)
    mean_logprob = token_mean(logprobs, tokens.mask, tokens.ranks)
    return (advantages - mean_advantage) * (logprobs - mean_logprob)


class ClipCovConfig(Config):
    """Settings of `clip_cov`."""

    type: Literal["clip_cov"] = "clip_cov"
    share: float = Field(2e-4, gt=0.0, le=1.0)
    """Share of all tokens that is held back, at least one token."""
    covariance_min: float = Field(1.0)
    """Only tokens with a covariance above this; units of advantage times nats."""
    covariance_max: float = Field(5.0)

    @model_validator(mode="after")
    def _check_band(self) -> Self:
        if self.covariance_min >= self.covariance_max:
            raise ValueError(
                f"covariance_min = {self.covariance_min} must be below covariance_max = "
                f"{self.covariance_max}"
            )
        return self


class ClipCov(Objective[ClipCovConfig]):
    """Detach a random few of the tokens with a large covariance.

    Candidates have covariance_min < cov < covariance_max and are not clipped already; of them
    max(floor(share * tokens), 1) lose their loss, while the number it is divided by stays. The
    published recipe opens the clip range to [0, 2] (epsilon 1.0 both ways), without entropy bonus
    or KL. Statistics and the count are over the rollout batch of all processes (published: over the
    micro-batch of one). In a small batch the floor of one token is more than `share`, and often no
    token is a candidate: see the metrics.
    """

    checked = "PRIME-RL/Entropy-Mechanism-of-RL"
    batch_needs = frozenset({Need.OLD_LOGPROBS})

    def batch_statistics(self, tokens: Tokens, plan: Plan) -> Tensor:
        """1 at candidates and 2 at those of them that lose their loss, (B, T)."""
        config, ratio = self.config, tokens.ratio
        covariance = token_covariance(tokens, plan.advantages)
        clipped = (plan.advantages > 0) & (ratio > 1 + plan.epsilon_high)
        clipped |= (plan.advantages < 0) & (ratio < 1 - plan.epsilon_low)
        band = (covariance > config.covariance_min) & (covariance < config.covariance_max)
        candidates = band & ~clipped & tokens.mask
        count = max(int(config.share * token_count(tokens.mask, tokens.ranks)), 1)
        chosen = smallest(torch.rand_like(covariance), candidates, count, tokens.ranks)
        return candidates.long() + chosen.long()

    def on_tokens(self, tokens: Tokens, plan: Plan) -> Plan:
        """Weigh the chosen tokens by 0."""
        marks = self.statistics_of(tokens, plan)
        chosen = marks == 2
        num_tokens = token_count(tokens.mask, tokens.ranks)
        return plan.weighted((~chosen).to(plan.weight)).noting(
            clip_cov_candidates=token_count(marks > 0, tokens.ranks),
            clip_cov_share=token_count(chosen, tokens.ranks) / max(num_tokens, 1),
        )


class KlCovConfig(Config):
    """Settings of `kl_cov`."""

    type: Literal["kl_cov"] = "kl_cov"
    share: float = Field(2e-3, gt=0.0, le=1.0)
    """Share of tokens that is tied, at least one. A fraction: the authors' `k_percent` of 0.2
    (7B; 0.02 for 32B) is 0.002 here, and verl's `kl_cov_ratio` is this number."""
    beta: float = Field(1.0, ge=0.0)
    """Loss per nat of log-ratio."""


class KlCov(Objective[KlCovConfig]):
    """Tie the tokens with the largest covariance to the old policy, and clip nothing.

    L = -A r everywhere; on the max(1, floor(share * tokens)) tokens with the largest covariance
    also beta |logprob - old logprob|. That term has neither value nor gradient at ratio 1, so each
    batch has to serve more than one optimiser step. Statistics are over the rollout batch of all
    processes (published: over the micro-batch of one).
    """

    checked = "PRIME-RL/Entropy-Mechanism-of-RL"
    slots = frozenset({Slot.CLIP})
    inert_on_policy = True
    batch_needs = frozenset({Need.OLD_LOGPROBS})

    def batch_statistics(self, tokens: Tokens, plan: Plan) -> Tensor:
        """The tokens that are tied, (B, T) bool."""
        covariance = token_covariance(tokens, plan.advantages)
        count = max(int(self.config.share * token_count(tokens.mask, tokens.ranks)), 1)
        return smallest(-covariance, tokens.mask, count, tokens.ranks)

    def on_tokens(self, tokens: Tokens, plan: Plan) -> Plan:
        """Open the clip range and add the penalty."""
        chosen = self.statistics_of(tokens, plan)
        num_tokens = token_count(tokens.mask, tokens.ranks)
        penalty = self.config.beta * (tokens.logprobs - tokens.old_logprobs).abs() * chosen
        return (
            plan.clipped(UNCLIPPED, UNCLIPPED)
            .plus(policy=penalty)
            .noting(kl_cov_share=token_count(chosen, tokens.ranks) / max(num_tokens, 1))
        )
