import json
import math
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from training.objectives.controller import Actuator, ControllerConfig, EntropyController
from training.policy.config import load_config


def controller(**settings: float) -> EntropyController:
    plain = {"entropy_target": 1.0, "smoothing": 0.0, "dead_band": 0.0}
    return EntropyController(ControllerConfig(**{**plain, **settings}))


def test_the_output_is_proportional_and_integral() -> None:
    """e = 0.5, 0.5, -1: outputs 1e-3 e + 1e-4 sum(e)."""
    pi = controller()
    outputs = [pi.update(h) for h in (0.5, 0.5, 2.0)]
    assert outputs == pytest.approx([5.5e-4, 6.0e-4, -1e-3])


def test_the_bias_is_the_output_without_an_error() -> None:
    pi = controller(bias=4e-3)
    assert pi.update(1.0) == 4e-3
    assert pi.update(0.5) == pytest.approx(4e-3 + 5.5e-4)


def test_the_shipped_gains_settle_where_momentum_is_short_and_swing_where_it_is_long() -> None:
    """Entropy falls by 0.25 nats a step and rises by twice the output, both through a mean."""
    shipped = load_config("target-entropy", []).controller
    assert shipped is not None

    def swing(decay: float) -> float:
        pi, entropy, speed, seen = EntropyController(shipped), 1.73, 0.0, []
        for _ in range(30):
            speed = decay * speed + (1 - decay) * (2.0 * pi.update(entropy) - 0.25)
            entropy += speed
            seen.append(entropy)
        return max(abs(one - shipped.entropy_target) for one in seen[15:])

    assert swing(load_config("target-entropy", []).optimizer.beta1) < 0.05
    assert swing(0.9) > 0.2


def test_the_average_starts_at_the_first_value_and_follows() -> None:
    pi = controller(smoothing=0.9)
    pi.update(2.0)
    assert pi.average == 2.0
    pi.update(1.0)
    assert pi.average == pytest.approx(1.9)


@pytest.mark.parametrize("entropy", [0.951, 1.0, 1.049])
def test_inside_the_dead_band_nothing_moves(entropy: float) -> None:
    pi = controller(dead_band=0.05)
    pi.update(0.5)
    held = pi.sum
    assert pi.update(entropy) == pytest.approx(1e-4 * held)
    assert pi.sum == held


def test_outside_the_dead_band_the_whole_error_counts() -> None:
    assert controller(dead_band=0.05).update(0.94) == pytest.approx(0.06 * 1.1e-3)


def test_a_target_out_of_reach_leaves_no_debt() -> None:
    """After a thousand steps at the limit, one on the other side is enough to leave it."""
    pi = controller(integral=1e-3)
    for _ in range(1000):
        assert abs(pi.update(0.0)) <= 0.01
    assert pi.output == 0.01
    assert pi.sum <= 10
    assert pi.update(2.0) < 0.01
    for _ in range(20):
        pi.update(2.0)
    assert pi.output < 0


def test_a_value_that_is_no_number_changes_nothing() -> None:
    pi = controller()
    pi.update(0.5)
    state = pi.state_dict()
    for broken in (math.nan, math.inf, -math.inf):
        assert pi.update(broken) == state["output"]
    assert pi.state_dict() == state


@given(st.lists(st.floats(0, 12), min_size=1, max_size=60), st.floats(0.01, 5))
def test_the_output_never_leaves_its_limits(entropies: list[float], target: float) -> None:
    pi = controller(entropy_target=target, proportional=0.5, integral=0.5)
    assert all(-0.01 <= pi.update(h) <= 0.01 for h in entropies)


def held(pi: EntropyController, plant: Callable[[float, float], float], steps: int) -> list[float]:
    entropy, seen = 2.0, []
    for _ in range(steps):
        entropy = plant(entropy, pi.output)
        pi.update(entropy)
        seen.append(entropy)
    return seen


def test_a_collapsing_entropy_is_held_near_its_target() -> None:
    """A policy that loses 3 % of its entropy per step and gains 5 nats per unit of coefficient."""
    pi = controller(proportional=2e-2, integral=1e-3, limit=0.1, smoothing=0.5, dead_band=0.05)
    path = held(pi, lambda h, u: max(0.97 * h + 5 * u, 0.0), 400)
    assert min(path) > 0.6
    assert all(abs(h - 1.0) < 0.15 for h in path[150:])
    alone = held(controller(limit=1e-9), lambda h, u: max(0.97 * h + 5 * u, 0.0), 400)
    assert alone[-1] < 0.01


def test_a_resumed_controller_goes_on_where_it_was() -> None:
    straight, first = controller(smoothing=0.9), controller(smoothing=0.9)
    for pi in (straight, first):
        for h in (0.3, 0.7, 1.4):
            pi.update(h)
    resumed = controller(smoothing=0.9)
    resumed.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert resumed.update(0.2) == straight.update(0.2)
    fresh = controller()
    fresh.load_state_dict(json.loads(json.dumps(controller().state_dict())))
    assert fresh.average is None


def test_state_of_something_else_is_refused() -> None:
    with pytest.raises(ValueError, match="average, sum and output"):
        controller().load_state_dict({"anchor": 1.0})


@pytest.mark.parametrize("wrong", [{"entropy_target": 0.0}, {"limit": 0.0}, {"alien": 1.0}])
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        ControllerConfig(**{"entropy_target": 1.0, **wrong})


def test_a_bias_beyond_the_limit_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"bias 0.5 is beyond limit 0.01"):
        controller(bias=0.5)


def test_the_actuators_are_the_four_that_exist() -> None:
    assert {str(a) for a in Actuator} == {"coefficient", "temperature", "clip_high", "dcpo_alpha"}
