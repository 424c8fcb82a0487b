"""Thresholds of an abstention: golden values, promises over random splits, MAPIE as oracle."""

import math
import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mapie.risk_control import BinaryClassificationController, control_fwer
from mapie.risk_control.methods import compute_hoeffding_bentkus_p_value, get_r_hat_plus
from scipy.stats import binomtest

from probes.selective.abstention import (
    Abstention,
    AbstentionSpec,
    CannotPromise,
    joint_threshold,
    selective_threshold,
    smallest_alpha,
)
from probes.selective.scores import SCORE_NAMES, score_value, uncertainty

LOW = [round(0.1 * k, 2) for k in range(1, 11)]
GOLDEN = [(u, bool(int(w))) for u, w in zip(LOW, "0001001111", strict=True)]
GOLDEN += [(round(u + 0.01, 2), bool(int(w))) for u, w in zip(LOW, "0000101011", strict=True)]
ROWS = st.lists(
    st.tuples(st.integers(0, 8) | st.just(math.nan), st.booleans()), min_size=60, max_size=120
)


def joint(rows: list[tuple[float, bool]], alpha: float) -> float | None:
    return joint_threshold([u for u, _ in rows], [w for _, w in rows], alpha)


def selective(rows: list[tuple[float, bool]], alpha: float, delta: float) -> float | None:
    return selective_threshold([u for u, _ in rows], [w for _, w in rows], alpha, delta)


@pytest.mark.parametrize(("alpha", "found"), [(0.05, 0.31), (0.1, 0.5), (0.2, 0.7), (0.3, 0.81)])
def test_the_golden_rows_have_their_joint_thresholds(alpha: float, found: float) -> None:
    assert joint(GOLDEN, alpha) == found


def test_a_promise_needs_enough_rows() -> None:
    with pytest.raises(CannotPromise, match="20 calibration answers"):
        joint(GOLDEN, 0.04)
    for alpha, least in ((0.1, 9), (0.05, 19), (0.01, 99)):
        assert smallest_alpha("joint", least) <= alpha < smallest_alpha("joint", least - 1)
    for alpha, delta, least in ((0.1, 0.1, 22), (0.05, 0.05, 59)):
        right = [(float(k), False) for k in range(least)]
        assert selective(right, alpha, delta) == least - 1
        with pytest.raises(CannotPromise):
            selective(right[1:], alpha, delta)


def test_all_wrong_and_unknown_answers_are_never_given() -> None:
    wrong = [(float(k), True) for k in range(100)]
    assert joint(wrong, 0.011) is None
    assert selective(wrong, 0.1, 0.1) is None
    unknown = [(math.nan, False)] * 100
    assert joint(unknown, 0.1) is None
    assert selective(unknown, 0.1, 0.1) is None


@given(ROWS, st.sampled_from([0.05, 0.1, 0.2, 0.5]))
def test_the_joint_threshold_is_the_largest_that_keeps_the_bound(
    rows: list[tuple[float, bool]], alpha: float
) -> None:
    def bound(threshold: float) -> float:
        return (sum(w for u, w in rows if u <= threshold) + 1) / (len(rows) + 1)

    kept = [u for u, _ in rows if not math.isnan(u) and bound(u) <= alpha + 1e-12]
    assert joint(rows, alpha) == max(kept, default=None)


@given(ROWS, st.sampled_from([0.1, 0.2, 0.5]), st.sampled_from([0.05, 0.1]))
def test_the_selective_threshold_passes_every_test_before_it(
    rows: list[tuple[float, bool]], alpha: float, delta: float
) -> None:
    from scipy.stats import binom

    passed = None
    for threshold in sorted({u for u, _ in rows if not math.isnan(u)}):
        answered = [w for u, w in rows if u <= threshold]
        if len(answered) < math.log(delta) / math.log1p(-alpha):
            continue
        if binom.cdf(sum(answered), len(answered), alpha) > delta:
            break
        passed = threshold
    assert selective(rows, alpha, delta) == passed


def draw(number: int, seed: int) -> tuple[Any, Any]:
    """Uncertainties and errors whose probability is the squared uncertainty."""
    random = np.random.default_rng(seed)
    doubts = random.uniform(size=number)
    return doubts, random.uniform(size=number) < doubts**2


@pytest.mark.parametrize("alpha", [0.05, 0.1, 0.2])
def test_the_joint_promise_holds_over_random_splits_and_not_after_a_shift(alpha: float) -> None:
    doubts, wrong = draw(2000, 1)
    random = np.random.default_rng(2)
    losses, shifted = [], []
    for _ in range(1000):
        order = random.permutation(len(doubts))
        own, rest = order[:200], order[200:]
        threshold = joint_threshold(doubts[own].tolist(), wrong[own].tolist(), alpha)
        given_ = doubts[rest] <= (-1 if threshold is None else threshold)
        losses.append((given_ & wrong[rest]).mean())
        harder = rest[wrong[rest] | (random.uniform(size=len(rest)) < 0.5)]
        answered = doubts[harder] <= (-1 if threshold is None else threshold)
        shifted.append((answered & wrong[harder]).mean())
    error = np.std(losses) / math.sqrt(len(losses))
    assert np.mean(losses) <= alpha + 2 * error
    assert np.mean(losses) >= alpha - 0.02  # and it answers about as much as it may
    assert np.mean(shifted) > alpha + 0.02  # questions that are harder than the calibration's


@pytest.mark.parametrize("alpha", [0.05, 0.1, 0.2])
def test_the_selective_promise_fails_at_most_as_often_as_it_says(alpha: float) -> None:
    violations, answered = 0, 0
    for seed in range(1000):
        doubts, wrong = draw(200, seed)
        threshold = selective_threshold(doubts.tolist(), wrong.tolist(), alpha, 0.1)
        if threshold is not None:
            violations += threshold**2 / 3 > alpha  # the mean of u^2 below the threshold
            answered += 1
    assert violations <= 100 + 2 * math.sqrt(1000 * 0.1 * 0.9)
    assert answered > 300  # of 200 answers, .05 is hard to promise


def test_mapie_finds_the_same_joint_thresholds() -> None:
    doubts, wrong = draw(200, 3)
    grid = np.sort(doubts)
    losses = ((doubts[:, None] <= grid) & wrong[:, None]).astype(float)
    for alpha in (0.05, 0.1, 0.2):
        _, bound = get_r_hat_plus(losses, grid, "crc", None, None, None)
        expected = grid[bound <= alpha].max()
        assert joint_threshold(doubts.tolist(), wrong.tolist(), alpha) == expected


@pytest.mark.parametrize("number", [100, 200, 500])
@pytest.mark.parametrize("alpha", [0.05, 0.1, 0.2])
def test_mapie_finds_the_same_selective_thresholds(number: int, alpha: float) -> None:
    """MAPIE controls the precision of "give this answer" by the same fixed-sequence test.

    Three things differ. It tests the thresholds that it is given, so it gets those at which enough
    answers are given; ours leaves out the others itself. Its p-value is the smaller one of the
    exact binomial tail, which is ours, and Hoeffding's bound, which is never smaller. And the
    controller computes the number of wrong answers from a precision and rounds it up, which can
    add one: it is then stricter. So its parts get exact shares here, and must find the same.
    """
    least, equal, found = math.ceil(math.log(0.1) / math.log1p(-alpha)), 0, []
    for seed in range(8):
        doubts, wrong = draw(number, seed)
        own = selective_threshold(doubts.tolist(), wrong.tolist(), alpha, 0.1)
        found.append(own)
        order = np.argsort(doubts)
        answered = np.arange(least, number + 1)
        errors = np.cumsum(wrong[order])[least - 1 :]
        share = np.maximum(errors / answered - 1e-12, 0.0)
        p_values = compute_hoeffding_bentkus_p_value(share, answered, alpha, binary=True)[:, 0]
        for p_value, k, n in zip(p_values, errors, answered, strict=True):
            assert p_value == pytest.approx(binomtest(int(k), int(n), alpha, "less").pvalue)
        passed = control_fwer(p_values, 0.1, "fixed_sequence")
        assert own == (doubts[order][least - 1 :][passed[-1]] if len(passed) else None)
        limit = controlled(doubts, wrong, least, alpha)
        assert limit is None or (own is not None and limit <= own + 1e-12)
        equal += limit == (None if own is None else pytest.approx(own, abs=1e-12))
    assert any(one is not None for one in found)
    assert equal >= 1


def controlled(doubts: Any, wrong: Any, least: int, alpha: float) -> float | None:
    """The highest uncertainty that MAPIE's controller of the precision gives an answer at."""
    tested = (1 - np.sort(doubts)[least - 1 :])[::-1]
    controller = BinaryClassificationController(
        lambda certainty: np.stack([1 - certainty, certainty], axis=1),
        risk="precision",
        target_level=1 - alpha,
        confidence_level=0.9,
        list_predict_params=tested,
        fwer_method="fixed_sequence",
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the risk is not monotonic on a sample
        controller.calibrate(1 - doubts, ~wrong)
    best = controller.best_predict_param
    return None if best is None else 1 - best


def test_an_artifact_keeps_its_rows() -> None:
    spec = AbstentionSpec(score="logprob_mean", rows=21, unscored=1, temperature=0.7)
    found = Abstention(spec, [*(u for u, _ in GOLDEN), math.nan], [*(w for _, w in GOLDEN), False])
    again = Abstention.from_tensors(spec, found.tensors())
    assert again.uncertainties[:-1] == found.uncertainties[:-1]
    assert again.wrong == found.wrong
    assert again.threshold("joint", 0.1, 0.1) == 0.5
    with pytest.raises(ValueError, match="`wrong` has shape"):
        Abstention.from_tensors(spec, {**found.tensors(), "wrong": found.tensors()["wrong"][1:]})


def test_scores_that_rise_with_certainty_are_negated() -> None:
    turned = {name for name in SCORE_NAMES if uncertainty(name, 2.0) == -2.0}
    assert {"logprob_mean", "self_certainty_mean", "collision_mean", "probability"} <= turned
    assert not turned & {"entropy_mean", "entropy_max", "varentropy_mean", "num_tokens"}
    assert math.isnan(score_value({"entropy_mean": None}, "entropy_mean"))
    assert math.isnan(score_value({}, "entropy_mean"))
