"""The list of objectives, and which of them can be combined. Does not import torch.

To add an objective, write a settings class and an objective class, add one line to
`ObjectiveConfig` and one to `registry.OBJECTIVES`, and add a test.
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
    TeaRlConfig,
)
from training.objectives.core.controller import Actuator
from training.objectives.core.requirements import Claim, ObjectiveSettings
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
    | TeaRlConfig
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
"""Maps names to settings, in the order of the reference page."""


def refuse_contradictions(configs: Sequence[ObjectiveConfig]) -> Sequence[ObjectiveConfig]:
    """Return the list if its objectives can be combined.

    Raises:
        ValueError: The list has `none` and another objective, a duplicate, or two objectives that
            claim the same setting.
    """
    names = [config.type for config in configs]
    if "none" in names and len(names) > 1:
        raise ValueError(f'"none" cannot be combined with other objectives, but got {names}')
    if twice := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
        raise ValueError(f"duplicate objectives: {', '.join(twice)}")
    taken: dict[Claim, str] = {}
    for config in configs:
        for decision in sorted(config.claims()):
            if decision in taken:
                raise ValueError(
                    f'"{taken[decision]}" and "{config.type}" both set {decision}: remove one'
                )
            taken[decision] = config.type
    return configs


def refuse_experimental(configs: Sequence[ObjectiveConfig]) -> None:
    """Refuse objectives that were never checked against their source.

    Raises:
        ValueError: An objective is experimental; the message names what was not checked.
    """
    for config in configs:
        if config.experimental:
            raise ValueError(
                f'"{config.type}" is experimental ({config.experimental}): set experimental = true '
                "to use it"
            )


def refuse_actuator(configs: Sequence[ObjectiveConfig], actuator: Actuator) -> None:
    """Check that an objective has the controller's actuator, and that nothing else sets it.

    Raises:
        ValueError: No objective has the actuator, or an objective sets the same value.
    """
    if actuator in (Actuator.COEFFICIENT, Actuator.DCPO_ALPHA):
        if not any(config.actuator is actuator for config in configs):
            able = [name for name, kind in SETTINGS.items() if kind.actuator is actuator]
            raise ValueError(
                f'actuator "{actuator}" needs one of the objectives {able}, but the objectives are '
                f"{[config.type for config in configs]}"
            )
    elif actuator is Actuator.CLIP_HIGH:
        for config in configs:
            if Claim.CLIP in config.claims():
                raise ValueError(
                    f'actuator "clip_high" and "{config.type}" both set {Claim.CLIP}: remove one'
                )


def _expand_name(value: object) -> object:
    """Accept `"steer"` as short for `{"type": "steer"}`."""
    if isinstance(value, list | tuple):
        return tuple({"type": item} if isinstance(item, str) else item for item in value)
    return value


ObjectiveList = Annotated[
    tuple[ObjectiveConfig, ...],
    Field(min_length=1),
    AfterValidator(refuse_contradictions),
    BeforeValidator(_expand_name),
]
"""Objectives of a run in the order in which they are applied: names, or tables with a `type`."""
