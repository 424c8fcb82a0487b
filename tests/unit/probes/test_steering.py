import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from probes.steering import (
    Weighted,
    action_entropy,
    contents_hash,
    east,
    random_direction,
    sampled_entropy,
    shuffled,
    tensor_name,
)

STATES = torch.tensor([[1.0, 0], [0, 1], [0, 0], [2, 0], [0, 2], [1, 1]])
ENTROPY = torch.tensor([0.6, 0.1, 0, 0.69, 0.3, 0])
RUNS = torch.tensor([0, 0, 0, 1, 1, 1])
STEPS = Weighted(STATES, ENTROPY, RUNS)


def test_the_golden_vector() -> None:
    assert east(STEPS).tolist() == pytest.approx([0.447732, -0.309665], abs=1e-6)


def test_equal_entropies_say_nothing_and_that_exactly() -> None:
    even = STEPS._replace(entropy=torch.full((6,), 0.4))
    assert east(even).abs().max() < 1e-15
    assert east(even, centered=False).abs().max() > 0.1


@given(st.floats(-50, 50), st.floats(0.1, 10))
@settings(deadline=None)
def test_what_a_run_has_in_common_and_the_unit_of_entropy_do_not_matter(
    offset: float, scale: float
) -> None:
    moved = STEPS._replace(
        states=STATES.double() + offset * RUNS.unsqueeze(1), entropy=ENTROPY.double() * scale
    )
    assert torch.allclose(east(moved), east(STEPS), atol=1e-6)


def test_steps_that_say_nothing_leave_sums_and_means() -> None:
    more = Weighted(
        torch.cat([STATES, torch.tensor([[9.0, 9], [torch.nan, 0]])]),
        torch.cat([ENTROPY, torch.tensor([torch.nan, 0.5])]),
        torch.cat([RUNS, torch.tensor([0, 7])]),
    )
    assert torch.equal(east(more), east(STEPS))


def test_a_run_of_one_step_adds_nothing() -> None:
    lone = Weighted(STATES[:1], ENTROPY[:1], RUNS[:1])
    assert east(lone).abs().max() == 0


@pytest.mark.parametrize("entropy", [0.0, torch.nan])
def test_no_entropy_at_all_is_an_error(entropy: float) -> None:
    with pytest.raises(ValueError, match="no entropy signal"):
        east(STEPS._replace(entropy=torch.full((6,), entropy)))


@pytest.mark.parametrize(
    ("counts", "expected"),
    [((24, 1), 0.1679), ((20, 5), 0.5004), ((25, 0), 0.0), ((5, 5), math.log(2))],
)
def test_the_plug_in_entropy(counts: tuple[int, int], expected: float) -> None:
    assert float(sampled_entropy(torch.tensor(counts))) == pytest.approx(expected, abs=1e-4)


def test_no_valid_completion_is_no_entropy() -> None:
    assert sampled_entropy(torch.tensor([0, 0])).isnan()
    corrected = sampled_entropy(torch.tensor([5, 5]), miller_madow=True)
    assert float(corrected) == pytest.approx(math.log(2) + 1 / 20)


def test_action_entropies_forget_the_mass_elsewhere() -> None:
    logprobs = torch.tensor([[0.35, 0.35], [0.7, 0.0], [0.2, 0.1]]).log()
    entropy, mass = action_entropy(logprobs)
    third = -(2 / 3 * math.log(2 / 3) + 1 / 3 * math.log(1 / 3))
    assert mass.tolist() == pytest.approx([0.7, 0.7, 0.3])
    assert entropy.tolist() == pytest.approx([math.log(2), 0.0, third])


def test_controls_have_the_vectors_norm_and_not_its_direction() -> None:
    vector = torch.randn(400, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for control in (shuffled(vector, 0), random_direction(vector, 0)):
        assert float(control.norm()) == pytest.approx(float(vector.norm()))
        assert abs(float(control @ vector)) < 0.2 * float(vector @ vector)
    assert not torch.equal(shuffled(vector, 0), shuffled(vector, 1))


def test_contents_are_told_apart_and_names_of_artifacts_are_not_part_of_them() -> None:
    one = {tensor_name(3): torch.ones(4)}
    assert contents_hash(one) == contents_hash({tensor_name(3): torch.ones(4).double()})
    assert contents_hash(one) != contents_hash({tensor_name(4): torch.ones(4)})
    assert contents_hash(one) != contents_hash({tensor_name(3): torch.ones(4) * 2})
