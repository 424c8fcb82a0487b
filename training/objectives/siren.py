"""SIREN: hold the nucleus entropy of peak tokens at its initial value."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from probes.entropy import entropy_from_logits
from training.objectives.configs import SirenConfig
from training.objectives.core.batch import LossPlan, MicroBatch, StepStatistics
from training.objectives.core.distributed import Ranks
from training.objectives.core.interface import Objective
from training.objectives.core.requirements import RequiredTensor


def nucleus_entropy(
    logits: Float[Tensor, "*batch vocabulary"], top_p: float, top_k: int
) -> Float[Tensor, "*batch"]:
    """Entropy of the most likely tokens whose cumulative probability stays below `top_p`.

    The token that crosses `top_p` is excluded, but one token is always kept: a row whose first
    token has a probability above `top_p` has entropy 0.

    Args:
        logits: Shape (..., vocab).
        top_p: Probability of the nucleus.
        top_k: Largest number of tokens; values above the vocabulary size keep all tokens.

    Returns:
        Nats, shape (...), with gradient.
    """
    top = logits.topk(min(top_k, logits.shape[-1]), -1).values
    with torch.no_grad():
        probabilities = (top.float() - logits.float().logsumexp(-1, keepdim=True)).exp()
        outside = probabilities.cumsum(-1) >= top_p
        outside[..., 0] = False
    return entropy_from_logits(top.masked_fill(outside, -torch.inf))


class Siren(Objective[SirenConfig]):
    """Hold the nucleus entropy of peak tokens at its initial value: L + c (H_sel - H_0)^2.

    H_sel is the mean over sequences of the mean over peak tokens, whose nucleus entropy is above
    the `peak_quantile` of their sequence; sequences without peak tokens are excluded. H_0 is the
    mean H_sel of the first optimizer step, which has no term. Means are over all processes. The
    square of a mean is not the mean of squares, so the term depends on the number of accumulated
    micro-batches.

    Source: SIREN (arXiv 2509.25133), Linn3a/siren at fa59a8d, which requires a vocabulary of at
    least 10,000 tokens and can select padding.
    """

    state = ("anchor",)

    def __init__(self, config: SirenConfig) -> None:
        super().__init__(config)
        self.anchor: float | None = None
        self._first: list[float] = []

    def measure(
        self, logits: Float[Tensor, "*batch vocabulary"], token_ids: Int[Tensor, "*batch"]
    ) -> Float[Tensor, "*batch"]:
        """Nucleus entropy of each token."""
        return nucleus_entropy(logits, self.config.top_p, self.config.top_k)

    def on_tokens(self, tokens: MicroBatch, plan: LossPlan) -> LossPlan:
        """Add the squared distance to the anchor."""
        entropy = tokens.measured[RequiredTensor.NUCLEUS_ENTROPY].masked_fill(~tokens.mask, 0.0)
        selected = self._peak_mean(entropy, tokens.mask, tokens.ranks)
        if selected is None:
            return plan
        plan = plan.with_metrics(siren_entropy=selected)
        if self.anchor is None:
            self._first.append(float(selected.detach()))
            return plan
        return plan.with_terms(scalar=self.config.entropy_coef * (selected - self.anchor).square())

    def _peak_mean(
        self,
        entropy: Float[Tensor, "sequences tokens"],
        mask: Bool[Tensor, "sequences tokens"],
        ranks: Ranks,
    ) -> Float[Tensor, ""] | None:
        """H_sel over all processes, with the gradient of this process; None without peaks."""
        observed = entropy.detach().masked_fill(~mask, torch.nan)
        threshold = observed.nanquantile(self.config.peak_quantile, -1, keepdim=True)
        peaks = observed > threshold
        counts = peaks.sum(-1)
        per_sequence = (entropy * peaks).sum(-1) / counts.clamp_min(1)
        local = per_sequence.sum()
        num_sequences = (counts > 0).sum().to(local)
        total, number = ranks.sum(torch.stack([local.detach(), num_sequences])).unbind()
        if number == 0:
            return None
        # The trainer averages gradients over processes; the factor cancels that.
        return (total + (local - local.detach()) * ranks.size) / number

    def on_step_end(self, step: StepStatistics, ranks: Ranks) -> None:
        """Set the anchor to the H_sel of the first step."""
        if self.anchor is None and self._first:
            self.anchor = sum(self._first) / len(self._first)
            self._first = []
