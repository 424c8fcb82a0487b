"""Lp-Reg: protect plausible low-probability tokens from being suppressed by training."""

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from training.objectives.configs import LpRegConfig
from training.objectives.core.batch import UNCLIPPED, LossPlan, MicroBatch
from training.objectives.core.distributed import smallest, token_count
from training.objectives.core.interface import Objective
from training.objectives.core.requirements import RequiredTensor

_MAX_GAP = 20.0
"""Nats; far above the clamp of k3. An infinite e^d would make its gradient NaN."""


def proxy_logprobs(
    logits: Float[Tensor, "*batch vocabulary"],
    token_ids: Int[Tensor, "*batch"],
    kappa: float,
    fixed: bool,
) -> Float[Tensor, "*batch"]:
    """Log-probability of each token under the distribution without its low-probability tail.

    Tokens with p >= kappa max(p) (or p >= kappa if `fixed`) are kept and renormalized.

    Args:
        logits: Shape (..., vocab).
        token_ids: Shape (...).
        kappa: Min-p threshold.
        fixed: Whether the threshold applies to p instead of p / max(p).

    Returns:
        Shape (...); -inf for a filtered token.
    """
    logprobs = torch.log_softmax(logits.float(), -1)
    scale = 0.0 if fixed else logprobs.amax(-1, keepdim=True)
    kept = logprobs.masked_fill(logprobs < scale + math.log(kappa), -torch.inf)
    chosen = kept.gather(-1, token_ids.unsqueeze(-1)).squeeze(-1)
    return chosen - kept.logsumexp(-1)


class LpReg(Objective[LpRegConfig]):
    """Protect plausible low-probability tokens of bad answers with a KL term.

    Of the tokens with A < 0, the k = floor(share * count) least likely ones are selected if k > 1.
    Of these, the tokens that are less likely than under the proxy are protected; filtered tokens
    never are. The proxy is the renormalized sampling policy, see `proxy_logprobs`. The loss of a
    protected token is L = -A r + beta k3 with k3 = clamp(e^d - d - 1, -10, 10) and
    d = proxy - logprob, without clipping. The selection is over the rollout batch of all processes,
    under the old policy if gradients are accumulated. With fewer than 2 / share tokens with A < 0,
    no token is protected.

    Source: Low-probability Regularization (arXiv 2510.03222), CarlanLark/Lp-Reg-dev at 33b27e2,
    which sets filtered logits to -1e4 instead of -inf. As published, the gradient of k3 is 0 above
    its clamp, at d of about 2.6 nats.
    """

    def measure(
        self, logits: Float[Tensor, "*batch vocabulary"], token_ids: Int[Tensor, "*batch"]
    ) -> Float[Tensor, "*batch"]:
        """Log-probabilities of the proxy."""
        return proxy_logprobs(logits, token_ids, self.config.kappa, self.config.fixed)

    def batch_statistics(
        self, tokens: MicroBatch, plan: LossPlan
    ) -> Bool[Tensor, "sequences tokens"]:
        """The least likely tokens with A < 0, (B, T) bool."""
        bad = tokens.mask & (plan.advantages < 0)
        count = int(self.config.share * token_count(bad, tokens.ranks))
        return smallest(tokens.logprobs, bad, count if count > 1 else 0, tokens.ranks)

    def on_tokens(self, tokens: MicroBatch, plan: LossPlan) -> LossPlan:
        """Set the clip range and add the k3 term to protected tokens."""
        config, logprobs = self.config, tokens.logprobs
        proxy = tokens.measured[RequiredTensor.PROXY_LOGPROBS]
        unlikely = self.statistics_of(tokens, plan)
        protected = unlikely & (logprobs.detach() < proxy)
        gap = torch.where(protected, proxy - logprobs, 0.0).clamp_max(_MAX_GAP)
        k3 = (gap.expm1() - gap).clamp(-10.0, 10.0)
        low = torch.where(protected, UNCLIPPED, config.epsilon_low)
        high = torch.where(protected, UNCLIPPED, config.epsilon_high)
        return (
            plan.with_clip_range(low, high)
            .with_terms(policy=config.beta * k3)
            .with_metrics(lp_reg_protected=token_count(protected, tokens.ranks))
        )
