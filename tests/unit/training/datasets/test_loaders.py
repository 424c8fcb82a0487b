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
from training.datasets.problem import Problem


@pytest.mark.parametrize("make", [arithmetic, word_problems])
def test_problems_follow_from_the_seed_and_are_all_different(make: object) -> None:
    assert callable(make)
    once, again, other = make(100, 0), make(100, 0), make(100, 1)
    assert once == again
    assert once != other
    assert len({problem.prompt for problem in once}) == 100
    levels = [problem.level for problem in once]
    assert [levels.count(grade) for grade in range(1, 11)] == [10] * 10


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
        assert len(steps) == (problem.level + 1) // 2


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


def test_a_level_that_has_no_more_is_left_out_and_the_others_go_on() -> None:
    problems = arithmetic(3000, 0)
    assert len({problem.prompt for problem in problems}) == len(problems) == 3000
    levels = Counter(problem.level for problem in problems)
    assert levels[3] == 64
    assert levels[6] == 72
    assert max(levels.values()) - levels[4] <= 1
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
        + json.dumps({"prompt": "Pick", "answer": "B", "grader": "choice", "level": 3})
        + "\n"
    )
    problems = {p.prompt: p for p in load_problems((str(file),), 50, 0, "numeric")}
    assert (problems["2 + 2?"].grader, problems["2 + 2?"].answer) == ("numeric", "4")
    assert (problems["Pick"].grader, problems["Pick"].level) == ("choice", 3)
    assert problems["Pick"].task == "mine"
    with pytest.raises(TrainingError, match="line 1 names no `grader`"):
        load_problems((str(file),), 50, 0)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("nonsense", "line 1: not JSON"),
        ("[1]", "line 1: not a JSON object"),
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
def test_a_bad_line_is_named(tmp_path: Path, line: str, message: str) -> None:
    file = tmp_path / "bad.jsonl"
    file.write_text(line + "\n")
    with pytest.raises(TrainingError, match=message):
        load_problems((str(file),), 50, 0, "numeric")


@pytest.mark.parametrize(
    ("answer", "grader", "completion"),
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
    tmp_path: Path, answer: str | float, grader: str, completion: str
) -> None:
    file = tmp_path / "mine.jsonl"
    file.write_text(json.dumps({"prompt": "x", "answer": answer, "grader": grader}))
    (problem,) = load_problems((str(file),), 50, 0)
    assert problem.is_right(completion)


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


GSM8K = "3 + 4 = <<3+4=7>>7\nSo 1,207 apples.\n#### 1,207"
SHAPES: dict[str, tuple[dict[str, object], str, str, str]] = {
    "gsm8k": ({"question": "How many?", "answer": GSM8K}, "How many?", "1207", "numeric"),
    "math-500": (
        {"problem": "x?", "solution": "So \\boxed{\\frac12}.", "answer": "\\frac12", "level": 3},
        "x?",
        "\\frac12",
        "math",
    ),
    "math": (
        {"problem": "x?", "level": "Level 5", "solution": "So \\boxed{\\frac12}."},
        "x?",
        "\\frac12",
        "math",
    ),
    "trl": (
        {"prompt": [{"role": "user", "content": "How many?"}], "answer": "7"},
        "How many?",
        "7",
        "exact",
    ),
    "trl-system": (
        {
            "prompt": [
                {"role": "system", "content": "Be short."},
                {"role": "user", "content": "How?"},
            ],
            "solution": "7",
        },
        "Be short.\n\nHow?",
        "7",
        "exact",
    ),
    "chat": (
        {
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": "How many?"}]},
                {"role": "assistant", "content": GSM8K},
            ]
        },
        "How many?",
        "1207",
        "numeric",
    ),
    "sharegpt": (
        {"conversations": [{"from": "human", "value": "How?"}, {"from": "gpt", "value": "Well"}]},
        "How?",
        "Well",
        "exact",
    ),
    "alpaca": ({"instruction": "Add.", "input": "1 2", "output": "3"}, "Add.\n\n1 2", "3", "exact"),
    "verl": (
        {"prompt": [{"role": "user", "content": "How?"}], "reward_model": {"ground_truth": "7"}},
        "How?",
        "7",
        "exact",
    ),
}
CHOICES = "Which?\n\nA) red\nB) blue\n\nAnswer with the letter of the right choice."
CHOICE_SHAPES: dict[str, dict[str, object]] = {
    "mmlu": {"question": "Which?", "choices": ["red", "blue"], "answer": 1},
    "mmlu-pro": {"question": "Which?", "options": ["red", "blue"], "answer": "B",
                 "answer_index": 1},
    "arc": {"question": "Which?", "choices": {"text": ["red", "blue"], "label": ["A", "B"]},
            "answerKey": "B"},
    "arc-digits": {"question": "Which?", "choices": {"text": ["red", "blue"], "label": ["1", "2"]},
                   "answerKey": "2"},
    "commonsense": {"question": {"stem": "Which?", "choices": [{"label": "A", "text": "red"},
                                 {"label": "B", "text": "blue"}]}, "answerKey": "B"},
    "openbook": {"question_stem": "Which?", "answerKey": "B",
                 "choices": {"text": ["red", "blue"], "label": ["A", "B"]}},
    "hellaswag": {"ctx": "Which?", "endings": ["red", "blue"], "label": "1"},
    "columns": {"question": "Which?", "A": "red", "B": "blue", "answer": "B"},
    "text": {"question": "Which?", "options": ["A. red", "B. blue"], "answer": "blue"},
    "medqa": {"question": "Which?", "options": {"A": "red", "B": "blue"}, "answer": "blue",
              "answer_idx": "B"},
    "keyed": {"question": "Which?", "options": {"A": "red", "B": "blue"}, "answer": "(B)"},
}  # fmt: skip


def read(tmp_path: Path, *records: object, grader: str | None = None) -> list[Problem]:
    file = tmp_path / "mine.jsonl"
    file.write_text("".join(json.dumps(record) + "\n" for record in records), "utf-8-sig")
    return load_problems((str(file),), 50, 0, grader)  # type: ignore[arg-type]


@pytest.mark.parametrize("shape", SHAPES)
def test_published_shapes_are_read(tmp_path: Path, shape: str) -> None:
    record, prompt, answer, grader = SHAPES[shape]
    given = grader if grader == "exact" else None
    (problem,) = read(tmp_path, record, grader=given)
    assert (problem.prompt, problem.answer, problem.grader) == (prompt, answer, grader)
    assert problem.level == {"math-500": 3, "math": 5}.get(shape, 0)


def test_a_context_comes_before_its_question(tmp_path: Path) -> None:
    record = {"question": "Which?", "context": ["One.", "Two."], "answer": "One"}
    (problem,) = read(tmp_path, record, grader="exact")
    assert problem.prompt == "One.\nTwo.\n\nWhich?"


@pytest.mark.parametrize("shape", CHOICE_SHAPES)
def test_multiple_choice_is_asked_with_letters(tmp_path: Path, shape: str) -> None:
    (problem,) = read(tmp_path, CHOICE_SHAPES[shape])
    assert (problem.prompt, problem.answer, problem.grader) == (CHOICES, "B", "choice")


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({"text": "Hello"}, "line 1: has no question: expected .* found text"),
        ({"prompt": 3, "answer": "1"}, "line 1: prompt: must be a text or a list of messages"),
        ({"prompt": [], "answer": "1"}, "line 1: prompt: must have one message .* found none"),
        ({"prompt": ["Hi"], "answer": "1"}, "line 1: prompt: a message must be an object"),
        (
            {"messages": [{"role": "user", "content": "a"}] * 2, "answer": "1"},
            "line 1: messages: must have one message .* found user, user",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}], "answer": "1"},
            "line 1: a message has other content than text",
        ),
        (
            {"question": "Which?", "choices": ["a", "b"], "answer": "c"},
            "`c` is none of the choices A",
        ),
        ({"prompt": "x", "answer": "1", "grade": 3}, "line 1: `grade` is called `level`"),
        ({"prompt": "x", "answer": "1", "level": -3}, "line 1: level"),
    ],
)
def test_what_is_not_read_is_told_in_a_sentence(
    tmp_path: Path, record: dict[str, object], reason: str
) -> None:
    with pytest.raises(TrainingError, match=reason) as caught:
        read(tmp_path, record, grader="exact")
    assert "\n" not in str(caught.value)
    assert "mine.jsonl" in str(caught.value)


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
    assert [problem.level for problem in problems[:6]] == [2, 2, 1, 2, 2, 1]
    assert drill(50, 0) == problems[:50] != drill(50, 1)
