from typing import Any

import pytest
from pydantic import TypeAdapter

from probes.laws import FixedLaw
from training.objectives.catalog import ObjectiveList
from training.objectives.core.controller import Actuator, ControllerConfig
from training.policy.rollouts.settings import BranchConfig
from training.policy.validation import TrlSettings, refuse_settings, warnings_for

HOT = FixedLaw(temperature=1.2)
CLIP = ControllerConfig(entropy_target=1.0, actuator=Actuator.CLIP_HIGH)
HEAT = ControllerConfig(entropy_target=1.0, actuator=Actuator.TEMPERATURE)


def check(names: list[str], settings: TrlSettings, *acting: Any) -> None:
    refuse_settings(TypeAdapter(ObjectiveList).validate_python(names), settings, *acting)


@pytest.mark.parametrize(
    ("names", "settings", "acting", "message"),
    [
        (["steer"], {"loss_type": "luspo"}, (), "single tokens"),
        (["steer"], {"importance_sampling_level": "sequence"}, (), "single tokens"),
        (["kl_cov"], {}, (), "no effect while each rollout serves one"),
        (["kl_cov"], {"reuses_rollouts": True, "delta": 4.0}, (), "delta = 4.0 caps"),
        (["hapo"], {"loss_type": "cispo"}, (), '"hapo" sets a clip range'),
        (
            ["none"],
            {"loss_type": "sapo", "reuses_rollouts": True},
            (CLIP,),
            'actuator "clip_high" sets a clip range',
        ),
        (["none"], {}, (CLIP,), 'actuator "clip_high" has no effect'),
        (
            ["none"],
            {"reuses_rollouts": True, "epsilon_high": 0.01},
            (CLIP,),
            "below epsilon_high = 0.01",
        ),
        (["epo"], {"own_entropy_term": True}, (), "entropy term of TRL"),
        (["empo"], {"normalizes_each_reward": True}, (), "a single reward"),
        (["high_entropy_mask"], {"top_entropy_quantile": 0.5}, (), "set only one of them"),
        (
            ["none"],
            {"truncated_sampling": True},
            (None, HOT),
            "not available with truncated sampling",
        ),
        (["none"], {"samples_itself": False}, (HEAT,), "needs rollouts in this process"),
        (["none"], {"loss_type": "luspo"}, (None, HOT), "needs importance weights per token"),
        (["aepo"], {}, (None, HOT), '"aepo" cannot be combined'),
        (["aepo"], {"splits_groups": True}, (), "whole groups"),
        (["aepo", "lp_reg"], {}, (), "has measured"),
        (["aepo"], {}, (None, None, BranchConfig()), "which samples are drawn"),
        (["none"], {}, (None, None, BranchConfig(roots=8)), "no completions are left to fork"),
        (["none"], {}, (None, HOT, BranchConfig()), "branch cannot be combined"),
        (["none"], {"loss_type": "cispo", "has_epsilon_high": False}, (), "epsilon_high = 5.0"),
        (["clip_cov"], {"step_sequences": 1}, (), "0 over the tokens of one completion"),
        (["none"], {"own_rollouts": True}, (None, HOT), "would ignore law"),
        (["none"], {"own_rollouts": True}, (HEAT,), 'would ignore actuator "temperature"'),
        (["none"], {"own_rollouts": True}, (None, None, BranchConfig()), "would ignore branch"),
        (["none"], {"own_rollouts": True, "served": True}, (), "would ignore served"),
        (["aepo"], {"own_rollouts": True}, (), 'would ignore "aepo"'),
        (["none"], {"own_rollouts": True, "loss_type": "luspo"}, (), "importance_cap = None"),
        (["none"], {"uses_tools": True}, (None, None, BranchConfig()), "one turn"),
        (["aepo", "steer"], {"accumulates": True}, (), 'statistics of "steer"'),
    ],
    ids=str,
)
def test_unsupported_combinations_are_refused(
    names: list[str], settings: dict[str, Any], acting: tuple[Any, ...], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        check(names, TrlSettings(**settings), *acting)


def test_supported_combinations_are_accepted() -> None:
    check(["none"], TrlSettings(loss_type="luspo", importance_sampling_level="sequence"))
    check(["canon"], TrlSettings(importance_sampling_level="sequence"))
    check(["kl_cov"], TrlSettings(reuses_rollouts=True), HEAT)
    check(["steer", "target_entropy"], TrlSettings(loss_type="cispo"), None, HOT)
    check(["steer"], TrlSettings(), None, None, BranchConfig())
    check(["none"], TrlSettings(reuses_rollouts=True, epsilon_high=0.28), CLIP)


def test_seed_grpo_with_scaled_rewards_gives_advice() -> None:
    configs = TypeAdapter(ObjectiveList).validate_python(["seed_grpo"])
    (sentence,) = warnings_for(configs, TrlSettings(scale_rewards="group"))
    assert 'scale_rewards = "none"' in sentence
    assert warnings_for(configs, TrlSettings(scale_rewards="none")) == []
