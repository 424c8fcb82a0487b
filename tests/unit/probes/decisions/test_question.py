import pytest
import torch

from probes.decisions.question import choice, labels, letters_prompt, orders, predicate, score
from probes.decisions.scores import OptionLogprobs, ReadSettings, features, probabilities


@pytest.mark.parametrize("size", [2, 3, 5, 26])
@pytest.mark.parametrize("count", [1, 2, 4, 8])
def test_orders_are_different_permutations_that_begin_with_the_given_one(
    size: int, count: int
) -> None:
    question = choice("?", [f"v{n}" for n in range(size)])
    found = orders(question, count)
    assert found[0] == list(range(size))
    assert all(sorted(order) == list(range(size)) for order in found)
    assert len({tuple(order) for order in found}) == len(found) <= count
    if count > 1:
        assert found[1] == found[0][::-1]


def test_every_option_has_its_own_label_and_its_line_under_every_order() -> None:
    question = choice("?", [f"v{n}" for n in range(255)])
    for order in orders(question, 4):
        shown = labels(question, order)
        assert len(set(shown)) == 255
        text = letters_prompt(question, order)
        assert all(f"\n{label}. v{n}\n" in text for n, label in enumerate(shown))


def test_words_and_numbers_stay_with_their_options() -> None:
    assert labels(predicate("?"), [1, 0]) == ["Yes", "No"]
    assert labels(score("?", ["low", "mid", "high"]), [2, 1, 0]) == ["0", "1", "2"]


def test_a_constant_position_bias_cancels_over_reversed_orders() -> None:
    truth = torch.tensor([2.0, 0.0, -1.0], dtype=torch.float64)
    bias = torch.tensor([3.0, 0.0, -3.0], dtype=torch.float64)  # of the first, middle, last place
    rows = [(truth + bias).tolist(), (truth + bias.flip(0)).tolist()]
    settings = ReadSettings(orders=2, prior=False)
    found = probabilities(features(OptionLogprobs(letters=rows), settings))
    assert torch.allclose(found, truth.softmax(-1))


def test_the_prior_removes_what_every_input_shares() -> None:
    truth = torch.tensor([1.0, -1.0], dtype=torch.float64)
    wording = torch.tensor([-5.0, -30.0], dtype=torch.float64)
    found = OptionLogprobs(statements=(truth + wording).tolist(), statements_prior=wording.tolist())
    evidence = features(found, ReadSettings(reads=("statements",)))
    assert torch.allclose(probabilities(evidence), truth.softmax(-1))


def test_impossible_tokens_are_the_least_likely_and_nan_is_unreadable() -> None:
    minus = float("-inf")
    found = OptionLogprobs(letters=[[minus, -1.0]])
    settings = ReadSettings(orders=1, prior=False)
    assert probabilities(features(found, settings)).tolist() == [0.0, 1.0]
    assert found.is_readable()
    assert not OptionLogprobs(letters=[[float("nan"), -1.0]]).is_readable()
