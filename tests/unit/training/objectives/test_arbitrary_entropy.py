import math

import pytest
import torch

from tests.unit.training.objectives.batch import only, rollout, step
from training.objectives.compose import Objectives
from training.objectives.core.batch import RolloutBatch
from training.objectives.core.controller import Actuator
from training.objectives.core.distributed import SingleProcess
from training.objectives.core.requirements import RequiredTensor
from training.objectives.groups.configs import DcpoConfig

RIGHT = torch.tensor([True, False, False, False])


def batch(correct: torch.Tensor = RIGHT) -> RolloutBatch:
    old = torch.full((4, 3), -1.0, dtype=torch.float64)
    return rollout(
        correct.double().tolist(),
        correct=correct,
        old_logprobs=old,
        rescored_logprobs=old + math.log(1.5),
    )


@pytest.mark.parametrize("name", ["dcpo", "aepo"])
def test_the_temperature_is_high_while_the_surprisal_is_at_or_below_the_target(name: str) -> None:
    member = only({"type": name, "entropy_target": 0.75})
    temperatures = [member.temperature]
    for surprisal in (0.75, 0.76, 0.2):
        member.on_step_end(step(surprisal=surprisal, entropy=9.0), SingleProcess())
        temperatures.append(member.temperature)
    assert temperatures == [1.2, 1.2, 0.8, 1.2]


def test_dcpo_adds_the_ratio_to_right_answers_only() -> None:
    """Before the first step, the distance is clipped to 0.1; a = 0.4 / 1.4 with 1/4 right."""
    member, data = only("dcpo"), batch()
    a = 0.4 / 1.4
    found = member.shape_advantages(data)
    before = data.advantages
    torch.testing.assert_close(found[0], (1 - a) * before[0] + a * 1.5)
    torch.testing.assert_close(found[1:], (1 - a) * before[1:])


def test_dcpo_at_its_target_changes_nothing() -> None:
    member, data = only("dcpo"), batch()
    member.on_step_end(step(surprisal=0.75), SingleProcess())
    assert torch.equal(member.shape_advantages(data), data.advantages)


def test_dcpo_without_right_answers_changes_nothing() -> None:
    """The published weight divides by the share of right answers."""
    data = batch(torch.zeros(4, dtype=torch.bool))
    found = only("dcpo").shape_advantages(data)
    assert torch.equal(found, data.advantages)


def test_dcpo_ignores_padding() -> None:
    data = batch()
    soiled = rollout(
        [1.0, 0, 0, 0],
        lengths=[1, 2, 3, 1],
        correct=RIGHT,
        old_logprobs=torch.full((4, 3), -math.inf),
        rescored_logprobs=torch.full((4, 3), -math.inf),
    )
    soiled.measured[RequiredTensor.OLD_LOGPROBS][soiled.mask] = -1.0
    soiled.measured[RequiredTensor.RESCORED_LOGPROBS][soiled.mask] = -1.0
    assert bool(only("dcpo").shape_advantages(soiled).isfinite().all())
    assert bool(only("dcpo").shape_advantages(data).isfinite().all())


@pytest.mark.parametrize(("surprisal", "sign"), [(0.7, 1), (0.8, -1)])
def test_the_controller_moves_dcpo_alpha_in_the_direction_of_the_temperature(
    surprisal: float, sign: int
) -> None:
    composed = Objectives([DcpoConfig()], Actuator.DCPO_ALPHA)
    member = composed.members["dcpo"]
    assert isinstance(member, only("dcpo").__class__)
    member.on_step_end(step(surprisal=surprisal), SingleProcess())
    own = 0.05 / 0.55
    for drive in (0.02, -0.02, 9.0, -9.0):
        composed.set_controller_output(drive)
        expected = min(max(own + sign * drive, 0.0), 1.0)
        assert member.alpha(0.5) == pytest.approx(expected)


def test_aepo_resamples_the_first_quarter_of_the_prompts() -> None:
    member = only("aepo")
    assert [member.num_prompts(n) for n in (512, 8, 4, 1)] == [128, 2, 1, 1]


def test_aepo_keeps_rewarded_samples_in_order() -> None:
    member = only("aepo")
    extra = torch.tensor([0.05, 0.06, -1.0, 2.0, 0.3])
    assert member.select_extra(extra, 100).tolist() == [1, 3, 4]


def test_aepo_keeps_half_as_many_while_the_entropy_is_too_high() -> None:
    member, extra = only("aepo"), torch.ones(200)
    assert len(member.select_extra(extra, 2560)) == 60
    member.on_step_end(step(surprisal=2.0), SingleProcess())
    assert len(member.select_extra(extra, 2560)) == 30
    assert len(member.select_extra(extra[:7], 2560)) == 3


def test_aepo_without_a_rewarded_sample_replaces_nothing() -> None:
    """The published selector returns None here and fails."""
    assert len(only("aepo").select_extra(torch.tensor([-1.0, 0.0]), 100)) == 0


def test_aepo_never_replaces_more_than_half_of_a_small_batch() -> None:
    assert len(only("aepo").select_extra(torch.ones(200), 32)) == 16
