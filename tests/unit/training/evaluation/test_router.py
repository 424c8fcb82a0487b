import numpy as np

from tests.unit.training.evaluation.worlds import coin, made_up
from training.evaluation.router import RoutedQuestions, measure_router, routed_questions

NAMES = ["easy", "normal", "hard"]
QUESTIONS = 400


def half(seed: int, *, knows: bool) -> RoutedQuestions:
    """Half of the kinds need the strategy hard; the router knows which, or chooses by a coin."""
    draw = np.random.default_rng(seed)
    kinds = [("sums", "riddles")[n % 2] for n in range(QUESTIONS)]
    needs_hard = np.array([kind == "riddles" for kind in kinds])
    shares = {
        "easy": np.where(needs_hard, 0.1, 0.8),
        "normal": np.full(QUESTIONS, 0.3),
        "hard": np.where(needs_hard, 0.8, 0.1),
    }
    costs = {"easy": 5.0, "normal": 20.0, "hard": 10.0}
    strategies = {
        name: made_up(coin(shares[name], QUESTIONS, 4, seed + n), tokens=costs[name])
        for n, name in enumerate(NAMES)
    }
    chosen = needs_hard if knows else draw.random(QUESTIONS) < 0.5
    labels: list[str | None] = ["hard" if one else "easy" for one in chosen]
    right = np.where(chosen[:, None], strategies["hard"].right, strategies["easy"].right)
    tokens = np.where(chosen, 10.0, 5.0)[:, None]
    router = made_up(right, tokens=tokens, labels=labels)
    texts = [f"{kind} number {n}" for n, kind in enumerate(kinds)]
    return routed_questions(texts, kinds, router, strategies)


def test_a_router_that_knows_is_above_chance_and_level_with_the_table_by_kind() -> None:
    result = measure_router(half(0, knows=True), half(10, knows=True), NAMES, seed=0)
    found = {one.control: one for one in result.differences}
    assert found["random at the same rates"].is_above
    assert all(found[f"always {name}"].is_above for name in NAMES)
    assert not found["table by kind of question"].is_above
    accuracy, tokens = result.choices["table by kind of question"]
    assert accuracy.low > 0.7
    assert tokens.value < 10


def test_a_router_that_guesses_is_below_the_table_and_level_with_chance() -> None:
    result = measure_router(half(0, knows=False), half(10, knows=False), NAMES, seed=0)
    found = {one.control: one for one in result.differences}
    assert found["table by kind of question"].is_below
    assert found["TF-IDF of the question"].is_below
    assert not found["random at the same rates"].is_above


def test_the_split_oracle_finds_nothing_where_strategies_are_equal() -> None:
    even = {name: made_up(coin(0.5, QUESTIONS, 4, seed=n)) for n, name in enumerate(NAMES)}
    router = made_up(coin(0.5, QUESTIONS, 4, seed=9), labels=["easy"] * QUESTIONS)
    questions = routed_questions(["q"] * QUESTIONS, ["k"] * QUESTIONS, router, even)
    oracle, _ = measure_router(questions, questions, NAMES, seed=0).choices["split oracle"]
    assert oracle.low < 0.5 < oracle.high
