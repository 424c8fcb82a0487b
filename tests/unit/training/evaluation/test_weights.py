"""A made-up model whose laws have a known accuracy, sampled and weighted."""

from typing import Any, NamedTuple

import numpy as np
import pytest

from training.common.server_pool import RolloutRecord
from training.evaluation.arms import EvaluationArm, Json
from training.evaluation.weights import law_temperatures, read_tokens, weigh

VOCABULARY, LENGTH, QUESTIONS, SAMPLES, SHOWN = 40, 3, 250, 2, 20
BASE = 0.7
STEADY: Json = {"temperature": {"type": "entropy_target", "entropy_target": 1.0}}
DYNAMIC: Json = {"temperature": {"type": "dynatemp", "range": 0.5}}
STEER: Json = {"steering": [{"vector": "v"}]}
PLAIN = "T = 0.7"
ARMS = {
    name: EvaluationArm(name, "profile", None, name, control)
    for name, control in {PLAIN: {}, "steady": STEADY, "dynamic": DYNAMIC, "push": STEER}.items()
}


class Place(NamedTuple):
    """The distribution of a token at temperature 1."""

    logprob: np.ndarray

    @classmethod
    def of(cls, question: int, before: int) -> "Place":
        logits = np.random.default_rng((question, before)).normal(0.0, 2.0, VOCABULARY)
        return cls(logits - np.logaddexp.reduce(logits))

    def at(self, temperature: float) -> np.ndarray:
        powers = self.logprob / temperature
        return np.asarray(np.exp(powers - np.logaddexp.reduce(powers)))

    def entropy(self, temperature: float = 1.0) -> float:
        share = self.at(temperature)
        return float(-(share * np.log(np.maximum(share, 1e-300))).sum())

    def temperature(self, arm: str) -> float:
        if arm == "dynamic":
            return 0.2 + self.entropy() / float(np.log(VOCABULARY))
        if arm == "steady" and self.entropy(BASE) > 1.0:
            grid = np.geomspace(0.1, BASE, 40)
            return float(np.interp(1.0, [self.entropy(one) for one in grid], grid))
        return BASE


def answer(arm: str, question: int, seed: int) -> RolloutRecord:
    draw, before = np.random.default_rng((question, seed, ord(arm[0]))), VOCABULARY
    columns: dict[str, list[Any]] = {key: [] for key in ("h", "t", "p", "top")}
    text = []
    for _ in range(LENGTH):
        place = Place.of(question, before)
        temperature = place.temperature(arm)
        before = int(draw.choice(VOCABULARY, p=place.at(temperature)))
        shown = {before, *np.argsort(-place.logprob)[:SHOWN].tolist()}
        columns["h"].append(place.entropy())
        columns["t"].append(temperature)
        columns["p"].append(float(place.logprob[before]))
        columns["top"].append([float(place.logprob[one]) for one in shown])
        text.append(str(before))
    return RolloutRecord(
        number=0,
        messages=[],
        seed=seed,
        text=" ".join(text),
        finish_reason="stop",
        entropies=columns["h"],
        temperatures=columns["t"],
        logprobs=columns["p"],
        top_logprobs=columns["top"],
    )


def is_right(question: int, record: RolloutRecord) -> float:
    first = Place.of(question, VOCABULARY).logprob
    return float(int(record.text.split()[0]) in np.argsort(-first)[:2])


def truth(arm: str) -> float:
    """Accuracy of an arm: the first token decides."""
    shares = []
    for question in range(QUESTIONS):
        place = Place.of(question, VOCABULARY)
        right = np.argsort(-place.logprob)[:2]
        shares.append(place.at(place.temperature(arm))[right].sum())
    return float(np.mean(shares))


@pytest.fixture(scope="module")
def records() -> dict[str, list[list[RolloutRecord]]]:
    return {
        name: [[answer(name, q, seed) for seed in range(SAMPLES)] for q in range(QUESTIONS)]
        for name in ARMS
    }


@pytest.fixture(scope="module")
def right(records: dict[str, list[list[RolloutRecord]]]) -> dict[str, np.ndarray]:
    return {
        name: np.array([[is_right(q, one) for one in row] for q, row in enumerate(rows)])
        for name, rows in records.items()
    }


def test_weights_find_the_true_difference_with_a_narrower_interval_than_counts(
    records: dict[str, list[list[RolloutRecord]]], right: dict[str, np.ndarray]
) -> None:
    found = weigh(ARMS, PLAIN, BASE, records, right)
    assert sorted(found) == ["dynamic", "steady"]  # a vector has no weights
    for name, gains in found.items():
        counted = right[name].mean(1) - right[PLAIN].mean(1)
        error = gains.std() / np.sqrt(QUESTIONS)
        assert abs(gains.mean() - (truth(name) - truth(PLAIN))) < 3 * error
        assert gains.std() < 0.6 * counted.std()
    assert abs(truth("dynamic") - truth(PLAIN)) > 0.02  # there is something to find


def test_a_law_that_changes_nothing_differs_by_nothing(
    records: dict[str, list[list[RolloutRecord]]], right: dict[str, np.ndarray]
) -> None:
    idle: Json = {"temperature": {"type": "entropy_target", "entropy_target": 15.0}}
    arms = {**ARMS, "steady": EvaluationArm("steady", "profile", None, "steady", idle)}
    gains = weigh(arms, PLAIN, BASE, records, right)["steady"]
    assert np.abs(gains).max() < 1e-12


def test_the_temperatures_of_a_law_are_those_that_it_applied(
    records: dict[str, list[list[RolloutRecord]]],
) -> None:
    rows = [one for name in ("steady", "dynamic", PLAIN) for row in records[name] for one in row]
    tokens = read_tokens(rows)
    source = tokens.answer // (QUESTIONS * SAMPLES)
    for number, control in enumerate((STEADY, DYNAMIC)):
        found = law_temperatures(control, BASE, tokens, source == number)
        assert found is not None
        own = source == number
        assert np.abs(found - tokens.temperature)[own].max() < 0.02  # half of the tokens are shown


def test_a_question_with_an_answer_that_was_not_measured_in_full_is_left_out(
    records: dict[str, list[list[RolloutRecord]]], right: dict[str, np.ndarray]
) -> None:
    broken = records[PLAIN][3][1].model_copy(update={"entropies": [1.0, None, 1.0]})
    row = [records[PLAIN][3][0], broken]
    changed = {**records, PLAIN: [*records[PLAIN][:3], row, *records[PLAIN][4:]]}
    whole = weigh(ARMS, PLAIN, BASE, records, right)["dynamic"]
    assert len(weigh(ARMS, PLAIN, BASE, changed, right)["dynamic"]) == len(whole) - 1


@pytest.mark.parametrize(
    "control",
    [
        STEER,
        {"temperature": {"thinking": {"type": "edt"}, "answer": {"type": "edt"}}},
        {"temperature": {"type": "shuffled", "temperatures": [0.5]}},
        {"temperature": {"type": "edt"}, "steering": []},
    ],
)
def test_what_is_no_law_of_the_entropy_alone_has_no_temperatures(
    control: Json, records: dict[str, list[list[RolloutRecord]]]
) -> None:
    tokens = read_tokens(records[PLAIN][0])
    assert law_temperatures(control, BASE, tokens, np.ones(len(tokens.answer), bool)) is None
