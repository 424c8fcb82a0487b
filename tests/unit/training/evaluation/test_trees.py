"""Answer trees of a made-up model so small that every answer can be listed."""

from functools import cache
from itertools import product

import numpy as np
import pytest
from scipy.optimize import brentq

from tests.unit.training.evaluation.worlds import made_up
from training.common.server_pool import RolloutRecord, Sampling
from training.evaluation.arms import EvaluationArm, Json, fixed_name, shuffled_law
from training.evaluation.laws import TREE, by_trees, tree_figures
from training.evaluation.trees import TreeAnswers, measure_trees, tree_accuracy

VOCABULARY, LENGTH, BASE = 4, 2, 1.0
LEAVES = list(product(range(VOCABULARY), repeat=LENGTH))
STEADY: Json = {"temperature": {"type": "entropy_target", "entropy_target": 1.0}}
HISTOGRAM = [0.5, 0.5, 0.8, 1.2]
PLAIN = fixed_name(BASE)


def fixed(temperature: float) -> EvaluationArm:
    return EvaluationArm(fixed_name(temperature), "fixed", Sampling(temperature))


DRAWN = [
    fixed(0.6),
    fixed(BASE),
    EvaluationArm("steady", "law", Sampling(BASE, 8, STEADY), "steady", STEADY),
]
SHUFFLED = Sampling(BASE, 8, {"temperature": shuffled_law(HISTOGRAM)})
COMPUTED = [
    EvaluationArm("steady: mean T", "mean", Sampling(0.75), "steady", STEADY),
    EvaluationArm("steady: shuffled T", "shuffled", SHUFFLED, "steady", STEADY),
]


@cache
def logprobs(question: int, before: tuple[int, ...]) -> np.ndarray:
    """Of the next token at temperature 1."""
    logits = np.random.default_rng((question, 7, *before)).normal(0.0, 1.2, VOCABULARY)
    return np.asarray(logits - np.logaddexp.reduce(logits))


def at(row: np.ndarray, temperature: float) -> np.ndarray:
    powers = np.exp(row / temperature)
    return np.asarray(powers / powers.sum())


def entropy(share: np.ndarray) -> float:
    return float(-(share * np.log(share)).sum())


@cache
def cooled(question: int, before: tuple[int, ...]) -> float:
    """The temperature of `steady`."""
    row = logprobs(question, before)
    for limit in (BASE, 0.1):
        if (entropy(at(row, limit)) <= 1.0) == (limit == BASE):
            return limit
    return float(brentq(lambda one: entropy(at(row, one)) - 1.0, 0.1, BASE))


def temperature_of(arm: EvaluationArm, question: int, before: tuple[int, ...]) -> float:
    assert arm.sampling is not None
    if arm.kind == "law":
        return cooled(question, before)
    assert arm.sampling.temperature is not None
    return arm.sampling.temperature


def answer(arm: EvaluationArm, question: int, seed: int) -> RolloutRecord:
    draw = np.random.default_rng((question, seed, len(arm.name)))
    tokens, rows, heat = tuple[int, ...](), [], []
    for _ in range(LENGTH):
        rows.append(logprobs(question, tokens))
        heat.append(temperature_of(arm, question, tokens))
        tokens += (int(draw.choice(VOCABULARY, p=at(rows[-1], heat[-1]))),)
    return RolloutRecord(
        number=0,
        messages=[],
        seed=seed,
        text=" ".join(map(str, tokens)),
        finish_reason="stop",
        entropies=[entropy(np.exp(row)) for row in rows],
        temperatures=list(heat),
        logprobs=[float(row[token]) for row, token in zip(rows, tokens, strict=True)],
        pieces=[f" {token}" for token in tokens],
        top_logprobs=[row.tolist() for row in rows],
    )


def is_right(text: str) -> float:
    return float(sum(map(int, text.split())) % 3 == 0)


def truth(arm: EvaluationArm, question: int) -> float:
    """The accuracy by listing all answers, at all orders of the temperatures."""
    heats = list(product(HISTOGRAM, repeat=LENGTH)) if arm.kind == "shuffled" else [None]
    total = 0.0
    for leaf, heat in product(LEAVES, heats):
        share = 1.0 / len(heats)
        for place, token in enumerate(leaf):
            before = leaf[:place]
            temperature = temperature_of(arm, question, before) if heat is None else heat[place]
            share *= at(logprobs(question, before), temperature)[token]
        total += share * is_right(" ".join(map(str, leaf)))
    return total


def trees(questions: int, samples: int) -> tuple[TreeAnswers, dict[str, np.ndarray]]:
    records = {
        arm.name: [[answer(arm, q, seed) for seed in range(samples)] for q in range(questions)]
        for arm in DRAWN
    }
    right = {
        name: np.array([[is_right(one.text) for one in row] for row in rows])
        for name, rows in records.items()
    }
    found = measure_trees([*DRAWN, *COMPUTED], PLAIN, BASE, records, right)
    assert found is not None
    return found, right


def test_the_accuracy_of_a_tree_with_all_answers_is_the_exact_one_of_every_arm() -> None:
    found, _ = trees(questions=4, samples=500)
    for arm in (*DRAWN, *COMPUTED):
        exact = [truth(arm, question) for question in range(4)]
        unseen = found.unseen[arm.name]
        assert np.sort(unseen)[1] < 1e-9  # all answers to two of the questions were drawn
        assert (np.abs(found.accuracy[arm.name] - exact) <= unseen + 1e-6).all()


@pytest.fixture(scope="module")
def small() -> tuple[TreeAnswers, dict[str, np.ndarray]]:
    return trees(questions=200, samples=3)


def test_few_answers_find_the_truth_within_their_error_and_agree_with_counts(
    small: tuple[TreeAnswers, dict[str, np.ndarray]],
) -> None:
    found, right = small
    answers = {name: made_up(column) for name, column in right.items()}
    figures = tree_figures(found, answers, seed=0)
    for arm in (*DRAWN, *COMPUTED):
        error = found.accuracy[arm.name] - [truth(arm, question) for question in range(200)]
        assert abs(error.mean()) < 3 * error.std() / np.sqrt(200)
        assert 0.02 < figures[arm.name].unseen < 0.5  # so that the missed part matters
        check = figures[arm.name].counted_minus_tree
        if arm in COMPUTED:
            assert check is None
        else:
            assert check is not None
            assert abs(check.value) < 1.6 * (check.high - check.low) / 2  # 3 standard errors


def test_a_law_is_compared_with_less_noise_than_by_counts(
    small: tuple[TreeAnswers, dict[str, np.ndarray]],
) -> None:
    found, right = small
    controls = {"mean": "steady: mean T", "order": "steady: shuffled T", "plain": PLAIN, "x": "-"}
    differences = by_trees("steady", controls, found, seed=0)
    assert [(one.control, one.figure) for one in differences] == [
        (name, TREE) for name in ("mean", "order", "plain")
    ]
    counted = right["steady"].mean(1) - right[PLAIN].mean(1)
    gain = found.accuracy["steady"] - found.accuracy[PLAIN]
    assert gain.std() < 0.5 * counted.std()
    exact = np.mean([truth(DRAWN[2], q) - truth(DRAWN[1], q) for q in range(200)])
    assert differences[2].value.low < exact < differences[2].value.high


def test_what_nobody_drew_is_as_right_as_what_the_draws_would_rarely_find() -> None:
    logs = np.log([[0.5, 0.3], [0.2, 0.1]])
    accuracy, unseen = tree_accuracy(logs, np.array([1.0, 0.0]), np.array([1.0, 0.0]))
    assert unseen == pytest.approx([0.2, 0.7])
    rest = 0.5 * 0.5 / 0.5, 0.3 * 0.7 / 0.3  # p (1 - q) / q of the two leaves
    assert accuracy[0] == pytest.approx(0.5 + 0.2 * rest[0] / sum(rest))


def test_questions_without_alternatives_are_left_out() -> None:
    rows = [[answer(DRAWN[1], q, 0)] for q in range(2)]
    rows[0][0] = rows[0][0].model_copy(update={"top_logprobs": None})
    found = measure_trees([DRAWN[1]], PLAIN, BASE, {PLAIN: rows}, {PLAIN: np.ones((2, 1))})
    assert found is not None
    assert found.questions == [1]
    assert (
        measure_trees([DRAWN[1]], PLAIN, BASE, {PLAIN: rows[:1]}, {PLAIN: np.ones((1, 1))}) is None
    )
