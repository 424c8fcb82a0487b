"""Settings of the objectives that act on whole groups of completions. No torch in here."""

from typing import Literal

from pydantic import Field

from training.objectives.controller import Actuator
from training.objectives.requirements import Claim, ObjectiveSettings, RequiredTensor


class HardnessWeightConfig(ObjectiveSettings):
    """Weigh a prompt by how hard it is: A = (R - mu) (1.256 - 0.256 mu)."""

    checked = "paper (Confucius3-Math, equations 2 and 3)"
    needs = frozenset({RequiredTensor.CORRECT})
    decides = frozenset({Claim.BASELINE, Claim.REWARD})
    acts_on = ("groups",)

    type: Literal["hardness_weight"] = "hardness_weight"
    """Name of the objective."""


class SeedGrpoConfig(ObjectiveSettings):
    """Scale a prompt's advantages down by the semantic entropy of its answers."""

    checked = "paper (section 4.1, table 4)"
    needs = frozenset({RequiredTensor.ANSWERS})
    acts_on = ("groups",)

    type: Literal["seed_grpo"] = "seed_grpo"
    """Name of the objective."""
    alpha: float = Field(0.02, ge=0.0, le=1.0)
    """How much of its advantage a prompt loses whose answers all differ."""


class CanonConfig(ObjectiveSettings):
    """Compare answers of high entropy with those of low entropy."""

    checked = "biuboomc/CANON"
    needs = frozenset({RequiredTensor.OLD_ENTROPY})
    decides = frozenset({Claim.BASELINE})
    acts_on = ("groups",)

    type: Literal["canon"] = "canon"
    """Name of the objective."""
    mu: float = Field(1.0, ge=0.0, le=1.0)
    """Share of the comparison across the halves; the rest compares within."""
    alpha: float = Field(1.0, ge=0.0)
    """Below 1 favours the half of high entropy, above 1 the other."""


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
    """Mix into the advantage what REINFORCE on hotter or colder samples would add."""

    checked = "597358816/AEPO"
    needs = frozenset(
        {RequiredTensor.OLD_LOGPROBS, RequiredTensor.RESCORED_LOGPROBS, RequiredTensor.CORRECT}
    )
    actuator = Actuator.DCPO_ALPHA
    acts_on = ("groups",)

    type: Literal["dcpo"] = "dcpo"
    """Name of the objective."""
    distance_max: float = Field(0.1, gt=0.0)
    """Nats; a distance to the target above this counts as this."""


class AepoConfig(TwoTemperatureSettings):
    """Replace part of a batch by rewarded samples drawn hotter or colder."""

    checked = "597358816/AEPO (selection and temperature)"
    acts_on = ()

    type: Literal["aepo"] = "aepo"
    """Name of the objective."""
    share_prompts: float = Field(0.25, gt=0.0, le=1.0)
    """Share of the prompts, the first ones, that get extra rollouts."""
    num_replaced: int = Field(60, ge=1)
    """At most so many sequences are replaced; half of it while the entropy is too high."""
    share_replaced: float = Field(0.5, gt=0.0, le=1.0)
    """And at most this share of a batch, which the authors' 2,560 sequences never reach."""
    advantage_min: float = Field(0.05, ge=0.0)
    """Extra samples with a group advantage above this are kept."""


class EmpgConfig(ObjectiveSettings):
    """Modulate advantages step by step with the entropy of the step and of the next."""

    checked = "paper (listing), on given steps"
    needs = frozenset({RequiredTensor.OLD_ENTROPY, RequiredTensor.STEPS})
    acts_on = ("groups",)

    type: Literal["empg"] = "empg"
    """Name of the objective."""
    sharpness: float = Field(1.0, ge=0.0)
    """k: how much more a confident step weighs than an uncertain one."""
    clarity_sharpness: float = Field(1.0, ge=0.0)
    """k': the same for the bonus."""
    clarity: float = Field(0.1, ge=0.0)
    """zeta: bonus for a step that makes the next one clear, in units of advantage."""


class EmpoConfig(ObjectiveSettings):
    """Reward an answer by the share of its group that gives the same: no grader needed."""

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
    """How much entropy of the answer phase the thinking phase may have for free."""
