"""Settings of the objectives that act on whole groups of completions. Does not import torch."""

from typing import Literal

from pydantic import Field

from training.objectives.core.controller import Actuator
from training.objectives.core.requirements import Claim, ObjectiveSettings, RequiredTensor


class HardnessWeightConfig(ObjectiveSettings):
    """Weight a prompt by its difficulty: A = (R - mu) (1.256 - 0.256 mu)."""

    checked = "paper (Confucius3-Math, equations 2 and 3)"
    needs = frozenset({RequiredTensor.CORRECT})
    decides = frozenset({Claim.BASELINE, Claim.REWARD})
    acts_on = ("groups",)

    type: Literal["hardness_weight"] = "hardness_weight"
    """Name of the objective."""


class SeedGrpoConfig(ObjectiveSettings):
    """Scale the advantages of a prompt down by the semantic entropy of its answers."""

    checked = "paper (section 4.1, table 4)"
    needs = frozenset({RequiredTensor.ANSWERS})
    acts_on = ("groups",)

    type: Literal["seed_grpo"] = "seed_grpo"
    """Name of the objective."""
    alpha: float = Field(0.02, ge=0.0, le=1.0)
    """Share of the advantage that is removed if all answers to the prompt differ."""


class CanonConfig(ObjectiveSettings):
    """Compare answers with high entropy against answers with low entropy."""

    checked = "biuboomc/CANON"
    needs = frozenset({RequiredTensor.OLD_ENTROPY})
    decides = frozenset({Claim.BASELINE})
    acts_on = ("groups",)

    type: Literal["canon"] = "canon"
    """Name of the objective."""
    mu: float = Field(1.0, ge=0.0, le=1.0)
    """Weight of the comparison across the halves; the rest is within each half."""
    alpha: float = Field(1.0, ge=0.0)
    """Values below 1 favor the high-entropy half, values above 1 the low-entropy half."""


class TwoTemperatureSettings(ObjectiveSettings):
    """Settings that `dcpo` and `aepo` share."""

    decides = frozenset({Claim.SAMPLES})

    entropy_target: float = Field(0.75, gt=0.0)
    """Nats; compared with the surprisal of sampled tokens."""
    temperature_high: float = Field(1.2, gt=1.0)
    """Temperature while the entropy is at or below the target."""
    temperature_low: float = Field(0.8, gt=0.0, lt=1.0)
    """Temperature while the entropy is above the target."""


class DcpoConfig(TwoTemperatureSettings):
    """Mix into the advantage the REINFORCE term of samples at another temperature."""

    checked = "597358816/AEPO"
    needs = frozenset(
        {RequiredTensor.OLD_LOGPROBS, RequiredTensor.RESCORED_LOGPROBS, RequiredTensor.CORRECT}
    )
    actuator = Actuator.DCPO_ALPHA
    acts_on = ("groups",)

    type: Literal["dcpo"] = "dcpo"
    """Name of the objective."""
    distance_max: float = Field(0.1, gt=0.0)
    """Nats; larger distances to the target are clipped to this value."""


class AepoConfig(TwoTemperatureSettings):
    """Replace part of a batch with rewarded samples drawn at another temperature."""

    checked = "597358816/AEPO (selection and temperature)"
    acts_on = ()

    type: Literal["aepo"] = "aepo"
    """Name of the objective."""
    share_prompts: float = Field(0.25, gt=0.0, le=1.0)
    """Share of the prompts that get extra rollouts; the first ones are used."""
    num_replaced: int = Field(60, ge=1)
    """Largest number of replaced sequences; halved while the entropy is above the target."""
    share_replaced: float = Field(0.5, gt=0.0, le=1.0)
    """Largest share of a batch that is replaced. The authors have no such limit; their batches of
    2,560 sequences would not reach it."""
    advantage_min: float = Field(0.05, ge=0.0)
    """Extra samples with a group advantage above this are kept."""


class EmpgConfig(ObjectiveSettings):
    """Scale the advantages of each step by its entropy and add a bonus for a clear next step."""

    checked = "paper (listing), on given steps"
    needs = frozenset({RequiredTensor.OLD_ENTROPY, RequiredTensor.STEPS})
    acts_on = ("groups",)

    type: Literal["empg"] = "empg"
    """Name of the objective."""
    sharpness: float = Field(1.0, ge=0.0)
    """k: how strongly confident steps are weighted above uncertain ones."""
    clarity_sharpness: float = Field(1.0, ge=0.0)
    """k': the same for the bonus of the next step."""
    clarity: float = Field(0.1, ge=0.0)
    """zeta: bonus for a step whose next step is certain, in units of advantage."""


class EmpoConfig(ObjectiveSettings):
    """Reward an answer by the share of its group with the same answer; needs no grader."""

    checked = "QingyangZhang/EMPO"
    needs = frozenset({RequiredTensor.ANSWERS})
    decides = frozenset({Claim.REWARD})
    acts_on = ("groups",)

    type: Literal["empo"] = "empo"
    """Name of the objective."""


class PearConfig(ObjectiveSettings):
    """Lower the reward by the excess entropy of the thinking phase: min(1, R - P)."""

    checked = "paper"
    needs = frozenset({RequiredTensor.OLD_ENTROPY, RequiredTensor.PHASES})
    decides = frozenset({Claim.REWARD})
    acts_on = ("groups",)

    type: Literal["pear"] = "pear"
    """Name of the objective."""
    alpha: float = Field(1.0, ge=0.0)
    """Entropy of the thinking phase without penalty, as a multiple of the answer phase's."""
