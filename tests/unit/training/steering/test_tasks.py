import json
from pathlib import Path

import pytest

from training.common.errors import TrainingError
from training.steering.reader import named_action
from training.steering.tasks import load_episodes
from training.steering.wordings import BANDITS, bandit_episodes

LINE = {"episode": 1, "step": 0, "prompt": "Which?", "actions": ["left", "right"]}


def log(tmp_path: Path, *lines: object) -> Path:
    path = tmp_path / "log.jsonl"
    path.write_text("\n".join(one if isinstance(one, str) else json.dumps(one) for one in lines))
    return path


def test_a_history_grows_by_a_line_a_step_and_begins_with_one() -> None:
    (run,) = bandit_episodes(BANDITS["slots"], 3, runs=1, steps=4, seed=0)
    assert [step.prompt.count("Coins:") for step in run if isinstance(step.prompt, str)] == [
        1,
        2,
        3,
        4,
    ]
    assert run[0].actions == ("lion", "tiger", "dragon")
    assert run[0].answer_prefix == "I play slot machine"


def test_the_same_seed_is_the_same_bandit_and_another_run_is_not() -> None:
    one, other = (bandit_episodes(BANDITS["fruits"], 4, 2, 3, seed) for seed in (5, 5))
    assert one == other
    assert one[0][-1].prompt != one[1][-1].prompt
    assert one != bandit_episodes(BANDITS["fruits"], 4, 2, 3, 6)


def test_all_bandits_have_eight_different_arms() -> None:
    for bandit in BANDITS.values():
        assert len(set(bandit.arms)) == 8


def test_a_log_is_read_run_by_run_in_the_order_of_its_steps(tmp_path: Path) -> None:
    chat = [{"role": "system", "content": "Choose."}, {"role": "user", "content": "Which?"}]
    later = LINE | {"step": 1, "prompt": chat, "answer_prefix": "I go", "reward": 3}
    runs = load_episodes(log(tmp_path, later, LINE | {"episode": "b"}, "", LINE))
    assert [[step.step for step in run] for run in runs] == [[0, 1], [0]]
    assert runs[0][1].messages == chat
    assert runs[0][0].messages == [{"role": "user", "content": "Which?"}]


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ((), "contains no steps"),
        (("{",), "line 1: not JSON"),
        ((LINE, LINE), "line 2: episode 1 already has a step 0"),
        ((LINE | {"actions": ["left"]},), "line 1: actions"),
        ((LINE | {"actions": ["left", "left"]},), "line 1: actions must differ"),
        ((LINE | {"actions": ["left", " "]},), "not be empty"),
        (({"episode": 1},), "line 1: step"),
        (({"run": 1, "step": 0},), "line 1: the field `run` is now called `episode`"),
        ((LINE | {"begin": "I"},), "the field `begin` is now called `answer_prefix`"),
        (("[1]",), "line 1: not a JSON object"),
    ],
)
def test_what_is_no_log_is_refused_by_line(
    tmp_path: Path, lines: tuple[object, ...], expected: str
) -> None:
    with pytest.raises(TrainingError, match=expected) as caught:
        load_episodes(log(tmp_path, *lines))
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"none\.jsonl: cannot be read"):
        load_episodes(tmp_path / "none.jsonl")


@pytest.mark.parametrize(
    ("text", "action"),
    [
        (" apple", 0),
        ("Apple, because it is good. Not banana.", 0),
        ("the banana\nor the apple", 1),
        ("apple or banana", None),
        ("pineapple", None),
        ("something else", None),
        ("", None),
    ],
)
def test_an_answer_is_valid_if_its_first_sentence_names_one_action(
    text: str, action: int | None
) -> None:
    assert named_action(text, ("apple", "banana")) == action
