import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.policy.entropy_law import MIN_POINTS, fit_entropy_law

ENTROPIES = [2.1, 1.7, 1.3, 1.0, 0.7, 0.5, 0.35, 0.25, 0.2, 0.15]
A, B = 0.08, 0.7


def noisy(scale: float, seed: int = 0) -> list[float]:
    noise = np.random.default_rng(seed).normal(size=len(ENTROPIES)) * scale
    return [-A * math.exp(h) + B + e for h, e in zip(ENTROPIES, noise, strict=True)]


def test_an_exact_law_is_recovered() -> None:
    law = fit_entropy_law(ENTROPIES, noisy(0.0))
    assert (law.a, law.b, law.r_squared) == pytest.approx((A, B, 1.0))
    assert law.rmse < 1e-12
    assert law.ceiling().reward == pytest.approx(B - A)


@given(st.floats(-2, 2), st.floats(-2, 2))
def test_any_line_is_recovered(a: float, b: float) -> None:
    law = fit_entropy_law(ENTROPIES, [-a * math.exp(h) + b for h in ENTROPIES])
    assert (law.a, law.b) == pytest.approx((a, b), abs=1e-9)


def test_fit_and_errors_equal_those_of_least_squares() -> None:
    """Compared with numpy's solver and the textbook covariance of the coefficients."""
    rewards = noisy(0.02)
    design = np.stack([-np.exp(ENTROPIES), np.ones(len(ENTROPIES))], 1)
    solution, squares, *_ = np.linalg.lstsq(design, np.array(rewards), rcond=None)
    errors = np.linalg.inv(design.T @ design) * squares[0] / (len(rewards) - 2)
    law = fit_entropy_law(ENTROPIES, rewards)
    assert (law.a, law.b) == pytest.approx(tuple(solution))
    assert (law.a_error, law.b_error) == pytest.approx(tuple(np.sqrt(np.diag(errors))))
    row = np.array([-1.0, 1.0])
    assert law.ceiling().standard_error == pytest.approx(float(np.sqrt(row @ errors @ row)))


def test_confidence_intervals_have_their_nominal_coverage() -> None:
    inside = 0
    for seed in range(300):
        law = fit_entropy_law(ENTROPIES, noisy(0.05, seed))
        ceiling = law.ceiling()
        inside += abs(ceiling.reward - (B - A)) < 2.306 * ceiling.standard_error  # t(8), 95 %
    assert 0.91 < inside / 300 < 0.985


def test_sparse_data_are_not_extrapolated() -> None:
    few = fit_entropy_law(ENTROPIES[:7], noisy(0.01)[:7])
    assert few.predict(1.0).standard_error > 0  # predictions inside the range are allowed
    with pytest.raises(ValueError, match=f"7 points where {MIN_POINTS} are needed"):
        few.ceiling()
    flat = fit_entropy_law([1 + 0.004 * k for k in range(10)], [0.1 * k for k in range(10)])
    with pytest.raises(ValueError, match=r"e\^H varies by 3\.\d% where 5% are needed"):
        flat.predict(1.2)


@pytest.mark.parametrize(
    ("entropies", "rewards", "message"),
    [
        ([1.0, 2.0], [0.1, 0.2], "at least 3"),
        ([1.0, 2.0, math.nan], [0.1, 0.2, 0.3], "finite"),
        ([1.0] * 9, [0.1] * 9, "same at all checkpoints"),
        ([1.0, 2.0, 3.0], [0.1, 0.2], "3 entropies but 2 rewards"),
    ],
)
def test_unfittable_data_are_refused(
    entropies: list[float], rewards: list[float], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        fit_entropy_law(entropies, rewards)


def test_constant_rewards_have_no_explained_variance() -> None:
    assert math.isnan(fit_entropy_law(ENTROPIES, [0.5] * 10).r_squared)
