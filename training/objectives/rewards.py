"""Rewards made of entropies: agreement, brevity of thought, information gained.

A reward changes `Rollout.rewards`, after which the group's advantages are made anew.
"""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from training.objectives.batch import Need, Rollout
from training.objectives.group import cluster_shares
from training.objectives.interface import Config, Objective, Slot


class EmpoConfig(Config):
    """`empo` has no settings."""

    type: Literal["empo"] = "empo"


class Empo(Objective[EmpoConfig]):
    """Reward an answer by the share of its group that gives the same: no grader needed.

    R = n_cluster / G; 0 without an answer, and 0 for the whole group if no two answers agree. It
    minimises semantic entropy, so watch for collapse.

    Source: EMPO (arXiv 2504.05812), `trl/src/open_r1/rewards.py` at c5eccd4. There two empty
    answers can agree with each other, which also keeps a group without agreement alive; here they
    agree with nothing.
    """

    checked = "QingyangZhang/EMPO"
    needs = frozenset({Need.ANSWERS})
    slots = frozenset({Slot.REWARD})

    def shape_rewards(self, rollout: Rollout) -> Tensor:
        """Shares of answer clusters."""
        answers = rollout.per_group(rollout.measured[Need.ANSWERS])
        shares = cluster_shares(answers)
        agree = (shares * answers.shape[-1] > 1.5).any(-1, keepdim=True)
        return (shares * agree * (answers >= 0)).flatten().to(rollout.rewards)


class PearConfig(Config):
    """Settings of `pear`."""

    type: Literal["pear"] = "pear"
    alpha: float = Field(1.0, ge=0.0)
    """How much entropy of the answer phase the thinking phase may have for free."""


class Pear(Objective[PearConfig]):
    """Lower the reward by the excess entropy of the thinking phase: min(1, R - P).

    P = max(0, mean H over thinking - alpha mean H over the answer), with the old policy's
    entropies in nats. The end tag belongs to neither phase. A completion without the tag is all
    thinking, and a phase without tokens has entropy 0: not closing the thinking phase does not
    avoid the penalty.

    Source: Phase Entropy Aware Reward (PEAR, arXiv 2510.08026), the reward of the paper.
    """

    checked = "paper"
    needs = frozenset({Need.OLD_ENTROPY, Need.PHASES})
    slots = frozenset({Slot.REWARD})

    def shape_rewards(self, rollout: Rollout) -> Tensor:
        """Penalised rewards."""
        entropy, phases = rollout.measured[Need.OLD_ENTROPY], rollout.measured[Need.PHASES]

        def mean(phase: int) -> Tensor:
            over = rollout.mask & (phases == phase)
            return entropy.masked_fill(~over, 0.0).sum(-1) / over.sum(-1).clamp_min(1)

        excess = (mean(0) - self.config.alpha * mean(1)).clamp_min(0.0)
        return (rollout.rewards - excess.to(rollout.rewards)).clamp_max(1.0)


class InfoGainConfig(Config):
    """Settings of `info_gain`."""

    type: Literal["info_gain"] = "info_gain"
    weight: float = Field(1.0)
    """Reward per nat gained."""


class InfoGain(Objective[InfoGainConfig]):
    """Reward a question by what it teaches: R + weight (H(before) - H(after)).

    H of the belief over K hypotheses, nats.

    Source: Dialogue as Discovery (Nous, arXiv 2510.27410), the idea of its abstract.
    """

    needs = frozenset({Need.BELIEFS})
    slots = frozenset({Slot.REWARD})
    experimental = "the authors' weight and task space are not known; the formula is ours"

    def shape_rewards(self, rollout: Rollout) -> Tensor:
        """Rewards with the gain."""
        beliefs = rollout.measured[Need.BELIEFS].double()
        entropy: Tensor = torch.special.entr(beliefs).sum(-1)
        gain = (entropy[:, 0] - entropy[:, 1]).to(rollout.rewards)
        return rollout.rewards + self.config.weight * gain
