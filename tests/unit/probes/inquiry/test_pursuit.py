import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from probes.conformal import Calibration, EmptySets
from probes.inquiry.likelihood import known_answers, posterior, posteriors_after
from probes.inquiry.lookahead import answer_weights
from probes.inquiry.pursuit import (
    MIN_GAIN,
    Selection,
    fresh_questions,
    label_probabilities,
    select_question,
    stop_reason,
)
from probes.inquiry.words import Policy, StopReason

quickly = settings(deadline=None, max_examples=30)
seeds = st.integers(0, 10_000)
POLICIES: list[Policy] = ["set_size", "entropy_bound", "entropy", "random"]
all_policies = pytest.mark.parametrize("policy", POLICIES)


def calibration(probability: float, level: float = 0.9) -> Calibration:
    """LAC sets of the labels at least this probable, at any length."""
    return Calibration(torch.tensor([-probability], dtype=torch.float64), 100, level, "lac")


def by_table(
    table: Tensor, now: Tensor, policy: Policy, limit: float, empty: EmptySets = "full"
) -> Selection:
    """Choose by exact answers, each of which is wrong once in a hundred."""
    logprobs = known_answers(table, 0.01)
    weights = answer_weights(logprobs.exp(), now)
    after = posteriors_after(logprobs, now)
    return select_question(policy, after, weights, calibration(limit), 1, empty=empty)


def random_table(seed: int, labels: int = 20, questions: int = 85) -> Tensor:
    """Answers of random labels, no two alike."""
    rng = np.random.default_rng(seed)
    table = rng.integers(0, 2, (labels, questions))
    assert len(np.unique(table, axis=0)) == labels
    return torch.from_numpy(table).double()


def uniform(labels: int) -> Tensor:
    return torch.full((labels,), 1 / labels, dtype=torch.float64)


# -- choosing ------------------------------------------------------------------------------------

# Question 1 halves four labels, question 0 asks for the first, question 2 is like question 1.
SPLITS = torch.tensor([[1.0, 1, 1], [0, 1, 1], [0, 0, 0], [0, 0, 0]], dtype=torch.float64)


@pytest.mark.parametrize("policy", ["set_size", "entropy_bound", "entropy"])
def test_the_question_that_halves_the_labels_wins_and_its_double_is_second(policy: Policy) -> None:
    got = by_table(SPLITS, uniform(4), policy, limit=0.1)
    assert (got.chosen, got.runner_up) == (1, 2)
    assert got.expected_size.tolist() == pytest.approx([0.255 * 1 + 0.745 * 3, 2, 2])
    assert int(got.gain.argmax()) in (1, 2)


def test_equal_sizes_are_told_apart_by_the_entropy() -> None:
    now = uniform(4)
    got = by_table(SPLITS, now, "set_size", limit=0.0)  # all sets are full
    assert got.expected_size.tolist() == pytest.approx([4, 4, 4])
    assert got.chosen == 1


def test_plain_pursuit_and_set_size_may_disagree() -> None:
    after = torch.tensor([[[0.5, 0.5, 0.0]] * 2, [[0.8, 0.1, 0.1]] * 2], dtype=torch.float64)
    weights = torch.full((2, 2, 3), 1 / 6, dtype=torch.float64)
    by_size = select_question("set_size", after, weights, calibration(0.1), 1)
    by_entropy = select_question("entropy", after, weights, calibration(0.1), 1)
    assert (by_size.chosen, by_entropy.chosen) == (0, 1)


@pytest.mark.parametrize(("tolerance", "chosen"), [(0.0, 0), (0.2, 0), (0.6, 1)])
def test_what_is_almost_as_small_may_tie_and_the_entropy_decides(
    tolerance: float, chosen: int
) -> None:
    after = torch.tensor([[[0.5, 0.5, 0.0]] * 2, [[0.8, 0.1, 0.1]] * 2], dtype=torch.float64)
    weights = torch.full((2, 2, 3), 1 / 6, dtype=torch.float64)  # sets of two and of three labels
    got = select_question("set_size", after, weights, calibration(0.1), 1, tolerance=tolerance)
    assert got.chosen == chosen
    assert got.runner_up == 1 - chosen


@pytest.mark.parametrize(
    ("policy", "empty", "chosen"),
    [
        ("set_size", "raw", 0),
        ("entropy_bound", "raw", 0),
        ("set_size", "full", 1),
        ("entropy_bound", "full", 1),
        ("entropy", "raw", 1),
    ],
)
def test_an_empty_set_attracts_only_the_raw_rules(
    policy: Policy, empty: EmptySets, chosen: int
) -> None:
    # Question 0 says nothing and leaves the labels flat below the threshold; question 1 halves.
    table = torch.tensor([[math.nan, 1.0]] * 2 + [[math.nan, 0.0]] * 2)
    assert by_table(table, uniform(4), policy, 0.3, empty).chosen == chosen


@pytest.mark.parametrize("policy", ["set_size", "entropy_bound", "entropy"])
@given(seed=seeds)
@quickly
def test_the_choice_moves_with_the_order_of_the_questions(policy: Policy, seed: int) -> None:
    rng = np.random.default_rng(seed)
    after = torch.from_numpy(rng.dirichlet(np.ones(6), (5, 2)))
    weights = torch.from_numpy(rng.dirichlet(np.ones(12), 5)).view(5, 2, 6)
    order = torch.from_numpy(rng.permutation(5))
    before = select_question(policy, after, weights, calibration(0.2), 1)
    moved = select_question(policy, after[order], weights[order], calibration(0.2), 1)
    assert order[moved.chosen] == before.chosen


@all_policies
@given(seed=seeds)
@quickly
def test_the_choice_does_not_depend_on_the_order_of_the_labels(policy: Policy, seed: int) -> None:
    rng = np.random.default_rng(seed)
    table, now = random_table(seed, 8, 40), torch.from_numpy(rng.dirichlet(np.ones(8)))
    order = torch.from_numpy(rng.permutation(8))
    before, after = (
        by_table(t, n, policy, 0.1) for t, n in [(table, now), (table[order], now[order])]
    )
    assert (after.chosen, after.runner_up) == (before.chosen, before.runner_up)


@all_policies
@given(seed=seeds)
@quickly
def test_the_runner_up_is_what_would_be_asked_without_the_chosen_one(
    policy: Policy, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    after = torch.from_numpy(rng.dirichlet(np.ones(6), (5, 2)))
    weights = torch.from_numpy(rng.dirichlet(np.ones(12), 5)).view(5, 2, 6)
    both = select_question(policy, after, weights, calibration(0.2), 1)
    assert both.runner_up is not None
    assert both.runner_up != both.chosen
    if policy != "random":
        left = [q for q in range(5) if q != both.chosen]
        alone = select_question(policy, after[left], weights[left], calibration(0.2), 1)
        assert left[alone.chosen] == both.runner_up


def test_random_questions_depend_on_the_seed_alone() -> None:
    after, weights = torch.full((50, 2, 2), 0.5), torch.full((50, 2, 2), 0.25)
    drawn = [
        select_question("random", after, weights, calibration(0.5), 1, seed=seed).chosen
        for seed in [*range(40), *range(40)]
    ]
    assert drawn[:40] == drawn[40:]
    assert len(set(drawn)) > 15


@all_policies
def test_a_single_candidate_has_no_runner_up(policy: Policy) -> None:
    got = by_table(SPLITS[:, :1], uniform(4), policy, 0.1)
    assert (got.chosen, got.runner_up) == (0, None)


def test_sets_use_the_threshold_of_the_length_after_the_answer() -> None:
    thresholds = torch.tensor([-1.0, -0.3, 0.0], dtype=torch.float64)
    by_length = Calibration(thresholds, 100, 0.9, "lac")
    after = torch.tensor([[[0.6, 0.3, 0.1]] * 2], dtype=torch.float64)
    weights = torch.full((1, 2, 3), 1 / 6, dtype=torch.float64)
    sizes = [
        select_question("set_size", after, weights, by_length, k).expected_size.item()
        for k in (1, 2, 3)
    ]
    assert sizes == pytest.approx([2, 3, 3])


def test_no_candidates_and_broken_probabilities_are_refused() -> None:
    good = torch.full((2, 2, 2), 0.25, dtype=torch.float64)
    with pytest.raises(ValueError, match="no question"):
        select_question("entropy", good[:0], good[:0], calibration(0.5), 1)
    bad = good.clone()
    bad[1, 0, 0] = math.nan
    for after, weights in [(bad, good), (good, bad)]:
        with pytest.raises(ValueError, match="not a finite number"):
            select_question("entropy", after, weights, calibration(0.5), 1)


# -- whole games ---------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["set_size", "entropy_bound", "entropy"])
@pytest.mark.parametrize("seed", range(3))
def test_every_label_of_an_exact_table_is_found_in_six_questions(policy: Policy, seed: int) -> None:
    table = random_table(seed)
    logprobs = known_answers(table)
    num_questions = []
    for label in range(len(table)):
        history: list[tuple[int, int]] = []
        now = posterior(logprobs, history)
        while int((now > 0).sum()) > 1:
            left = [q for q in range(table.shape[1]) if q not in dict(history)]
            weights = answer_weights(logprobs[left].exp(), now)
            after = posteriors_after(logprobs[left], now)
            got = select_question(policy, after, weights, calibration(1e-9), len(history) + 1)
            question = left[got.chosen]
            history.append((question, int(1 - table[label, question])))
            now = posterior(logprobs, history)
        assert int(now.argmax()) == label
        num_questions.append(len(history))
    assert max(num_questions) <= 6
    assert math.log2(20) <= np.mean(num_questions) <= 4.6  # no tree does better than log2


# -- stopping ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "gains", "asked", "reason"),
    [
        (1, [0.5], 0, "singleton"),
        (1, [], 9, "singleton"),
        (3, [0.5], 5, "budget"),
        (3, [0.5], 6, "budget"),
        (3, [], 2, "exhausted"),
        (3, [0.0, MIN_GAIN], 2, "no_gain"),
        (3, [0.0, 0.1], 2, None),
        (3, [0.5, 0.5], 2, None),  # equally good is no reason to stop
        (0, [0.5], 2, None),
        (20, [0.5], 0, None),
    ],
)
def test_when_to_stop(size: int, gains: list[float], asked: int, reason: StopReason | None) -> None:
    left = torch.tensor(gains, dtype=torch.float64)
    assert stop_reason(size, left, asked, budget=5) == reason


def test_labels_that_no_question_tells_apart_stop_the_game() -> None:
    table = torch.tensor([[1.0, 0], [1, 0], [0, 1]], dtype=torch.float64)
    logprobs = known_answers(table)
    now = posterior(logprobs, [(0, 0)])
    weights = answer_weights(logprobs[1:].exp(), now)
    got = select_question(
        "set_size", posteriors_after(logprobs[1:], now), weights, calibration(0.1), 2
    )
    assert stop_reason(2, got.gain, 1, budget=9) == "no_gain"


# -- predictions and wordings --------------------------------------------------------------------


def test_label_probabilities_leave_masked_labels_out() -> None:
    logits = torch.tensor([[0.0, math.log(3), -math.inf], [math.nan, 1.0, -math.inf]])
    assert label_probabilities(logits)[0].tolist() == pytest.approx([0.25, 0.75, 0.0])
    assert label_probabilities(logits)[1].tolist() == [0.0, 1.0, 0.0]


@pytest.mark.parametrize("masked", [-math.inf, math.nan])
def test_a_prediction_without_any_label_is_refused(masked: float) -> None:
    with pytest.raises(ValueError, match="no label has a finite logit"):
        label_probabilities(torch.tensor([[0.0, 1.0], [masked, masked]]))


def test_a_question_is_new_when_its_wording_is() -> None:
    proposed = ["Does it fly?", "does it  FLY", "Is it big?", "Is it big ?!", "", "?", "Ça vole ?"]
    assert fresh_questions(proposed, ["is it BIG"]) == [0, 6]
    assert fresh_questions(proposed, []) == [0, 2, 6]
    assert fresh_questions([], ["a"]) == []


@given(texts=st.lists(st.text(max_size=5), max_size=6))
@quickly
def test_nothing_is_proposed_twice(texts: list[str]) -> None:
    fresh = fresh_questions(texts, [])
    again = [texts[i] for i in fresh]
    assert fresh_questions(again, []) == list(range(len(again)))
    assert fresh_questions(again, texts) == []
