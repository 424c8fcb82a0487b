"""Emphasize tokens with high entropy: train on them only, or raise their advantages."""

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from training.objectives.configs import EntropyAdvantageConfig, HighEntropyMaskConfig
from training.objectives.core.batch import LossPlan, MicroBatch
from training.objectives.core.interface import Objective


class HighEntropyMask(Objective[HighEntropyMaskConfig]):
    """Train on the share of tokens with the highest entropy ("80/20").

    A token keeps its loss if H is at least the (1 - top_entropy_quantile) quantile over the rollout
    batch of all processes (TRL: over the micro-batch of all processes). The loss is divided by the
    number of all tokens, as in TRL; implementations that divide by the kept tokens have gradients
    1 / top_entropy_quantile times as large.

    Source: Beyond the 80/20 Rule (arXiv 2506.01939); `top_entropy_quantile` of TRL 1.16.
    """

    def batch_statistics(self, tokens: MicroBatch, plan: LossPlan) -> Float[Tensor, "sequences 1"]:
        """The entropy threshold, (B, 1); infinite without tokens."""
        entropy = _for_quantile(tokens.entropy)
        together = torch.cat(tokens.ranks.gather(entropy[tokens.mask]))
        threshold = torch.full((), torch.inf, dtype=entropy.dtype, device=entropy.device)
        if together.numel():
            threshold = torch.quantile(together, 1 - self.config.top_entropy_quantile)
        return threshold.expand(len(entropy), 1)

    def on_tokens(self, tokens: MicroBatch, plan: LossPlan) -> LossPlan:
        """Set the weight of tokens below the threshold to 0."""
        entropy, threshold = _for_quantile(tokens.entropy), self.statistics_of(tokens, plan)
        keep = (entropy >= threshold) & tokens.mask
        return plan.with_weight(keep.to(entropy)).with_metrics(entropy_threshold=threshold.max())


def _for_quantile(entropy: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
    """Detach and convert to a dtype that `torch.quantile` supports."""
    entropy = entropy.detach()
    return entropy if entropy.dtype == torch.float64 else entropy.float()


class EntropyAdvantage(Objective[EntropyAdvantageConfig]):
    """Raise advantages where the policy is uncertain: A + min(alpha H, |A| / kappa).

    H has no gradient here. Shape (B, T).

    Source: Reasoning with Exploration (arXiv 2506.14758), equation for the shaped advantage. The
    baseline of the same name in the SIREN code uses kappa = 1, which can cancel the penalty on
    uncertain tokens of bad answers; the default here is 2, as in the paper.
    """

    def on_tokens(self, tokens: MicroBatch, plan: LossPlan) -> LossPlan:
        """Add the bonus to the advantages."""
        room = plan.advantages.abs() / self.config.kappa
        bonus = torch.minimum(self.config.alpha * tokens.entropy.detach(), room)
        return replace(plan, advantages=plan.advantages + bonus)
