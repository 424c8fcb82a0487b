"""Which objectives there are, and which can act together. No torch in here.

A new objective is one class with its settings, one line in `ObjectiveConfig`, one in
`registry.OBJECTIVES`, and a test.
"""

from collections.abc import Sequence
from typing import Annotated, get_args

from pydantic import AfterValidator, BeforeValidator, Field

from training.objectives.configs import (
    AdaptiveEntropyConfig,
    ClipCovConfig,
    EntropyAdvantageConfig,
    EntropyBonusConfig,
    EpoConfig,
    HapoConfig,
    HighEntropyMaskConfig,
    KlCovConfig,
    LpRegConfig,
    PlainConfig,
    SirenConfig,
    SoftClipConfig,
    SteerConfig,
    TargetEntropyConfig,
)
from training.objectives.controller import Actuator
from training.objectives.experimental.configs import AresConfig, HicraConfig, InfoGainConfig
from training.objectives.groups.configs import (
    AepoConfig,
    CanonConfig,
    DcpoConfig,
    EmpgConfig,
    EmpoConfig,
    HardnessWeightConfig,
    PearConfig,
    SeedGrpoConfig,
)
from training.objectives.requirements import Claim, ObjectiveSettings

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

SETTINGS: dict[str, type[ObjectiveSettings]] = {
    kind.model_fields["type"].default: kind for kind in get_args(get_args(ObjectiveConfig)[0])
}
"""Name to settings, in the order of the reference page."""


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
    taken: dict[Claim, str] = {}
    for config in configs:
        for decision in sorted(config.claims()):
            if decision in taken:
                raise ValueError(
                    f'"{taken[decision]}" and "{config.type}" both decide {decision}; leave one out'
                )
            taken[decision] = config.type
    return configs


def refuse_experimental(configs: Sequence[ObjectiveConfig]) -> None:
    """Refuse objectives that were never checked against their source.

    Raises:
        ValueError: One is; says what was not checked.
    """
    for config in configs:
        if config.experimental:
            raise ValueError(
                f'"{config.type}" is experimental ({config.experimental}): set experimental = true '
                "to use it"
            )


def refuse_actuator(configs: Sequence[ObjectiveConfig], actuator: Actuator) -> None:
    """Check that a controller has something to drive, and that nothing else drives it.

    Raises:
        ValueError: It has not, or something does.
    """
    if actuator in (Actuator.COEFFICIENT, Actuator.DCPO_ALPHA):
        if not any(config.actuator is actuator for config in configs):
            able = [name for name, kind in SETTINGS.items() if kind.actuator is actuator]
            raise ValueError(
                f'actuator "{actuator}" drives one of {able}, but the objectives are '
                f"{[config.type for config in configs]}"
            )
    elif actuator is Actuator.CLIP_HIGH:
        for config in configs:
            if Claim.CLIP in config.claims():
                raise ValueError(
                    f'actuator "clip_high" and "{config.type}" both decide {Claim.CLIP}'
                )


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
