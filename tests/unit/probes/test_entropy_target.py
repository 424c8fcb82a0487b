"""The solver of the law `entropy_target`."""

import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import Tensor

from probes.entropy import entropy_from_logits
from probes.entropy_target import REFINEMENTS, apply_side, temperature_for_entropy
from probes.laws import SIDES, Side

INF = math.inf

for_all_rows = settings(deadline=None, max_examples=50)


def bisected(logits: Tensor, target: Tensor, low: float = 0.1, high: float = 2.0) -> Tensor:
    """The slow, sure way, in float64; ends at a limit where the target is out of reach."""
    rows = logits.double()
    below = torch.full((len(rows),), math.log(low), dtype=torch.float64)
    above = torch.full_like(below, math.log(high))
    for _ in range(40):
        middle = (below + above) / 2
        too_cold = entropy_from_logits(rows, middle.exp()) < target
        below, above = torch.where(too_cold, middle, below), torch.where(too_cold, above, middle)
    return ((below + above) / 2).exp()


def random_rows(num_rows: int, vocab: int, scale: float = 3.0) -> Tensor:
    return torch.randn(num_rows, vocab, generator=torch.Generator().manual_seed(0)) * scale


@st.composite
def solvable(draw: st.DrawFn) -> Tensor:
    """Rows of every shape that a model of some vocabulary gives, masked ones among them."""
    shape = (draw(st.integers(1, 4)), draw(st.sampled_from([2, 3, 8, 64, 300])))
    values = draw(hnp.arrays(np.float32, shape, elements=st.floats(-12, 12, width=32)))
    masked = draw(hnp.arrays(np.bool_, shape))
    masked[:, 0] = False
    return torch.from_numpy(np.where(masked, np.float32(-INF), values))


def assert_solved(logits: Tensor, target: float, got: Tensor, tolerance: float) -> None:
    """Where the target can be reached the entropy is the target, elsewhere T is at the limit."""
    assert got.isfinite().all()
    assert ((got >= 0.1 * (1 - 1e-6)) & (got <= 2.0 * (1 + 1e-6))).all()
    rows = logits.double()
    coldest, warmest = entropy_from_logits(rows, 0.1), entropy_from_logits(rows, 2.0)
    reached = entropy_from_logits(rows, got.double())
    expected = torch.full_like(reached, target).clamp(coldest, warmest)
    torch.testing.assert_close(reached, expected, atol=tolerance, rtol=0)


@pytest.mark.parametrize("vocab", [64, 512, 49152])
@pytest.mark.parametrize("target", [0.2, 0.8, 1.6, 3.0])
def test_the_solved_temperature_reaches_the_target(vocab: int, target: float) -> None:
    logits = random_rows(16, vocab)
    reachable = entropy_from_logits(logits, 0.1) < target
    reachable &= entropy_from_logits(logits, 2.0) > target
    assert reachable.sum() >= 4
    got = temperature_for_entropy(logits, target)[reachable]
    reached = entropy_from_logits(logits[reachable], got)
    torch.testing.assert_close(reached, torch.full_like(reached, target), atol=1e-3, rtol=0)


@given(logits=solvable(), target=st.floats(0.01, 8))
@for_all_rows
def test_the_target_is_met_or_the_nearer_limit_returned(logits: Tensor, target: float) -> None:
    assert_solved(logits, target, temperature_for_entropy(logits, target), tolerance=2e-2)


@pytest.mark.parametrize("share_allowed", [0.5, 0.02, 0.0005])
def test_masked_tokens_play_no_part_in_the_solution(share_allowed: float) -> None:
    logits = random_rows(8, 49152)
    allowed = torch.rand(49152, generator=torch.Generator().manual_seed(1)) < share_allowed
    masked = temperature_for_entropy(logits.masked_fill(~allowed, -INF), 1.0)
    torch.testing.assert_close(
        masked, temperature_for_entropy(logits[:, allowed], 1.0), atol=1e-4, rtol=1e-4
    )
    assert_solved(logits[:, allowed], 1.0, masked, tolerance=1e-3)


@pytest.mark.parametrize(
    ("name", "row", "target", "limit"),
    [
        ("a single allowed token has no entropy to raise", [5.0, -INF, -INF], 0.5, 2.0),
        ("two allowed tokens hold at most ln 2", [3.0, 0.0, -INF], 0.7, 2.0),
        ("a uniform row cannot be sharpened", [1.0] * 8, 0.5, 0.1),
        ("an exact tie at the top holds ln 2", [9.0, 9.0, 0.0], 0.6, 0.1),
        ("a near tie at the top holds almost ln 2", [9.0, 8.999, 0.0, -3.0], 0.5, 0.1),
        ("more than the vocabulary can hold", [2.0, 1.0, 0.0, -1.0], 3.0, 2.0),
        ("less than the coldest limit leaves", [1.0, 0.9, 0.8, 0.7], 1e-3, 0.1),
        ("a peak too tall for the warmest limit", [60.0, 0.0, 0.0, 0.0], 1.0, 2.0),
    ],
)
def test_a_target_out_of_reach_ends_at_the_nearer_limit(
    name: str, row: list[float], target: float, limit: float
) -> None:
    for refinements in (REFINEMENTS, 6):
        got = temperature_for_entropy(torch.tensor([row]), target, refinements=refinements)
        assert got.item() == pytest.approx(limit, rel=1e-5), name


def test_near_ties_just_inside_the_limits_are_solved() -> None:
    gaps = torch.tensor([0.05, 0.1, 0.2, 0.4])
    logits = torch.stack([torch.full_like(gaps, 10.0), 10.0 - gaps, torch.zeros(4)], -1)
    got = temperature_for_entropy(logits, 0.65)
    expected = bisected(logits, torch.full((4,), 0.65))
    torch.testing.assert_close(got.double(), expected, atol=0, rtol=1e-3)


@given(logits=solvable(), one=st.floats(0.01, 6), two=st.floats(0.01, 6))
@for_all_rows
def test_a_higher_target_never_gives_a_lower_temperature(
    logits: Tensor, one: float, two: float
) -> None:
    assume(abs(one - two) > 0.05)
    low, high = (temperature_for_entropy(logits, target) for target in sorted([one, two]))
    assert (low <= high * 1.01).all()


def test_targets_and_limits_may_differ_from_row_to_row() -> None:
    logits = random_rows(3, 512).repeat(2, 1)
    target = torch.tensor([0.5, 1.0, 2.0, 5.5, 5.5, 1e-3])
    low = torch.tensor([0.1, 0.2, 0.1, 0.1, 0.1, 0.6])
    high = torch.tensor([2.0, 2.0, 2.0, 1.1, 1.2, 1.0])
    got = temperature_for_entropy(logits, target, low, high)
    torch.testing.assert_close(
        entropy_from_logits(logits[:3], got[:3]), target[:3], atol=1e-3, rtol=0
    )
    assert got[3:].tolist() == pytest.approx([1.1, 1.2, 0.6])


@pytest.mark.parametrize("broken", [[math.nan, 1.0, 0.0], [INF, 1.0, 0.0], [-INF] * 3])
def test_a_row_without_a_finite_entropy_has_no_solution_and_spoils_no_other(
    broken: list[float],
) -> None:
    got = temperature_for_entropy(torch.tensor([[2.0, 1.0, 0.0], broken]), 0.6)
    assert got.isnan().tolist() == [False, True]


def test_bfloat16_logits_are_solved_in_float32() -> None:
    logits = random_rows(4, 512).bfloat16()
    got = temperature_for_entropy(logits, 1.0)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, temperature_for_entropy(logits.float(), 1.0))


def test_the_passes_of_the_decode_loop_are_enough_for_language_like_rows() -> None:
    ranks = torch.arange(1, 49153).log()  # Zipf, from nearly certain to nearly flat
    noise = random_rows(10, 49152, 1.0)
    logits = noise - ranks * torch.linspace(1.0, 4.0, 10).unsqueeze(-1)
    for target in (0.3, 1.0, 3.0):
        got = temperature_for_entropy(logits, target, refinements=REFINEMENTS)
        expected = bisected(logits, torch.full((10,), target))
        error = entropy_from_logits(logits, got) - entropy_from_logits(logits, expected.float())
        assert error.abs().mean() < 1e-2
        assert error.abs().max() < 0.1


@pytest.mark.parametrize("t0", [0.3, 0.7, 1.0, 1.6])
@pytest.mark.parametrize("side", list(SIDES))
def test_a_ceiling_never_heats_a_floor_never_cools_and_both_forget_t0(
    side: Side, t0: float
) -> None:
    logits = random_rows(16, 512)
    solved = temperature_for_entropy(logits, 1.0)
    base = torch.full_like(solved, t0)
    got = apply_side(solved, base, torch.full_like(solved, SIDES[side]))
    entropy = entropy_from_logits(logits, got)
    plain = entropy_from_logits(logits, t0)
    if side == "ceiling":
        assert (got <= base).all()
        assert (entropy <= plain.clamp_max(1.0 + 1e-3) + 1e-6).all()
    elif side == "floor":
        assert (got >= base).all()
        assert (entropy >= plain.clamp_min(1.0 - 1e-3) - 1e-6).all()
    else:
        assert torch.equal(got, solved)
