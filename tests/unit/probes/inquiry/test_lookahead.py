import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from probes.inquiry.lookahead import (
    answer_weights,
    entropy_bound,
    expected_entropy,
    expected_size,
    information_gain,
)
from probes.inquiry.words import LabelWeights

LN2 = math.log(2)
quickly = settings(deadline=None, max_examples=50)
seeds = st.integers(0, 10_000)

HALVES = torch.tensor([[1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 1.0]], dtype=torch.float64)
"""P(answer | label) of a question that halves four labels."""
USELESS = torch.full((2, 4), 0.5, dtype=torch.float64)
EVEN = torch.full((4,), 0.25, dtype=torch.float64)


def random_task(seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """P(answer | question, label), what is believed now, and what Bayes' rule makes of it."""
    rng = np.random.default_rng(seed)
    questions, answers, labels = rng.integers(1, 6), rng.integers(2, 4), rng.integers(2, 9)
    table = torch.from_numpy(rng.dirichlet(np.ones(answers), (questions, labels)))
    now = torch.from_numpy(rng.dirichlet(np.ones(labels)))
    joint = answer_weights(table.mT, now)
    return table.mT, now, joint / joint.sum(-1, keepdim=True)


def as_look_ahead(sizes: list[int], inside: list[bool], labels: int) -> tuple[Tensor, Tensor]:
    """Sets of given sizes, one sampled label and answer each, in its set or not."""
    sets = torch.zeros(1, len(sizes), labels, dtype=torch.bool)
    weights = torch.zeros(1, len(sizes), labels, dtype=torch.float64)
    for answer, (size, held) in enumerate(zip(sizes, inside, strict=True)):
        sets[0, answer, :size] = True
        weights[0, answer, 0 if held else size] = 1 / len(sizes)
    return sets, weights


# -- weights -------------------------------------------------------------------------------------


@given(seed=seeds, labels=st.sampled_from(["posterior", "uniform"]))
@quickly
def test_weights_of_a_question_sum_to_one(seed: int, labels: LabelWeights) -> None:
    answers, now, _ = random_task(seed)
    total = answer_weights(answers, now, labels).sum((-2, -1))
    torch.testing.assert_close(total, torch.ones_like(total))


def test_uniform_weights_let_any_label_answer() -> None:
    now = torch.tensor([1.0, 0.0, 0.0, 0.0], dtype=torch.float64)
    assert answer_weights(HALVES[None], now).sum(-1).tolist() == [[1.0, 0.0]]
    assert answer_weights(HALVES[None], now, "uniform").sum(-1).tolist() == [[0.5, 0.5]]


# -- size, entropy, gain -------------------------------------------------------------------------


def test_expected_size_weighs_each_answer_by_how_often_it_comes() -> None:
    sets = torch.tensor([[[True, False, False, False], [False, True, True, True]]])
    answers = torch.tensor([[[1.0, 0, 0, 0], [0, 1.0, 1.0, 1.0]]], dtype=torch.float64)
    assert expected_size(sets, answer_weights(answers, EVEN)).tolist() == [0.25 * 1 + 0.75 * 3]


def test_a_halving_question_gains_one_bit_and_a_useless_one_nothing() -> None:
    answers = torch.stack([HALVES, USELESS])
    weights = answer_weights(answers, EVEN)
    after = torch.stack([HALVES / 2, EVEN.expand(2, 4)])
    assert expected_entropy(after, weights).tolist() == pytest.approx([LN2, 2 * LN2])
    assert information_gain(after, weights).tolist() == pytest.approx([LN2, 0.0], abs=1e-12)


@given(seed=seeds)
@quickly
def test_the_gain_of_a_bayesian_is_the_entropy_it_expects_to_lose(seed: int) -> None:
    answers, now, after = random_task(seed)
    weights = answer_weights(answers, now)
    entropy = -(now * now.log()).sum()
    torch.testing.assert_close(
        information_gain(after, weights), (entropy - expected_entropy(after, weights)).clamp_min(0)
    )


@given(seed=seeds)
@quickly
def test_the_gain_of_any_predictor_is_at_least_zero(seed: int) -> None:
    answers, now, after = random_task(seed)
    shuffled = after.flip(-1)
    weights = answer_weights(answers, now, "uniform")
    assert float(information_gain(shuffled, weights).min()) >= 0
    same = after[:, :1].expand_as(after)
    assert float(information_gain(same, weights).max()) < 1e-12


@given(seed=seeds, data=st.data())
@quickly
def test_no_expectation_depends_on_the_order_of_labels_or_answers(
    seed: int, data: st.DataObject
) -> None:
    answers, now, after = random_task(seed)
    weights, sets = answer_weights(answers, now), after > 0.2
    labels = data.draw(st.permutations(range(after.shape[2])))
    places = data.draw(st.permutations(range(after.shape[1])))

    def moved(x: Tensor) -> Tensor:
        return x[:, places][:, :, labels]

    for function, x in [
        (expected_size, sets),
        (expected_entropy, after),
        (information_gain, after),
    ]:
        torch.testing.assert_close(function(moved(x), moved(weights)), function(x, weights))
    torch.testing.assert_close(
        entropy_bound(moved(sets), moved(weights), 0.9, 50), entropy_bound(sets, weights, 0.9, 50)
    )


# -- the bound -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("num_samples", "bits"), [(4, 2.711075), (100, 2.394244)])
def test_the_bound_has_its_golden_value(num_samples: int, bits: float) -> None:
    sets, weights = as_look_ahead([2, 4, 4, 3], [True, True, True, False], labels=20)
    bound = entropy_bound(sets, weights, 0.9, num_samples)
    assert bound.item() / LN2 == pytest.approx(bits, abs=1e-6)


def test_a_case_that_does_not_occur_adds_nothing_to_the_bound() -> None:
    binary = -0.1 * math.log(0.1) - 0.9 * math.log(0.9)
    always, weights = as_look_ahead([1, 1], [True, True], labels=5)
    assert entropy_bound(always, weights, 0.9, 99).item() == pytest.approx(binary)
    never, weights = as_look_ahead([4, 4], [False, False], labels=5)
    assert entropy_bound(never, weights, 0.9, 99).item() == pytest.approx(binary)


def test_full_and_empty_sets_have_a_finite_bound() -> None:
    sets, weights = as_look_ahead([5, 0], [True, False], labels=5)
    bound = entropy_bound(sets, weights, 0.5, 99).item()
    assert bound == pytest.approx(LN2 + 0.5 * math.log(5) + 0.51 * math.log(5))


@given(seed=seeds, percent=st.integers(1, 99))
@quickly
def test_the_bound_is_never_below_the_entropy_of_its_own_miscoverage(
    seed: int, percent: int
) -> None:
    answers, now, after = random_task(seed)
    level = percent / 100
    bound = entropy_bound(after > 0.2, answer_weights(answers, now), level, 50)
    assert float(bound.min()) >= -level * math.log(level) - (1 - level) * math.log(1 - level)
