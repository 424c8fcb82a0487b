"""Self-certainty and collision probability: golden values, bounds, masks, windows."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from probes.confidence import certainty_weight, confidence, lowest_window
from probes.truncation_functions import spread_sums

TRACE = [1, 3, 2, 4, 5, 1, 2, 6, 3, 2]
GOLDEN = torch.tensor([[2.0, 1.0, 0.0, -1.0]])
values = st.lists(st.floats(-5, 5), min_size=1, max_size=60)


def measured(logits: Tensor) -> Tensor:
    return confidence(spread_sums(logits, logits.amax(-1, keepdim=True), torch.ones(len(logits))))


def test_the_golden_row_has_its_golden_confidence() -> None:
    certainty, collision = measured(GOLDEN)
    assert certainty.item() == pytest.approx(0.553895, abs=2e-6)
    assert collision.item() == pytest.approx(0.479361, abs=2e-6)
    masked = GOLDEN.clone()
    masked[0, 3] = -math.inf
    assert measured(masked)[0].item() == pytest.approx(0.308994, abs=2e-6)


@given(st.lists(st.floats(-20, 20, width=32), min_size=1, max_size=50), st.randoms())
def test_confidence_is_bounded_and_ignores_masks_and_order(
    row: list[float], chance: object
) -> None:
    certainty, collision = measured(torch.tensor([row]))
    assert certainty.item() >= 0
    assert 1 / len(row) - 1e-6 <= collision.item() <= 1 + 1e-6
    other = [*row, -math.inf, -math.inf]
    chance.shuffle(other)  # type: ignore[attr-defined]
    torch.testing.assert_close(
        measured(torch.tensor([other])), torch.stack([certainty, collision]), atol=1e-4, rtol=1e-4
    )
    logp = torch.tensor(row, dtype=torch.float64).log_softmax(-1)
    assert certainty.item() == pytest.approx(-logp.mean().item() - math.log(len(row)), abs=1e-4)
    assert collision.item() == pytest.approx(logp.exp().square().sum().item(), abs=1e-4)


def test_equal_and_single_and_broken_rows() -> None:
    rows = torch.tensor([[1.0] * 4, [3.0, *[-math.inf] * 3], [math.nan] * 4, [-math.inf] * 4])
    certainty, collision = measured(rows)
    assert certainty[:2].tolist() == pytest.approx([0.0, 0.0], abs=1e-6)
    assert collision[:2].tolist() == pytest.approx([0.25, 1.0])
    assert certainty[2:].isnan().all()
    assert collision[2:].isnan().all()


def test_the_lowest_window_of_the_golden_trace() -> None:
    assert lowest_window(TRACE, 3) == pytest.approx(2.0)
    assert lowest_window(TRACE, 2048) == pytest.approx(2.9)  # shorter than the window: its mean
    assert lowest_window([], 3) is None


def test_the_weights_of_the_golden_trace() -> None:
    assert certainty_weight(TRACE, 3, "self_certainty") == pytest.approx(2.9)
    assert certainty_weight(TRACE, 4, "tail") == pytest.approx(3.25)
    assert certainty_weight(TRACE, 3, "lowest") == pytest.approx(2.0)
    assert certainty_weight(TRACE, 3, "bottom", share=0.3) == pytest.approx(7 / 3)
    assert certainty_weight(TRACE, 3, "bottom") == pytest.approx(2.0)  # a tenth of 8 windows: one


@given(values, st.integers(1, 70))
def test_the_weights_of_any_trace_keep_their_order(trace: list[float], window: int) -> None:
    weights = {
        kind: certainty_weight(trace, window, kind)
        for kind in ("self_certainty", "tail", "bottom", "lowest")
    }
    mean = sum(trace) / len(trace)
    assert weights["self_certainty"] == pytest.approx(mean, abs=1e-9)
    assert weights["lowest"] == pytest.approx(lowest_window(trace, window), abs=1e-9)
    for kind in ("tail", "bottom"):  # both are means of windows; the mean of all tokens is not
        assert weights["lowest"] - 1e-9 <= weights[kind] <= max(trace) + 1e-9
    if window >= len(trace):
        assert list(weights.values()) == pytest.approx([mean] * 4, abs=1e-9)


@given(values, st.integers(1, 70))
def test_the_lowest_window_is_that_of_all_windows(trace: list[float], window: int) -> None:
    size = min(window, len(trace))
    means = [sum(trace[at : at + size]) / size for at in range(len(trace) - size + 1)]
    assert lowest_window(trace, window) == pytest.approx(min(means), abs=1e-9)
