import json
import math
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from training.objectives.core.controller import Actuator, ControllerConfig, EntropyController
from training.policy.config import load_config


def controller(**settings: float) -> EntropyController:
    plain = {"entropy_target": 1.0, "smoothing": 0.0, "dead_band": 0.0}
    return EntropyController(ControllerConfig(**{**plain, **settings}))


def test_the_output_has_a_proportional_and_an_integral_part() -> None:
    """e = 0.5, 0.5, -1: outputs 1e-3 e + 1e-4 sum(e)."""
    pi = controller()
    outputs = [pi.update(h) for h in (0.5, 0.5, 2.0)]
    assert outputs == pytest.approx([5.5e-4, 6.0e-4, -1e-3])


def test_the_bias_is_the_output_at_zero_error() -> None:
    pi = controller(bias=4e-3)
    assert pi.update(1.0) == 4e-3
    assert pi.update(0.5) == pytest.approx(4e-3 + 5.5e-4)


def test_the_shipped_gains_converge_with_short_momentum_and_oscillate_with_long_momentum() -> None:
    """Entropy falls by 0.25 nats per step and rises by twice the output, both averaged."""
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
def test_inside_the_dead_band_the_output_does_not_change(entropy: float) -> None:
    pi = controller(dead_band=0.05)
    pi.update(0.5)
    held = pi.sum
    assert pi.update(entropy) == pytest.approx(1e-4 * held)
    assert pi.sum == held


def test_outside_the_dead_band_the_full_error_is_used() -> None:
    assert controller(dead_band=0.05).update(0.94) == pytest.approx(0.06 * 1.1e-3)


def test_an_unreachable_target_does_not_wind_up_the_integral() -> None:
    """After 1,000 steps at the limit, one error of the other sign moves the output off it."""
    pi = controller(integral=1e-3)
    for _ in range(1000):
        assert abs(pi.update(0.0)) <= 0.01
    assert pi.output == 0.01
    assert pi.sum <= 10
    assert pi.update(2.0) < 0.01
    for _ in range(20):
        pi.update(2.0)
    assert pi.output < 0


def test_non_measured_are_ignored() -> None:
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


def test_the_controller_holds_a_falling_entropy_near_its_target() -> None:
    """The policy loses 3 % of its entropy per step and gains 5 nats per unit of coefficient."""
    pi = controller(proportional=2e-2, integral=1e-3, limit=0.1, smoothing=0.5, dead_band=0.05)
    path = held(pi, lambda h, u: max(0.97 * h + 5 * u, 0.0), 400)
    assert min(path) > 0.6
    assert all(abs(h - 1.0) < 0.15 for h in path[150:])
    alone = held(controller(limit=1e-9), lambda h, u: max(0.97 * h + 5 * u, 0.0), 400)
    assert alone[-1] < 0.01


def test_a_restored_controller_continues_with_the_same_outputs() -> None:
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


def test_the_state_of_another_object_is_refused() -> None:
    with pytest.raises(ValueError, match="average, sum and output"):
        controller().load_state_dict({"anchor": 1.0})


@pytest.mark.parametrize("wrong", [{"entropy_target": 0.0}, {"limit": 0.0}, {"alien": 1.0}])
def test_invalid_controller_settings_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        ControllerConfig(**{"entropy_target": 1.0, **wrong})


def test_a_bias_beyond_the_limit_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"bias = 0.5 must lie within limit = 0.01"):
        controller(bias=0.5)


def test_there_are_four_actuators() -> None:
    assert {str(a) for a in Actuator} == {"coefficient", "temperature", "clip_high", "dcpo_alpha"}
