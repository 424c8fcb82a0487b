import json
from pathlib import Path
from typing import Any

import pytest
import torch

from probes.inquiry.index import TaskIndex
from probes.inquiry.task import MAX_LABELS, Task, TaskError, builtin_tasks, load_task, parse_task

PETS: dict[str, Any] = {
    "name": "pets",
    "subject": "pet",
    "labels": [{"name": "cat", "phrase": "A cat"}, {"name": "dog", "phrase": "A dog"}],
    "queries": [
        {"question": "Does it bark?", "property": "barks.", "yes": ["dog"]},
        {"question": "Is it brown?", "property": "is brown.", "yes": [], "varies": ["cat", "dog"]},
        {"question": "Is it old?", "property": "is old."},
    ],
}


def pets(**changes: Any) -> str:
    return json.dumps(PETS | changes)


def test_a_task_says_which_answers_are_known() -> None:
    table = parse_task(pets(), "pets.json").answer_table()
    assert table[:, 0].tolist() == [0, 1]
    assert bool(table[:, 1:].isnan().all())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": PETS["labels"][:1]}, "labels: Tuple should have at least 2 items"),
        ({"labels": [{"name": "cat", "phrase": ""}] * 2}, "labels.0.phrase: "),
        ({"labels": [PETS["labels"][0], {"name": "CAT", "phrase": "x"}]}, "labels: `cat` is there"),
        ({"queries": [{**PETS["queries"][0], "yes": ["cow"]}]}, "queries.0: `cow` is none of"),
        ({"queries": [{**PETS["queries"][0], "yes": ["cat"] * 2}]}, "queries.0: `cat` is named"),
        ({"queries": [{**PETS["queries"][2], "varies": ["cat"]}]}, "queries.0.varies: stands"),
        ({"queries": [{"question": "???", "property": "x"}]}, "queries.0.question: holds no word"),
        ({"queries": [PETS["queries"][0]] * 2}, "queries: `does it bark` is there twice"),
        ({"queries": []}, "queries: Tuple should have at least 1 item"),
        ({"answers": ["yes", "Yes."]}, "answers: the two must differ"),
        ({"guess": "I know!"}, "guess: must hold {label} exactly once"),
        ({"color": 1}, "color: Extra inputs"),
        ({"subject": "two\nlines"}, "subject: "),
        (
            {"labels": [{"name": f"n{i}", "phrase": "x"} for i in range(MAX_LABELS + 1)]},
            "labels: Tuple should have at most 128 items",
        ),
    ],
)
def test_a_bad_file_says_where(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(TaskError) as caught:
        parse_task(pets(**changes), "pets.json")
    assert str(caught.value).startswith(f"pets.json: {message}")


def test_broken_json_says_line_and_column() -> None:
    with pytest.raises(TaskError, match=r"^x\.json: line 2, column 5: "):
        parse_task('{"name":\n"a" "b"}', "x.json")


def test_a_file_that_is_not_there_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match="neither a file that can be read nor one of animals, tri"):
        load_task(str(tmp_path / "none.json"))


def test_a_file_is_read_like_a_built_in_task(tmp_path: Path) -> None:
    (tmp_path / "mine.json").write_text(pets())
    assert load_task(str(tmp_path / "mine.json")) == Task.model_validate(PETS)


def test_the_final_answer_is_recognised_whatever_its_case_and_stops() -> None:
    lookup = TaskIndex(parse_task(pets(guess="It is: {label}!"), "pets.json"))
    assert lookup.guess("it is cat") == "cat"
    assert lookup.guess("Is it a cat?") is None


@pytest.mark.parametrize(("name", "labels", "queries"), [("animals", 20, 60), ("triage", 10, 20)])
def test_built_in_tasks_tell_every_pair_apart(name: str, labels: int, queries: int) -> None:
    assert name in builtin_tasks()
    table = load_task(name).answer_table()
    assert table.shape[0] >= labels
    assert table.shape[1] >= queries
    differ = (table[:, None] - table[None]).abs().nan_to_num().sum(-1)
    assert float((differ + 99 * torch.eye(len(table))).min()) >= 1


def test_every_question_of_a_built_in_task_divides_the_labels() -> None:
    for name in builtin_tasks():
        table = load_task(name).answer_table()
        assert bool((table == 1).any(0).all()), name
        assert bool((table == 0).any(0).all()), name


@pytest.mark.parametrize("control", ["\x1b[2J", "\x07", "\x9b31m", "\x00", "\x7f"])
@pytest.mark.parametrize("key", ["subject", "introduction", "guess"])
def test_a_task_has_no_control_characters(key: str, control: str) -> None:
    text = "It is: {label}" if key == "guess" else "a pet"
    with pytest.raises(TaskError, match=key):
        parse_task(pets(**{key: f"{text}{control}!"}), "pets.json")
