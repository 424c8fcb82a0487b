from typing import Any

import pytest
import torch

from tests.unit.training.policy import tiny_policy as tiny
from training.objectives.core.requirements import RequiredTensor
from training.policy.grading import final_text
from training.policy.text_features import (
    STRATEGY_PHRASES,
    CompletionTexts,
    TextFeatureReader,
    cluster_number,
    sentence_steps,
    thinking_phases,
    turn_steps,
)


def answers(*texts: str) -> CompletionTexts:
    encoded = tiny.tokenizer()(list(texts), padding=True, padding_side="right", return_tensors="pt")
    rows = [{"answer": "e"} for _ in texts]
    return CompletionTexts(rows, texts, encoded["input_ids"], encoded["attention_mask"].bool())


def test_equal_answers_share_a_cluster_number_and_empty_answers_have_none() -> None:
    assert cluster_number("It is 42.") == cluster_number("Answer: 42") == cluster_number("42.0")
    assert cluster_number("The Cat!") == cluster_number("the  cat")
    assert cluster_number("42") != cluster_number("43")
    assert cluster_number("") == cluster_number(" ... ") == -1
    assert cluster_number("1,000") == cluster_number("1000")
    assert cluster_number("<think>Answer: 5") == -1


@pytest.mark.parametrize(
    "equal",
    [
        ("5", "5.0", "5.", "$5", "$5$", "05", "5e0", "<think>Answer: 7</think>5"),
        ("5", "The answer is 5", "Answer: 5", "**Answer:** 5", "2 + 3 = 5.", r"So \boxed{5}."),
        ("5", "It is `5`.", 'It is "5."', "It is usually 5."),
        ("5", "He had 3. Then 2 more came. So he has 5 apples."),
        ("-5", "\u22125", "x = -5", "It is -5."),
        ("0", "-0", "0.00"),
        ("1,000", "1000", "1e3"),
        ("R\u00e9union", "Reunion", "the REUNION!"),
        (r"\boxed{\frac{1}{2}}", r"It is \(\boxed{\frac{1}{2}}\).", r"$\frac{1}{2}$"),
        ("x + 1", "x+1"),
        ("A", "A.", "Answer: (A)"),
    ],
)
def test_equivalent_answers_share_a_cluster_number(equal: tuple[str, ...]) -> None:
    assert len({cluster_number(text) for text in equal}) == 1


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("1/2", "3/2"),
        (r"\frac12", r"\frac52"),
        (r"2\sqrt3", r"5\sqrt3"),
        ("x^2", "y^2+7x^2"),
        ("x\u00b2", "x2"),
        ("(1,2)", "12"),
        ("(1,2)", "[1,2]"),
        ("1 2", "12"),
        ("1e3", "3"),
        ("5", "-5"),
        ("10-5", "5"),
        ("5%", "5"),
        ("5 million", "5"),
        ("CO2", "SO2"),
        ("May 5", "June 5"),
        ("x = 1, y = 2", "x = 3, y = 2"),
        ("x is 1 and y is 2", "x is 3 and y is 2"),
        ("x <= 5", "x = 5"),
        ("Simplify it.\n\nx^2", "Simplify it.\n\ny^2"),
        ("C", "C++"),
        ("A", "B"),
        ("1" * 40 + "2", "1" * 40 + "3"),
    ],
)
def test_different_answers_have_different_cluster_numbers(one: str, other: str) -> None:
    assert cluster_number(one) != cluster_number(other)


def test_correct_is_the_result_of_the_grader() -> None:
    reader = TextFeatureReader(tiny.tokenizer(), lambda row, text: text.endswith(row["answer"]))
    assert reader.read(RequiredTensor.CORRECT, answers("abe", "abc")).tolist() == [True, False]
    with pytest.raises(ValueError, match="pass grader"):
        TextFeatureReader(tiny.tokenizer(), None).read(RequiredTensor.CORRECT, answers("a"))


def test_steps_are_sentences() -> None:
    ids = torch.tensor([[5, 9, 6, 7, 9, 8, 0]])
    mask = torch.tensor([[1, 1, 1, 1, 1, 1, 0]]).bool()
    assert sentence_steps(ids, mask, torch.tensor([9])).tolist() == [[0, 0, 1, 1, 1, 2, -1]]
    read = TextFeatureReader(tiny.tokenizer(), None).read(RequiredTensor.STEPS, answers("a.b!c"))
    assert read.tolist() == [[0, 0, 1, 1, 2]]


def test_agent_steps_are_turns_and_exclude_tool_results() -> None:
    mask = torch.tensor([[1, 1, 0, 0, 1, 0, 1], [0, 1, 1, 1, 0, 0, 0], [0] * 7]).bool()
    expected = [[0, 0, -1, -1, 1, -1, 2], [-1, 0, 0, 0, -1, -1, -1], [-1] * 7]
    assert turn_steps(mask).tolist() == expected
    turns = answers("a.b!cd")._replace(mask=torch.tensor([[1, 1, 1, 0, 0, 1]]).bool())
    read = TextFeatureReader(tiny.tokenizer(), None).read(
        RequiredTensor.STEPS, turns._replace(is_agent=True)
    )
    assert read.tolist() == [[0, 0, 0, -1, -1, 1]]


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        (["a", "b", "</think>", "c"], [0, 0, -1, 1]),
        (["a", "</", "think", ">", "c", "d"], [0, -1, -1, -1, 1, 1]),
        (["a", ".</", "think", ">\n", "c"], [0, -1, -1, -1, 1]),
        (["</think>", "c"], [-1, 1]),
        (["a", "</think>"], [0, -1]),
        (["a", "</think>", "b", "</think>"], [0, -1, 1, 1]),
        (["a", "<think>", "b", "/think>"], [0, 0, 0, 0]),
        ([], []),
    ],
)
def test_the_end_tag_is_in_neither_phase_and_without_it_all_tokens_are_thinking(
    tokens: list[str], expected: list[int]
) -> None:
    mask = torch.ones(1, len(tokens)).bool()
    assert thinking_phases([tokens], mask).tolist() == [expected]


def test_phases_are_read_with_the_tokenizer_and_exclude_padding() -> None:
    read = TextFeatureReader(tiny.tokenizer(), None).read(
        RequiredTensor.PHASES, answers("ab</think>c", "none")
    )
    assert read[0].tolist() == [0, 0, *[-1] * 8, 1]
    assert read[1].tolist() == [0, 0, 0, 0, *[-1] * 7]


@pytest.mark.parametrize(
    ("completion", "text"),
    [
        ("plain", "plain"),
        ([{"role": "assistant", "content": "5"}], "5"),
        ([{"role": "assistant"}], ""),
        ([{"role": "assistant", "content": None, "tool_calls": []}], ""),
        ([{"role": "assistant", "content": [{"type": "text", "text": "5"}]}], "5"),
        ([{"role": "assistant", "content": "look"}, {"role": "tool", "content": "42"}], ""),
        (
            [{"role": "tool", "content": "42"}, {"role": "assistant", "content": "It is 6"}],
            "It is 6",
        ),
        ([], ""),
    ],
)
def test_the_graded_text_is_the_last_message_of_the_policy(completion: Any, text: str) -> None:
    assert final_text(completion) == text


def test_planning_marks_the_phrases() -> None:
    phrase = STRATEGY_PHRASES[0]
    read = TextFeatureReader(tiny.tokenizer(), None).read(
        RequiredTensor.PLANNING, answers(f"x {phrase} y", "nothing")
    )
    assert read[0].sum() == len(f" {phrase}")
    assert not read[1].any()


def test_beliefs_come_from_the_rows() -> None:
    reader = TextFeatureReader(tiny.tokenizer(), None)
    with pytest.raises(ValueError, match="`beliefs` for every completion"):
        reader.read(RequiredTensor.BELIEFS, answers("a"))
    row = {"beliefs": [[0.5, 0.5], [1.0, 0.0]]}
    read = reader.read(RequiredTensor.BELIEFS, answers("a")._replace(rows=[row]))
    assert read.shape == (1, 2, 2)
