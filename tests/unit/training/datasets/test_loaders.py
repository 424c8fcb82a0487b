import json
import re
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest

from training.common.errors import TrainingError
from training.datasets.arithmetic import arithmetic, drill, word_problems
from training.datasets.loaders import load_problems


@pytest.mark.parametrize("make", [arithmetic, word_problems])
def test_problems_follow_from_the_seed_and_are_all_different(make: object) -> None:
    assert callable(make)
    once, again, other = make(100, 0), make(100, 0), make(100, 1)
    assert once == again
    assert once != other
    assert len({problem.prompt for problem in once}) == 100
    grades = [problem.grade for problem in once]
    assert [grades.count(grade) for grade in range(1, 11)] == [10] * 10


def test_the_answers_of_sums_are_right() -> None:
    for problem in arithmetic(300, 3):
        left, operator, right = re.findall(r"\d+|[-+*]", problem.prompt)
        value = {"+": int.__add__, "-": int.__sub__, "*": int.__mul__}[operator](
            int(left), int(right)
        )
        assert problem.answer == str(value)
        assert problem.is_right(f"It is {value}.")
        assert not problem.is_right(f"It is {value + 1}.")


def test_the_answers_of_stories_are_right_and_never_negative() -> None:
    """Worked out again from the text alone."""
    factors = {"doubles": 2, "triples": 3, "quadruples": 4}
    for problem in word_problems(300, 5):
        first, *steps, _ = problem.prompt.split(". ")
        have = int(re.findall(r"\d+", first)[0])
        for step in steps:
            number = [int(found) for found in re.findall(r"\d+", step)]
            if "given away" in step:
                have -= number[0]
            elif "half" in step:
                assert have % 2 == 0
                have //= 2
            elif number:
                have += number[0]
            else:
                have *= next(value for word, value in factors.items() if word in step)
            assert have >= 0
        assert problem.answer == str(have), problem.prompt
        assert len(steps) == (problem.grade + 1) // 2


def test_the_quiz_has_every_kind_in_turn_and_no_question_twice() -> None:
    problems = load_problems(("quiz",), 10_000, 0)
    assert len({problem.prompt for problem in problems}) == len(problems) > 2000
    kinds = [problem.task for problem in problems]
    number = len(set(kinds))
    assert {kinds[:number].count(kind) for kind in kinds} == {1}
    assert {kinds[: 20 * number].count(kind) for kind in kinds} == {20}
    assert all(problem.is_right(f"It is {problem.answer}.") for problem in problems)


def test_shipped_answers_are_none_of_a_model_that_does_not_know() -> None:
    for problem in load_problems(("quiz", "facts"), 10_000, 0):
        assert not problem.is_right("I do not know."), problem.prompt
        assert not problem.is_right("I am not sure. It is an answer."), problem.prompt


def test_a_grade_that_has_no_more_is_left_out_and_the_others_go_on() -> None:
    problems = arithmetic(3000, 0)
    assert len({problem.prompt for problem in problems}) == len(problems) == 3000
    grades = Counter(problem.grade for problem in problems)
    assert grades[3] == 64
    assert grades[6] == 72
    assert max(grades.values()) - grades[4] <= 1
    assert arithmetic(300, 0) == problems[:300]
    assert len(load_problems(("arithmetic",), 650, 0)) == 650


def test_tasks_share_the_number_of_questions() -> None:
    problems = load_problems(("arithmetic", "words", "facts"), 60, 0)
    kinds = [problem.task for problem in problems]
    assert (kinds.count("arithmetic"), kinds.count("words"), len(problems)) == (20, 20, 60)
    assert problems == load_problems(("arithmetic", "words", "facts"), 60, 0)


def test_tasks_take_turns_and_one_that_has_fewer_ends_earlier(tmp_path: Path) -> None:
    file = tmp_path / "mine.jsonl"
    file.write_text("".join(f'{{"prompt": "{n}?", "answer": {n}}}\n' for n in range(3)))
    problems = load_problems(("drill", str(file), "words"), 30, 0, "numeric")
    kinds = [problem.task for problem in problems]
    assert kinds == ["drill", "mine", "words"] * 3 + ["drill", "words"] * 7


def test_a_file_names_its_grader_or_the_command_does(tmp_path: Path) -> None:
    file = tmp_path / "mine.jsonl"
    file.write_text(
        json.dumps({"prompt": "2 + 2?", "answer": 4})
        + "\n\n"
        + json.dumps({"prompt": "Pick", "answer": "B", "grader": "choice", "grade": 3})
        + "\n"
    )
    problems = {p.prompt: p for p in load_problems((str(file),), 50, 0, "numeric")}
    assert (problems["2 + 2?"].grader, problems["2 + 2?"].answer) == ("numeric", "4")
    assert (problems["Pick"].grader, problems["Pick"].grade) == ("choice", 3)
    assert problems["Pick"].task == "mine"
    with pytest.raises(TrainingError, match="line 1 names no `grader`"):
        load_problems((str(file),), 50, 0)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("nonsense", "line 1 is no JSON object"),
        ("[1]", "line 1 is no JSON object"),
        ('{"prompt": "x"}', "line 1: answer"),
        ('{"prompt": "", "answer": "1"}', "line 1: prompt"),
        ('{"prompt": "x", "answer": "1", "grader": "guess"}', "line 1: grader"),
        *[
            (f'{{"prompt": "x", "answer": {value}}}', "line 1: answer: must be a text or a number")
            for value in ("null", "true", "[1]", '{"a": 1}')
        ],
        ('{"prompt": "x", "answer": " "}', "line 1: answer"),
        ('{"prompt": "x", "answer": "1 or 2"}', "line 1: answer: `1 or 2` .* wants one number"),
        ('{"prompt": "x", "answer": "NaN"}', "line 1: answer: `NaN` .* wants one number"),
        (
            '{"prompt": "x", "answer": "Paris", "grader": "choice"}',
            "line 1: answer: `Paris` .* `choice` wants a letter from A to J",
        ),
        (
            '{"prompt": "x", "answer": "Answer: yes", "grader": "exact"}',
            "line 1: answer: .* wants text without `Answer:`",
        ),
        (
            '{"prompt": "x", "answer": "1"}\n\n{"prompt": "x", "answer": "2"}',
            "line 3 asks what line 1 asks, and has another answer: `2`, not `1`",
        ),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: str, said: str) -> None:
    file = tmp_path / "bad.jsonl"
    file.write_text(line + "\n")
    with pytest.raises(TrainingError, match=said):
        load_problems((str(file),), 50, 0, "numeric")


@pytest.mark.parametrize(
    ("answer", "grader", "said"),
    [
        ("\u20ac5", "numeric", "5"),
        ("50%", "numeric", "50"),
        ("5 km", "numeric", "It is 5 km."),
        (-0.5, "numeric", "-.5"),
        ("B) Paris", "choice", "(B)"),
        ("b", "choice", "B"),
        (r"\frac12", "math", r"\boxed{0.5}"),
        ("C++", "exact", "c++"),
    ],
)
def test_an_answer_that_its_grader_can_read_is_taken(
    tmp_path: Path, answer: str | float, grader: str, said: str
) -> None:
    file = tmp_path / "mine.jsonl"
    file.write_text(json.dumps({"prompt": "x", "answer": answer, "grader": grader}))
    (problem,) = load_problems((str(file),), 50, 0)
    assert problem.is_right(said)


def test_a_question_that_comes_again_is_asked_once(tmp_path: Path) -> None:
    file = tmp_path / "mine.jsonl"
    line = json.dumps({"prompt": "2 + 2?", "answer": 4})
    file.write_text(f"{line}\n{line}\n")
    assert len(load_problems((str(file),), 50, 0, "numeric")) == 1


def test_data_sets_of_the_hub_are_trained_on_their_own_split(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def load_dataset(name: str, *config: str, split: str) -> list[dict[str, str]]:
        assert (name, config) == ("openai/gsm8k", ("main",))
        return [{"question": f"What is in {split}?", "answer": "Much.\n#### 1,234"}]

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    (measured,) = load_problems(("openai/gsm8k",), 5, 0)
    (trained,) = load_problems(("openai/gsm8k",), 5, 0, split="train")
    assert (measured.prompt, measured.answer) == ("What is in test?", "1234")
    assert trained.prompt == "What is in train?"
    with pytest.raises(TrainingError, match="a test set, to measure on and not to train on"):
        load_problems(("HuggingFaceH4/MATH-500",), 5, 0, split="train")


def test_an_unknown_task_lists_the_known_ones() -> None:
    with pytest.raises(TrainingError, match="arithmetic, words, facts, quiz, drill, openai/gsm8k"):
        load_problems(("algebra",), 50, 0)
    with pytest.raises(TrainingError, match="cannot be read"):
        load_problems(("nowhere.jsonl",), 50, 0)


def test_drills_are_all_the_small_sums_and_products_and_right() -> None:
    problems = drill(10_000, 0)
    assert len({problem.prompt for problem in problems}) == len(problems) == 64 + 703
    for problem in problems:
        left, operator, right = problem.prompt.removeprefix("What is ").removesuffix("?").split()
        value = int(left) * int(right) if operator == "*" else int(left) + int(right)
        assert problem.is_right(f"It is {value}.")
        assert value <= 40 or operator == "*"
    assert [problem.grade for problem in problems[:6]] == [2, 2, 1, 2, 2, 1]
    assert drill(50, 0) == problems[:50] != drill(50, 1)
