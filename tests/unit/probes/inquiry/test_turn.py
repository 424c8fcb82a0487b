import pytest
import torch

from probes.conformal import Calibration
from probes.inquiry.likelihood import NO, UNKNOWN, YES, known_answers
from probes.inquiry.task import load_task
from probes.inquiry.turn import Rule, Turn, likelihood_lookahead, num_interpreted, take_turn

TABLE = torch.tensor([[0.0, 0.0, 1.0], [1.0, 1.0, 1.0], [0.0, 1.0, 1.0]])
LOGPROBS = known_answers(TABLE, flip=0.1)
PLAIN = Rule()
CALIBRATION = Calibration(torch.tensor([-0.3, -0.3]), 99, 0.9, "lac")


def turn(
    history: list[tuple[int, int]], rule: Rule = PLAIN, logprobs: torch.Tensor = LOGPROBS
) -> Turn:
    lookahead = likelihood_lookahead(logprobs, history)
    return take_turn(lookahead, history, CALIBRATION, rule)


def test_only_answers_that_say_something_count_and_each_question_once() -> None:
    assert num_interpreted([(0, YES), (1, UNKNOWN), (0, NO)]) == 1


def test_what_was_asked_is_not_asked_again_known_or_not() -> None:
    lookahead = likelihood_lookahead(LOGPROBS, [(0, YES), (2, UNKNOWN)])
    assert lookahead.questions == [1]
    assert lookahead.after.shape == (1, 2, 3)


def test_a_game_without_history_asks_what_divides() -> None:
    first = turn([])
    assert first.stop is None
    assert first.question in (0, 1)
    assert first.runner_up is not None
    assert first.runner_up != first.question
    assert first.members.tolist() == [True] * 3


def test_a_single_label_left_is_the_answer() -> None:
    last = turn([(0, YES), (1, YES)])
    assert last.stop == "singleton"
    assert last.guess == 1


@pytest.mark.parametrize(
    ("history", "budget", "reason"),
    [
        ([(2, YES)], 1, "budget"),
        ([(0, UNKNOWN), (1, UNKNOWN), (2, UNKNOWN)], 9, "exhausted"),
        ([(0, UNKNOWN), (1, UNKNOWN)], 9, "no_gain"),
    ],
)
def test_a_game_ends_for_a_reason(history: list[tuple[int, int]], budget: int, reason: str) -> None:
    assert turn(history, Rule(budget=budget)).stop == reason


@pytest.mark.parametrize("policy", ["entropy", "set_size"])
def test_with_the_exact_table_every_animal_is_found_by_question_6(policy: str) -> None:
    """ln 20 / ln 2 = 4.3 questions are the least."""
    table = load_task("animals").answer_table().nan_to_num(0.0)
    logprobs = known_answers(table)
    calibration = Calibration(torch.full((8,), -1e-9, dtype=torch.float64), 99, 0.9, "lac")
    for label in range(len(table)):
        history: list[tuple[int, int]] = []
        for _ in range(6):
            step = take_turn(
                likelihood_lookahead(logprobs, history),
                history,
                calibration,
                Rule(policy),  # type: ignore[arg-type]
            )
            if step.stop is not None:
                break
            assert step.question is not None
            history.append((step.question, YES if table[label, step.question] else NO))
        last = take_turn(likelihood_lookahead(logprobs, history), history, calibration, Rule())
        assert last.guess == label
        assert last.members.nonzero().squeeze(-1).tolist() == [label]


def test_the_random_policy_draws_anew_at_each_turn_and_repeats_itself() -> None:
    logprobs = known_answers(torch.randint(0, 2, (4, 40)).double(), flip=0.3)
    rule = Rule("random", seed=3)
    first = turn([], rule, logprobs).question
    assert turn([], rule, logprobs).question == first
    assert turn([(39, UNKNOWN)], rule, logprobs).question != first
