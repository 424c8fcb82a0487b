import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from torch import Tensor

from probes.inquiry.likelihood import (
    NO,
    UNKNOWN,
    YES,
    AnswerModel,
    answer_logprobs,
    center,
    fit_answers,
    known_answers,
    new_answer_logprobs,
    posterior,
    posteriors_after,
)

quickly = settings(deadline=None, max_examples=30)
seeds = st.integers(0, 10_000)
LN2 = math.log(2)


def planted(seed: int, labels: int, questions: int, slope: float) -> tuple[Tensor, Tensor]:
    """Log-likelihoods and the answers that a logistic law with this slope draws from them."""
    rng = np.random.default_rng(seed)
    wording = rng.normal(-40, 10, questions)  # some statements are longer than others
    table = torch.from_numpy(wording + rng.normal(0, 2, (labels, questions)))
    truth = torch.from_numpy(rng.random((labels, questions))) < (slope * center(table)).sigmoid()
    return table, truth.double()


# -- the table -----------------------------------------------------------------------------------


@given(seed=seeds, shift=st.floats(-50, 50))
@quickly
def test_how_likely_the_wording_is_drops_out(seed: int, shift: float) -> None:
    table, answers = planted(seed, 10, 4, slope=0.5)
    torch.testing.assert_close(center(table + shift), center(table))
    assert float(center(table).mean(0).abs().max()) < 1e-12
    before, after = fit_answers(table, answers), fit_answers(table + shift, answers)
    torch.testing.assert_close(after, before)


@given(seed=seeds, shift=st.floats(10, 50))
@quickly
def test_how_readily_anything_follows_a_label_drops_out(seed: int, shift: float) -> None:
    table, _ = planted(seed, 10, 40, slope=0.5)
    louder = table.clone()
    louder[3] += shift
    assert float((center(louder) - center(table))[3].mean()) == pytest.approx(0, abs=shift / 10)


def test_labels_that_differ_no_more_than_by_chance_are_left_alone() -> None:
    table, _ = planted(0, 10, 40, slope=0.5)
    centered = table - table.mean(0)
    removed = (centered - center(table)).abs().max()
    assert float(removed) < float(centered.mean(1).abs().max())
    one = table[:, :1]
    torch.testing.assert_close(center(one), one - one.mean(0))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_log_likelihood_that_is_not_finite_is_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="not a finite number"):
        center(torch.tensor([[0.0, 1.0], [bad, 2.0]]))


# -- learning what it means ----------------------------------------------------------------------


def test_a_planted_law_is_found_again() -> None:
    table, answers = planted(0, 3000, 3, slope=0.7)
    model = fit_answers(table, answers)
    assert model.slope.tolist() == pytest.approx([0.7] * 3, abs=0.06)
    assert model.bias.tolist() == pytest.approx([0.0] * 3, abs=0.15)


def test_a_question_that_was_not_fitted_follows_the_law_of_all() -> None:
    table, answers = planted(3, 400, 9, slope=0.7)
    model = fit_answers(table[:, :8], answers[:, :8])
    fresh = new_answer_logprobs(table[:, 8:], table[:, :8], model)
    assert fresh.shape == (1, 2, 400)
    torch.testing.assert_close(fresh.exp().sum(1), torch.ones(1, 400, dtype=torch.float64))
    fitted = answer_logprobs(table, fit_answers(table, answers))[8]
    assert float((fresh[0].exp() - fitted.exp()).abs().mean()) < 0.05
    with pytest.raises(ValueError, match="not a finite number"):
        new_answer_logprobs(torch.full((400, 1), math.nan), table, model)


def test_a_fit_is_the_minimum_of_its_objective() -> None:
    table, answers = planted(1, 16, 1, slope=0.5)
    known = np.arange(16) < 12
    answers[12:] = math.nan  # not used, but their log-likelihoods still count for the mean
    scaled = (center(table) / center(table).std(0, correction=0)).numpy()[:, 0]

    def cost(theta: np.ndarray, prior: float) -> float:
        logits = theta[0] * scaled + theta[1]
        loss = np.logaddexp(0, logits) - answers.numpy()[:, 0] * logits
        return float(loss[known].sum() + ((theta - [prior, 0]) ** 2).sum())  # ridge 2

    pooled = minimize(cost, [0, 0], 0.0).x[0]
    expected = minimize(cost, [0, 0], pooled).x
    model = fit_answers(table, answers, ridge=2.0)
    spread = center(table).std(correction=0).item()
    assert [model.slope.item() * spread, model.bias.item()] == pytest.approx(expected, abs=1e-5)


def test_a_question_without_known_answers_gets_what_fits_the_others() -> None:
    table, answers = planted(2, 200, 5, slope=0.6)
    answers[:, 0] = math.nan
    model = fit_answers(table, answers)
    assert model.slope[0].item() == pytest.approx(0.6, abs=0.1)
    assert model.bias[0].item() == 0.0


def test_a_rare_property_is_expected_to_be_absent() -> None:
    table, answers = planted(4, 40, 2, slope=0.0)
    answers[:, 0] = (torch.arange(40) < 4).double()
    assert fit_answers(table, answers).bias[0].item() < -1.0


def test_answers_that_separate_the_labels_have_a_finite_slope() -> None:
    table = torch.tensor([[-3.0], [-2.0], [2.0], [3.0]])
    model = fit_answers(table, (table > 0).double())
    assert 0 < model.slope.item() < 10


def test_a_question_that_is_the_same_for_all_labels_says_nothing() -> None:
    table, answers = planted(5, 20, 2, slope=0.5)
    table[:, 0] = -7.0
    logprobs = answer_logprobs(table, fit_answers(table, answers))
    assert float(logprobs[0, YES].std()) == 0.0
    after = posterior(logprobs, [(0, YES)])
    assert after.tolist() == pytest.approx([1 / 20] * 20)


@pytest.mark.parametrize("bad", [2.0, -1.0, 0.5, math.inf])
def test_an_answer_that_is_none_is_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="1, 0 or NaN"):
        fit_answers(torch.zeros(2, 1), torch.tensor([[1.0], [bad]]))


# -- Bayes' rule ---------------------------------------------------------------------------------


def test_answers_of_a_known_model() -> None:
    table = torch.tensor([[1.0, -5.0], [-1.0, -5.0]])
    model = AnswerModel(
        torch.tensor([math.log(3), 1.0]), torch.tensor([0.0, math.log(4)]), torch.zeros(2)
    )
    yes = answer_logprobs(table, model)[:, YES].exp()
    assert yes[0].tolist() == pytest.approx([0.75, 0.25])
    assert yes[1].tolist() == pytest.approx([0.8, 0.8])


@given(seed=seeds)
@quickly
def test_the_answers_of_a_label_sum_to_one(seed: int) -> None:
    table, answers = planted(seed, 10, 4, slope=0.5)
    for logprobs in (
        answer_logprobs(table, fit_answers(table, answers)),
        known_answers(answers, 0.1),
    ):
        torch.testing.assert_close(logprobs.exp().sum(1), torch.ones(4, 10, dtype=torch.float64))


def test_known_answers_may_be_flipped_or_open() -> None:
    answers = torch.tensor([[1.0], [0.0], [math.nan]])
    assert known_answers(answers).exp().tolist() == [[[1.0, 0.0, 0.5], [0.0, 1.0, 0.5]]]
    assert known_answers(answers, 0.2)[0, YES].exp().tolist() == pytest.approx([0.8, 0.2, 0.5])


def test_a_posterior_is_prior_times_evidence() -> None:
    logprobs = known_answers(torch.tensor([[1.0, 1.0], [0.0, 1.0], [0.0, 0.0]]), 0.25)
    got = posterior(logprobs, [(0, YES), (1, NO)], torch.tensor([0.5, 0.25, 0.25]))
    weights = [0.5 * 0.75 * 0.25, 0.25 * 0.25 * 0.25, 0.25 * 0.25 * 0.75]
    assert got.tolist() == pytest.approx([w / sum(weights) for w in weights])


@given(seed=seeds, data=st.data())
@quickly
def test_the_order_of_a_history_does_not_matter(seed: int, data: st.DataObject) -> None:
    _, answers = planted(seed, 6, 5, slope=0.5)
    logprobs = known_answers(answers, 0.1)
    replies = data.draw(st.lists(st.sampled_from([YES, NO, UNKNOWN]), min_size=5, max_size=5))
    history = list(enumerate(replies))
    shuffled = data.draw(st.permutations(history))
    assert torch.equal(posterior(logprobs, shuffled), posterior(logprobs, history))


@given(seed=seeds, data=st.data())
@quickly
def test_one_more_answer_is_one_more_step(seed: int, data: st.DataObject) -> None:
    _, answers = planted(seed, 6, 5, slope=0.5)
    logprobs = known_answers(answers, data.draw(st.sampled_from([0.05, 0.3])))
    history = [(q, data.draw(st.sampled_from([YES, NO]))) for q in range(4)]
    after = posteriors_after(logprobs, posterior(logprobs, history))
    for answer in (YES, NO):
        torch.testing.assert_close(after[4, answer], posterior(logprobs, [*history, (4, answer)]))


def test_an_unknown_answer_says_nothing() -> None:
    logprobs = known_answers(torch.eye(3, dtype=torch.float64), 0.1)
    assert posterior(logprobs, []).tolist() == pytest.approx([1 / 3] * 3)
    assert posterior(logprobs, [(0, UNKNOWN)]).tolist() == pytest.approx([1 / 3] * 3)
    heard = posterior(logprobs, [(0, YES)])
    assert torch.equal(posterior(logprobs, [(0, YES), (1, UNKNOWN), (0, UNKNOWN)]), heard)


def test_an_answer_said_twice_counts_once_and_the_last_of_two_counts() -> None:
    logprobs = known_answers(torch.eye(3, dtype=torch.float64), 0.1)
    assert torch.equal(posterior(logprobs, [(0, NO), (0, NO)]), posterior(logprobs, [(0, NO)]))
    assert torch.equal(posterior(logprobs, [(0, YES), (0, NO)]), posterior(logprobs, [(0, NO)]))


def test_answers_that_no_label_gives_leave_what_was_believed() -> None:
    logprobs = known_answers(torch.tensor([[1.0, 0.0], [1.0, 1.0]]))
    prior = torch.tensor([0.3, 0.7], dtype=torch.float64)
    assert torch.equal(posterior(logprobs, [(0, NO)], prior), prior)
    assert torch.equal(posteriors_after(logprobs, prior)[0, NO], prior)
    assert posteriors_after(logprobs, prior)[1].tolist() == [[0.0, 1.0], [1.0, 0.0]]


def test_a_long_history_does_not_underflow() -> None:
    _, answers = planted(6, 20, 5000, slope=0.5)
    got = posterior(
        known_answers(answers, 0.01), [(q, int(1 - answers[3, q])) for q in range(5000)]
    )
    assert got[3].item() == pytest.approx(1.0)
    assert bool(got.isfinite().all())
