import inspect
from typing import Any, get_args

import pytest
from pydantic import ValidationError

from tests.unit.training.objectives.batch import CONFIGS, objectives
from training.objectives.catalog import SETTINGS, ObjectiveConfig, refuse_actuator
from training.objectives.core.controller import Actuator
from training.objectives.core.interface import Objective
from training.objectives.core.requirements import RequiredTensor
from training.objectives.registry import OBJECTIVES, build_objective

UNION = get_args(get_args(ObjectiveConfig)[0])


def test_registry_and_config_union_have_the_same_names() -> None:
    assert [config.model_fields["type"].default for config in UNION] == list(OBJECTIVES)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_name_builds_its_class_with_default_settings(name: str) -> None:
    (config,) = CONFIGS.validate_python([name])
    assert type(build_objective(config)) is OBJECTIVES[name]
    assert CONFIGS.validate_json(CONFIGS.dump_json((config,))) == (config,)


@pytest.mark.parametrize("config", UNION)
def test_unknown_keys_are_refused(config: Any) -> None:
    with pytest.raises(ValidationError, match="extra_forbidden"):
        config(alien=1)


@pytest.mark.parametrize("name", [name for name in OBJECTIVES if name != "none"])
def test_every_objective_names_its_source(name: str) -> None:
    kind = OBJECTIVES[name]
    text = inspect.getdoc(kind) or ""
    module = inspect.getdoc(inspect.getmodule(kind)) or ""
    assert "Source" in text + module
    assert "arXiv" in text + module or "Williams" in text


def test_unchecked_objectives_are_marked_experimental() -> None:
    marked = {name for name, kind in SETTINGS.items() if kind.experimental}
    assert marked == {
        "hicra",
        "ares",
        "info_gain",
    }


def test_every_objective_names_its_reference_or_is_experimental() -> None:
    assert [n for n, kind in SETTINGS.items() if not kind.checked and not kind.experimental] == []


def test_names_and_tables_may_be_mixed() -> None:
    steer, target = CONFIGS.validate_python(
        ["steer", {"type": "target_entropy", "entropy_target": 1.5}]
    )
    assert steer.type == "steer"
    assert target.entropy_target == 1.5


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["none", "steer"], "cannot be combined"),
        (["steer", "steer"], "duplicate objectives: steer"),
        (["entropy_bonus", "target_entropy"], "both set the direction of the entropy"),
        (["siren", "epo"], "the direction of the entropy"),
        (["kl_cov", "lp_reg"], "both set the clip range"),
        (["hapo", "soft_clip_high_entropy"], "both set the clip range"),
        (["hapo", "canon"], "both set the group baseline"),
        (["empo", "pear"], "both set the reward"),
        (["hardness_weight", "empo"], "both set the reward"),
        (["dcpo", "aepo"], "temperature of extra samples"),
        (["stear"], "union_tag_invalid"),
        ([], "too_short"),
    ],
)
def test_contradictions_are_refused(names: list[str], message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        CONFIGS.validate_python(names)
    assert message in str(caught.value) + str(caught.value.errors())


@pytest.mark.parametrize(
    "names",
    [
        ["steer", "target_entropy"],
        ["clip_cov", "steer", "entropy_bonus", "canon"],
        ["kl_cov", "target_entropy", "seed_grpo", "empo"],
        [{"type": "hapo", "asymmetric_clip": False}, "kl_cov"],
        [{"type": "hapo", "token_average": False}, "canon"],
    ],
)
def test_compatible_objectives_are_accepted(names: list[Any]) -> None:
    assert len(objectives(*names).members) == len(names)


def test_needs_are_the_union_of_all_objectives() -> None:
    assert objectives("canon", "lp_reg").needs == {
        RequiredTensor.OLD_ENTROPY,
        RequiredTensor.PROXY_LOGPROBS,
    }


@pytest.mark.parametrize(
    "name", ["none", "steer", "clip_cov", "kl_cov", "target_entropy", "epo", "hapo", "aepo"]
)
def test_most_objectives_need_no_extra_forward_pass(name: str) -> None:
    assert objectives(name).needs == frozenset()


@pytest.mark.parametrize(
    ("names", "actuator", "message"),
    [
        (["steer"], "coefficient", "needs one of"),
        (["adaptive_entropy"], "coefficient", "entropy_bonus"),
        (["aepo"], "dcpo_alpha", "dcpo"),
        (["kl_cov"], "clip_high", "both set the clip range"),
    ],
)
def test_a_controller_without_a_matching_objective_is_refused(
    names: list[str], actuator: str, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        refuse_actuator(CONFIGS.validate_python(names), Actuator(actuator))


@pytest.mark.parametrize(
    ("names", "actuator"),
    [
        (["target_entropy"], "coefficient"),
        (["dcpo"], "dcpo_alpha"),
        (["none"], "temperature"),
        (["steer"], "clip_high"),
    ],
)
def test_a_controller_with_a_matching_objective_is_accepted(
    names: list[str], actuator: str
) -> None:
    refuse_actuator(CONFIGS.validate_python(names), Actuator(actuator))


@pytest.mark.parametrize("name", OBJECTIVES)
def test_settings_declare_what_the_class_acts_on(name: str) -> None:
    """Settings are validated without torch, so they repeat what the class overrides."""
    composed = objectives(name)
    (member,) = composed.members.values()
    found = {"groups": composed.acts_on_groups, "tokens": composed.acts_on_tokens}
    assert set(member.config.acts_on) == {kind for kind, acts in found.items() if acts}
    computes = type(member).batch_statistics is not Objective.batch_statistics
    assert bool(member.config.batch_needs) == computes
