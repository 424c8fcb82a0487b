"""Settings of the experimental objectives. Does not import torch."""

from typing import Literal

from pydantic import Field

from training.objectives.core.requirements import Claim, ObjectiveSettings, RequiredTensor


class InfoGainConfig(ObjectiveSettings):
    """Reward a question by its information gain: R + weight (H(before) - H(after))."""

    needs = frozenset({RequiredTensor.BELIEFS})
    decides = frozenset({Claim.REWARD})
    experimental = "the authors' weight and task space are unknown; the formula is our own"
    acts_on = ("groups",)

    type: Literal["info_gain"] = "info_gain"
    """Name of the objective."""
    weight: float = Field(1.0)
    """Reward per nat gained."""


class HicraConfig(ObjectiveSettings):
    """Raise the advantages of planning tokens: A + alpha |A|."""

    needs = frozenset({RequiredTensor.PLANNING})
    experimental = "form and alpha are from memory, not from the paper; no code was published"
    acts_on = ("groups",)

    type: Literal["hicra"] = "hicra"
    """Name of the objective."""
    alpha: float = Field(0.2, ge=0.0, lt=1.0)
    """Extra credit as a share of |A|."""


class AresConfig(ObjectiveSettings):
    """Reward effort on hard problems and brevity on easy ones."""

    checked = "shawn0728/ARES (the reward)"
    needs = frozenset({RequiredTensor.OLD_ENTROPY, RequiredTensor.CORRECT})
    decides = frozenset({Claim.REWARD})
    experimental = "counts all tokens instead of a word list; target and strength differ"
    acts_on = ("groups",)

    type: Literal["ares"] = "ares"
    """Name of the objective."""
    window: int = Field(4, ge=1)
    """Tokens per window of the count."""
    threshold_window: int = Field(8, ge=1)
    """Tokens per window of the threshold."""
    quantile: float = Field(0.98, gt=0.0, lt=1.0)
    """Quantile of the windows of an answer; the threshold follows the median over answers."""
    threshold_smoothing: float = Field(0.99, ge=0.0, lt=1.0)
    """Weight of the past in the threshold."""
    alpha: float = Field(0.5, ge=0.0, le=2.0)
    """Initial strength of every difficulty."""
    alpha_rate: float = Field(0.05, ge=0.0)
    """Change of the strength per window of distance from the target."""
    smoothing: float = Field(0.9, ge=0.0, lt=1.0)
    """Weight of the past in the target."""
