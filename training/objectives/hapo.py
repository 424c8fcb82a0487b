"""HAPO: advantages, redistribution and clip range that depend on each token's entropy."""

from collections.abc import Mapping
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from probes.hapo_statistics import fit_hapo
from probes.law_functions import hapo
from probes.laws import HapoStatistics
from training.objectives.configs import HapoConfig
from training.objectives.core.batch import LossPlan, MicroBatch, RolloutBatch, StepStatistics
from training.objectives.core.distributed import Ranks
from training.objectives.core.interface import Objective

_MAX_ENTROPIES = 2**22
"""Most tokens of all processes that the statistics are fitted to; larger steps are subsampled."""
_MAX_ADVANTAGE = 5.0


def standardized_entropy(
    entropy: Float[Tensor, "*batch"], statistics: HapoStatistics
) -> Float[Tensor, "*batch"]:
    """HAPO's h in [-1, 1] per token, any shape."""
    row = (*statistics, 1.0)  # tau = 1
    flat = entropy.detach().flatten()
    parameters = torch.tensor(row).to(flat).expand(len(flat), -1)
    return (hapo(flat, torch.ones_like(flat), parameters) - 1).view_as(entropy)


def token_group_advantages(rollout: RolloutBatch) -> Float[Tensor, "sequences tokens"]:
    """Advantages normalized over the tokens of each group, (N, T).

    A = (R - mean) / (std + 1e-6), where each sequence is weighted by its number of tokens. Groups
    with any |A| >= 5 keep their advantages.
    """
    lengths = rollout.per_group(rollout.mask.sum(-1)).double()
    rewards = rollout.per_group(rollout.rewards).double()
    scored = rewards.isfinite()
    lengths, rewards = lengths * scored, rewards.where(scored, 0.0)
    total = lengths.sum(-1, keepdim=True).clamp_min(1.0)
    centered = rewards - (lengths * rewards).sum(-1, keepdim=True) / total
    std = ((lengths * centered.square()).sum(-1, keepdim=True) / total).sqrt()
    advantages = (centered / (std + 1e-6)).where(scored, 0.0)
    extreme = (advantages.abs() * (lengths > 0)).amax(-1, keepdim=True) >= _MAX_ADVANTAGE
    keep = rollout.to_tokens(extreme.expand_as(advantages)).bool()
    return torch.where(keep, rollout.advantages, rollout.to_tokens(advantages))


class HapoObjective(Objective[HapoConfig]):
    """Three of the four components of HAPO, each of which can be disabled.

    h in [-1, 1] is the scaled log-entropy of `probes.hapo_statistics.fit_hapo`.

    - Token-level group average: `token_group_advantages`.
    - Redistribution: with "neutral" 1 - lo/2 < r < 1 + hi/2, A becomes A (1 + beta h) where h > 0
      and r is not neutral, and where h <= 0 and r is neutral; other tokens do not change.
    - Asymmetric clip: lo = epsilon_low (1 - alpha h) where h <= 0, hi = epsilon_high (1 + alpha h)
      where h > 0.

    Source: HAPO (arXiv 2509.16591), starriver030515/HAPO at 7671dde. That code fits the statistics
    to the entropies of the current batch with one more scoring pass, and multiplies negative h by a
    negative scale, so low-entropy tokens count as high. Here the statistics are those of the
    previous optimizer step (the temperature law of the rollout uses the same), the entropy is that
    of the training forward, and the first step has neither redistribution nor asymmetric clip.
    """

    def __init__(self, config: HapoConfig) -> None:
        super().__init__(config)
        self.statistics: HapoStatistics | None = None
        self._entropies: list[Tensor] = []

    def shape_advantages(self, rollout: RolloutBatch) -> Float[Tensor, "sequences tokens"]:
        """Token-level group average."""
        if not self.config.token_average:
            return rollout.advantages
        return token_group_advantages(rollout)

    def on_tokens(self, tokens: MicroBatch, plan: LossPlan) -> LossPlan:
        """Asymmetric clip and redistribution."""
        config = self.config
        self._entropies.append(tokens.entropy.detach()[tokens.mask])
        if self.statistics is None:
            return plan
        h = standardized_entropy(tokens.entropy, self.statistics)
        low, high = (
            torch.as_tensor(limit, dtype=h.dtype, device=h.device).expand_as(h)
            for limit in (plan.epsilon_low, plan.epsilon_high)
        )
        if config.asymmetric_clip:
            low = low * (1 - config.alpha * h.clamp_max(0.0))
            high = high * (1 + config.alpha * h.clamp_min(0.0))
            plan = plan.with_clip_range(low, high)
        if config.redistribution:
            ratio = tokens.ratio
            neutral = (ratio > 1 - low / 2) & (ratio < 1 + high / 2)
            scale = torch.where((h > 0) != neutral, 1 + config.beta * h, 1.0)
            plan = replace(plan, advantages=plan.advantages * scale)
        return plan

    def on_step_end(self, step: StepStatistics, ranks: Ranks) -> None:
        """Fit the statistics of the next step."""
        own = torch.cat(self._entropies)
        self._entropies = []
        stride = max(1, step.num_tokens // _MAX_ENTROPIES)
        entropies = torch.cat(ranks.gather(own[::stride])).clamp_min(0.0)
        if len(entropies) >= 2:
            self.statistics = fit_hapo(entropies, self.config.quantile)

    def state_dict(self) -> dict[str, float | None]:
        """The statistics; empty before the first step."""
        return {} if self.statistics is None else {**self.statistics._asdict()}

    def load_state_dict(self, state: Mapping[str, float | None]) -> None:
        """Load what `state_dict` returned.

        Raises:
            ValueError: The keys are not those of this objective's state.
        """
        if not state:
            self.statistics = None
        elif set(state) == set(HapoStatistics._fields):
            self.statistics = HapoStatistics(**{k: float(v or 0.0) for k, v in state.items()})
        else:
            raise ValueError(
                f"expected the state {[*HapoStatistics._fields]} for HapoObjective, found "
                f"{[*state]}"
            )
