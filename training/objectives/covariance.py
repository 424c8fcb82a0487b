"""Treat tokens with a large covariance of log-probability and advantage differently.

The entropy of a softmax policy falls by about the learning rate times Cov(logprob, A) per step,
and a small share of the tokens contributes most of that covariance.

Source of `clip_cov` and `kl_cov`: The Entropy Mechanism of RL (arXiv 2505.22617), code in
PRIME-RL/Entropy-Mechanism-of-RL at 8850579.
"""

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from training.objectives.configs import ClipCovConfig, KlCovConfig, TeaRlConfig
from training.objectives.core.batch import UNCLIPPED, LossPlan, MicroBatch
from training.objectives.core.distributed import smallest, token_count, token_mean
from training.objectives.core.interface import Objective


def token_covariance(
    tokens: MicroBatch, advantages: Float[Tensor, "sequences tokens"]
) -> Float[Tensor, "sequences tokens"]:
    """Product of deviations (A - mean A) (logprob - mean logprob) per token, (B, T); no gradient.

    Means are over the batch of all processes; the published code uses the batch of one process.
    """
    logprobs = tokens.logprobs.detach()
    mean_advantage = token_mean(advantages, tokens.mask, tokens.ranks)
    mean_logprob = token_mean(logprobs, tokens.mask, tokens.ranks)
    return (advantages - mean_advantage) * (logprobs - mean_logprob)


class ClipCov(Objective[ClipCovConfig]):
    """Detach a random sample of the tokens with a large covariance.

    Candidates have covariance_min < cov < covariance_max and are not clipped already. The loss of
    max(floor(share * tokens), 1) candidates is removed; the divisor of the loss does not change.
    The published recipe widens the clip range to [0, 2] (epsilon 1.0 on both sides), without
    entropy bonus or KL. Statistics and the count are over the rollout batch of all processes
    (published: over the micro-batch of one process). In a small batch, one token is more than
    `share`, and often no token is a candidate: see the metrics.
    """

    def batch_statistics(
        self, tokens: MicroBatch, plan: LossPlan
    ) -> Shaped[Tensor, "sequences tokens"]:
        """1 at candidates, 2 at the candidates whose loss is removed, (B, T)."""
        config, ratio = self.config, tokens.ratio
        covariance = token_covariance(tokens, plan.advantages)
        clipped = (plan.advantages > 0) & (ratio > 1 + plan.epsilon_high)
        clipped |= (plan.advantages < 0) & (ratio < 1 - plan.epsilon_low)
        band = (covariance > config.covariance_min) & (covariance < config.covariance_max)
        candidates = band & ~clipped & tokens.mask
        count = max(int(config.share * token_count(tokens.mask, tokens.ranks)), 1)
        chosen = smallest(torch.rand_like(covariance), candidates, count, tokens.ranks)
        return candidates.long() + chosen.long()

    def on_tokens(self, tokens: MicroBatch, plan: LossPlan) -> LossPlan:
        """Set the weight of the chosen tokens to 0."""
        marks = self.statistics_of(tokens, plan)
        chosen = marks == 2
        num_tokens = token_count(tokens.mask, tokens.ranks)
        return plan.with_weight((~chosen).to(plan.weight)).with_metrics(
            clip_cov_candidates=token_count(marks > 0, tokens.ranks),
            clip_cov_share=token_count(chosen, tokens.ranks) / max(num_tokens, 1),
        )


class KlCov(Objective[KlCovConfig]):
    """Add a KL penalty on the tokens with the largest covariance, without clipping.

    L = -A r for all tokens, plus beta |logprob - old logprob| on the max(1, floor(share * tokens))
    tokens with the largest covariance. The penalty has value and gradient 0 at ratio 1, so each
    batch must be used for more than one optimizer step. Statistics are over the rollout batch of
    all processes (published: over the micro-batch of one process).
    """

    def batch_statistics(
        self, tokens: MicroBatch, plan: LossPlan
    ) -> Shaped[Tensor, "sequences tokens"]:
        """The tokens with the penalty, (B, T) bool."""
        covariance = token_covariance(tokens, plan.advantages)
        count = max(int(self.config.share * token_count(tokens.mask, tokens.ranks)), 1)
        return smallest(-covariance, tokens.mask, count, tokens.ranks)

    def on_tokens(self, tokens: MicroBatch, plan: LossPlan) -> LossPlan:
        """Disable clipping and add the penalty."""
        chosen = self.statistics_of(tokens, plan)
        num_tokens = token_count(tokens.mask, tokens.ranks)
        penalty = self.config.beta * (tokens.logprobs - tokens.old_logprobs).abs() * chosen
        return (
            plan.with_clip_range(UNCLIPPED, UNCLIPPED)
            .with_terms(policy=penalty)
            .with_metrics(kl_cov_share=token_count(chosen, tokens.ranks) / max(num_tokens, 1))
        )


class TeaRl(Objective[TeaRlConfig]):
    """Entropy bonus on the tokens of an answer whose covariance is largest (TEA-RL).

    L - entropy_coef mean(w H) with w = min(scale softmax(cov), weight_max), the softmax over the
    tokens of an answer. As in the public code, the gradient also flows through the log-probability
    in cov: it lowers the log-probability of tokens with more entropy than the answer's weighted
    mean if A is above the mean advantage. The means are over the rollout batch of all processes
    (published: over the micro-batch of one process), the mean of w H over the tokens of the
    optimizer step for every loss type.

    Weights of an answer sum to `scale`, so that long answers get little. A combination with another
    entropy bonus is refused.

    Source: Light-IF (arXiv 2508.03178), code in Qihoo360/Light-IF at 7068745, where the branch that
    calls it cannot be reached; its bonus has no coefficient.
    """

    def batch_statistics(self, tokens: MicroBatch, plan: LossPlan) -> Tensor:
        """Mean advantage and mean log-probability, (B, 2)."""
        means = [
            token_mean(values, tokens.mask, tokens.ranks)
            for values in (plan.advantages, tokens.logprobs.detach())
        ]
        return torch.stack(means).expand(len(tokens.mask), 2)

    def on_tokens(self, tokens: MicroBatch, plan: LossPlan) -> LossPlan:
        """Add -c w H."""
        config = self.config
        mean_advantage, mean_logprob = self.statistics_of(tokens, plan).unbind(1)
        deviation = tokens.logprobs - mean_logprob[:, None]
        covariance = (plan.advantages - mean_advantage[:, None]) * deviation
        lowest = torch.finfo(covariance.dtype).min
        shares = covariance.masked_fill(~tokens.mask, lowest).softmax(1)
        weight = (config.scale * shares).clamp_max(config.weight_max) * tokens.mask
        return plan.with_terms(mean=-config.entropy_coef * weight * tokens.entropy).with_metrics(
            tea_rl_weight=token_mean(weight.detach(), tokens.mask, tokens.ranks)
        )
