"""The predictor `table`: exact answers, players who err, and what its sets promise."""

import pytest
import torch

from probes.inquiry.likelihood import NO, YES
from probes.inquiry.table import WRONG_ANSWERS, CredibleSets, table_logprobs
from probes.inquiry.task import Task, load_task
from probes.inquiry.turn import Rule, Turn, likelihood_lookahead, take_turn


def play(task: Task, label: int, level: float, wrong: torch.Tensor | None = None) -> Turn:
    """A whole game of a player who answers from the table, but for the questions in `wrong`."""
    logprobs = table_logprobs(task)
    assert logprobs is not None
    answers = task.answer_table()[label].nan_to_num(1.0) == 1
    if wrong is not None:
        answers = answers ^ wrong
    history: list[tuple[int, int]] = []
    while True:
        turn = take_turn(
            likelihood_lookahead(logprobs, history), history, CredibleSets(level), Rule()
        )
        if turn.stop is not None or turn.question is None:
            return turn
        history.append((turn.question, YES if answers[turn.question] else NO))


@pytest.mark.parametrize("name", ["animals", "triage"])
def test_an_honest_player_is_always_found_out_within_6_questions(name: str) -> None:
    task = load_task(name)
    for label in range(len(task.labels)):
        last = play(task, label, 0.9)
        assert (last.guess, last.stop) == (label, "singleton")
        assert last.length <= 6


def test_the_level_holds_for_the_games_that_are_played_if_one_answer_in_100_is_wrong() -> None:
    task = load_task("animals")
    draw = torch.Generator().manual_seed(0)
    held = []
    for game in range(200):
        wrong = torch.rand(len(task.queries), generator=draw) < WRONG_ANSWERS
        label = game % len(task.labels)
        held.append(bool(play(task, label, 0.9, wrong).members[label]))
    assert sum(held) / len(held) >= 0.9


def test_a_set_holds_its_share_of_the_probability_and_no_label_less() -> None:
    sets = CredibleSets(0.9)
    probabilities = torch.tensor([[0.6, 0.25, 0.1, 0.05], [0.95, 0.03, 0.01, 0.01]]).double()
    assert sets.sets(probabilities, 3).tolist() == [[True, True, True, False], [True] + [False] * 3]


def test_labels_of_equal_probability_go_together() -> None:
    tenth = torch.full((10,), 0.1, dtype=torch.float64)
    tenth[3] += 1e-16
    assert CredibleSets(0.9).sets(tenth, 0).all()


def test_a_task_with_an_unknown_answer_has_no_table() -> None:
    task = load_task("animals")
    first = task.queries[0].model_copy(update={"yes": None, "varies": ()})
    assert table_logprobs(task.model_copy(update={"queries": (first, *task.queries[1:])})) is None
