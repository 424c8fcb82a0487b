"""The table of objectives, and what is refused before a run starts.

A new objective is one class with its config, one line in `OBJECTIVES`, one in `ObjectiveConfig`
and a test. Left out on purpose: rollouts that branch (they are not objectives), and import strings
or decorators.
"""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from training.objectives.arbitrary_entropy import Aepo, AepoConfig, Dcpo, DcpoConfig
from training.objectives.ares import Ares, AresConfig
from training.objectives.controller import Actuator
from training.objectives.covariance import ClipCov, ClipCovConfig, KlCov, KlCovConfig
from training.objectives.empg import Empg, EmpgConfig
from training.objectives.entropy_terms import (
    AdaptiveEntropy,
    AdaptiveEntropyConfig,
    EntropyBonus,
    EntropyBonusConfig,
    TargetEntropy,
    TargetEntropyConfig,
)
from training.objectives.epo import Epo, EpoConfig
from training.objectives.group import (
    Canon,
    CanonConfig,
    HardnessWeight,
    HardnessWeightConfig,
    SeedGrpo,
    SeedGrpoConfig,
)
from training.objectives.hapo import Hapo, HapoConfig
from training.objectives.hicra import Hicra, HicraConfig
from training.objectives.high_entropy import (
    EntropyAdvantage,
    EntropyAdvantageConfig,
    HighEntropyMask,
    HighEntropyMaskConfig,
)
from training.objectives.interface import Config, Objective, Slot
from training.objectives.lp_reg import LpReg, LpRegConfig
from training.objectives.rewards import Empo, EmpoConfig, InfoGain, InfoGainConfig, Pear, PearConfig
from training.objectives.siren import Siren, SirenConfig
from training.objectives.soft_clip import SoftClip, SoftClipConfig
from training.objectives.steer import Steer, SteerConfig


class PlainConfig(Config):
    """`none` has no settings."""

    type: Literal["none"] = "none"


class Plain(Objective[PlainConfig]):
    """Nothing: the trainer's own loss."""

    checked = "TRL"


OBJECTIVES: dict[str, type[Objective[Any]]] = {
    "none": Plain,
    "entropy_bonus": EntropyBonus,
    "adaptive_entropy": AdaptiveEntropy,
    "target_entropy": TargetEntropy,
    "high_entropy_mask": HighEntropyMask,
    "entropy_advantage": EntropyAdvantage,
    "hardness_weight": HardnessWeight,
    "clip_cov": ClipCov,
    "kl_cov": KlCov,
    "steer": Steer,
    "lp_reg": LpReg,
    "siren": Siren,
    "epo": Epo,
    "hapo": Hapo,
    "dcpo": Dcpo,
    "aepo": Aepo,
    "seed_grpo": SeedGrpo,
    "canon": Canon,
    "empg": Empg,
    "hicra": Hicra,
    "soft_clip_high_entropy": SoftClip,
    "empo": Empo,
    "pear": Pear,
    "ares": Ares,
    "info_gain": InfoGain,
}

ObjectiveConfig = Annotated[
    PlainConfig
    | EntropyBonusConfig
    | AdaptiveEntropyConfig
    | TargetEntropyConfig
    | HighEntropyMaskConfig
    | EntropyAdvantageConfig
    | HardnessWeightConfig
    | ClipCovConfig
    | KlCovConfig
    | SteerConfig
    | LpRegConfig
    | SirenConfig
    | EpoConfig
    | HapoConfig
    | DcpoConfig
    | AepoConfig
    | SeedGrpoConfig
    | CanonConfig
    | EmpgConfig
    | HicraConfig
    | SoftClipConfig
    | EmpoConfig
    | PearConfig
    | AresConfig
    | InfoGainConfig,
    Field(discriminator="type"),
]


def build_objective(config: ObjectiveConfig) -> Objective[Config]:
    """The objective that a config describes."""
    return OBJECTIVES[config.type](config)


def refuse_contradictions(configs: Sequence[ObjectiveConfig]) -> Sequence[ObjectiveConfig]:
    """Pass a list of objectives on that can act together.

    Raises:
        ValueError: `none` beside another, one twice, or two that decide the same thing.
    """
    names = [config.type for config in configs]
    if "none" in names and len(names) > 1:
        raise ValueError(f'"none" stands alone, but the objectives are {names}')
    if twice := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
        raise ValueError(f"listed twice: {', '.join(twice)}")
    taken: dict[Slot, str] = {}
    for config in configs:
        for slot in sorted(build_objective(config).claims()):
            if slot in taken:
                raise ValueError(
                    f'"{taken[slot]}" and "{config.type}" both decide {slot}; leave one out'
                )
            taken[slot] = config.type
    return configs


def refuse_actuator(configs: Sequence[ObjectiveConfig], actuator: Actuator) -> None:
    """Check that a controller has something to drive, and that nothing else drives it.

    Raises:
        ValueError: It has not, or something does.
    """
    objectives = {config.type: build_objective(config) for config in configs}
    if actuator in (Actuator.COEFFICIENT, Actuator.DCPO_ALPHA):
        if not any(objective.actuator is actuator for objective in objectives.values()):
            able = [name for name, kind in OBJECTIVES.items() if kind.actuator is actuator]
            raise ValueError(
                f'actuator "{actuator}" drives one of {able}, but the objectives are '
                f"{list(objectives)}"
            )
    elif actuator is Actuator.CLIP_HIGH:
        for name, objective in objectives.items():
            if Slot.CLIP in objective.claims():
                raise ValueError(f'actuator "clip_high" and "{name}" both decide {Slot.CLIP.value}')


def _named(value: object) -> object:
    """`"steer"` for `{"type": "steer"}`, wherever an objective is expected."""
    if isinstance(value, list | tuple):
        return tuple({"type": item} if isinstance(item, str) else item for item in value)
    return value


ObjectiveList = Annotated[
    tuple[ObjectiveConfig, ...],
    Field(min_length=1),
    AfterValidator(refuse_contradictions),
    BeforeValidator(_named),
]
"""Objectives of a run in the order in which they act, as names or as tables with a `type`."""
