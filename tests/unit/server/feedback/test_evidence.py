"""The betting test of coverage: it keeps its error and notices a loss, however late."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.feedback.evidence import ALARM, BETS, NO_EVIDENCE, total, updated

levels = st.floats(0.01, 0.999)
evidences = st.lists(st.floats(0, 1e9), min_size=len(BETS), max_size=len(BETS))


@given(evidences, levels)
def test_at_exactly_the_level_the_expected_evidence_grows_by_one_per_answer(
    before: list[float], level: float
) -> None:
    """So it reaches c after c answers in the mean at the earliest."""
    hit, miss = updated(before, level, True), updated(before, level, False)
    for one, a, b in zip(before, hit, miss, strict=True):
        assert level * a + (1 - level) * b == pytest.approx(one + 1, rel=1e-9)


@given(evidences, levels)
def test_a_miss_adds_evidence_and_a_hit_adds_less(before: list[float], level: float) -> None:
    assert total(updated(before, level, False)) > total(updated(before, level, True)) >= 0


@pytest.mark.parametrize("level", [5e-324, 0.5, 0.9999999999999999])
def test_the_evidence_stays_finite_at_any_level(level: float) -> None:
    found = NO_EVIDENCE
    for _ in range(2000):
        found = updated(found, level, False)
    assert total(found) < float("inf")


def first_alarm(coverages: list[float], seed: int, level: float = 0.9) -> int | None:
    """Number of answers until the alarm; None without one."""
    draw, found = Random(seed), NO_EVIDENCE
    for number, coverage in enumerate(coverages):
        found = updated(found, level, draw.random() < coverage)
        if total(found) >= ALARM:
            return number
    return None


def test_sets_that_hold_their_level_raise_few_alarms() -> None:
    """At most 2,000 / 10,000 of the runs may raise one: Doob's inequality."""
    alarms = sum(first_alarm([0.9] * 2000, seed) is not None for seed in range(100))
    assert alarms <= 20


def test_a_loss_of_coverage_is_noticed_soon_also_after_a_long_good_time() -> None:
    delays = []
    for seed in range(40):
        found = first_alarm([0.92] * 3000 + [0.7] * 400, seed)
        assert found is not None
        delays.append(found - 3000)
    assert sorted(delays)[20] < 150
    assert sum(delay < 0 for delay in delays) <= 4
