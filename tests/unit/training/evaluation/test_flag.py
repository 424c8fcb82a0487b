import numpy as np

from tests.unit.training.evaluation.worlds import coin, made_up
from training.common.metrics import Floats
from training.evaluation.flag import ENTROPY, SHUFFLED, measure_flag

QUESTIONS = 200
HALF: Floats = (np.arange(QUESTIONS) % 2).astype(np.float64)
KINDS = ["even" if n % 4 < 2 else "odd" for n in range(QUESTIONS)]
LENGTHS = [10 + n % 7 for n in range(QUESTIONS)]


def test_an_entropy_that_follows_the_errors_beats_its_controls() -> None:
    right = coin(0.5, QUESTIONS, 4, seed=0)
    noise = np.random.default_rng(1).random(right.shape)
    flag = measure_flag(made_up(right, entropy=noise - 0.5 * right), KINDS, LENGTHS, HALF, seed=0)
    assert flag is not None
    assert flag.scores[ENTROPY].auroc.low > 0.75
    for control in (SHUFFLED, "answer length", "question length", "kind of question"):
        ahead = flag.scores[control].ahead
        assert ahead is not None
        assert ahead.high < 0
    surest = flag.scores[ENTROPY].accuracy[0]
    assert surest.low > flag.accuracy.high


def test_an_entropy_without_information_beats_nothing() -> None:
    right = coin(0.5, QUESTIONS, 4, seed=2)
    noise = np.random.default_rng(3).random(right.shape)
    flag = measure_flag(made_up(right, entropy=noise), KINDS, LENGTHS, HALF, seed=0)
    assert flag is not None
    assert flag.scores[ENTROPY].auroc.low < 0.5 < flag.scores[ENTROPY].auroc.high


def test_the_kind_is_learnt_on_the_other_half() -> None:
    by_kind = coin(np.array([0.9 if kind == "even" else 0.1 for kind in KINDS]), QUESTIONS, 4, 4)
    flag = measure_flag(made_up(by_kind), KINDS, LENGTHS, HALF, seed=0)
    assert flag is not None
    assert flag.scores["kind of question"].auroc.low > 0.8
    assert (flag.scores["kind of question"].ece or 0.0) < 0.1

    alone = [f"kind {n}" for n in range(QUESTIONS)]  # nothing to learn from the other half
    flag = measure_flag(made_up(by_kind), alone, LENGTHS, HALF, seed=0)
    assert flag is not None
    assert abs(flag.scores["kind of question"].auroc.value - 0.5) < 0.1


def test_there_is_no_flag_where_every_answer_is_right() -> None:
    assert measure_flag(made_up(np.ones((8, 2))), ["k"] * 8, [1] * 8, HALF[:8], 0) is None
