"""A made-up model whose laws have known temperatures, sampled."""

from typing import Any, NamedTuple

import numpy as np
import pytest

from training.common.server_pool import RolloutRecord
from training.evaluation.arms import Json
from training.evaluation.probabilities import (
    answer_logprobs,
    is_complete,
    law_temperatures,
    read_tokens,
    token_logprobs,
)

VOCABULARY, LENGTH, QUESTIONS, SAMPLES, SHOWN = 40, 3, 250, 2, 20
BASE = 0.7
STEADY: Json = {"temperature": {"type": "entropy_target", "entropy_target": 1.0}}
DYNAMIC: Json = {"temperature": {"type": "dynatemp", "range": 0.5}}
STEER: Json = {"steering": [{"vector": "v"}]}
PLAIN = "T = 0.7"
ARMS = (PLAIN, "steady", "dynamic")


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


@pytest.fixture(scope="module")
def records() -> dict[str, list[list[RolloutRecord]]]:
    return {
        name: [[answer(name, q, seed) for seed in range(SAMPLES)] for q in range(QUESTIONS)]
        for name in ARMS
    }


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


@pytest.mark.parametrize("temperature", [0.3, BASE, 1.0])
def test_twenty_of_forty_tokens_tell_the_probability_of_an_answer(
    temperature: float, records: dict[str, list[list[RolloutRecord]]]
) -> None:
    rows = records[PLAIN]
    tokens = read_tokens([one for row in rows for one in row])
    each = token_logprobs(tokens, np.full(len(tokens.entropy), temperature))
    found = answer_logprobs(each, tokens, (QUESTIONS, SAMPLES))
    for question, row in enumerate(rows):
        for sample, one in enumerate(row):
            drawn = list(map(int, one.text.split()))
            before = [VOCABULARY, *drawn]
            truth = sum(
                float(np.log(Place.of(question, last).at(temperature)[token]))
                for last, token in zip(before[:LENGTH], drawn, strict=True)
            )
            assert found[question, sample] == pytest.approx(truth, abs=0.02)


def test_an_answer_with_a_token_that_was_not_measured_is_not_complete(
    records: dict[str, list[list[RolloutRecord]]],
) -> None:
    one = records[PLAIN][3][1]
    assert is_complete(one)
    for broken in (
        {"entropies": [1.0, None, 1.0]},
        {"temperatures": [0.7, 0.7, None]},
        {"logprobs": None},
        {"top_logprobs": None},
    ):
        assert not is_complete(one.model_copy(update=broken))


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
