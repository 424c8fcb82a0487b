import pytest
import torch

from tests.training import tiny_policy as tiny
from training.objectives import Need
from training.readings import (
    STRATEGY_PHRASES,
    Answers,
    Reader,
    cluster_number,
    sentence_steps,
    thinking_mask,
)


def answers(*texts: str) -> Answers:
    encoded = tiny.tokenizer()(list(texts), padding=True, padding_side="right", return_tensors="pt")
    rows = [{"answer": "e"} for _ in texts]
    return Answers(rows, texts, encoded["input_ids"], encoded["attention_mask"].bool())


def test_equal_answers_share_a_number_and_no_answer_has_none() -> None:
    assert cluster_number("It is 42.") == cluster_number("Answer: 42") == cluster_number("42.0")
    assert cluster_number("The Cat!") == cluster_number("the  cat")
    assert cluster_number("42") != cluster_number("43")
    assert cluster_number("") == cluster_number(" ... ") == -1
    assert cluster_number("1,000") == cluster_number("1000")


def test_correct_is_what_the_grader_says() -> None:
    reader = Reader(tiny.tokenizer(), lambda row, text: text.endswith(row["answer"]))
    assert reader.read(Need.CORRECT, answers("abe", "abc")).tolist() == [True, False]
    with pytest.raises(ValueError, match="pass a grader"):
        Reader(tiny.tokenizer(), None).read(Need.CORRECT, answers("a"))


def test_steps_are_sentences() -> None:
    ids = torch.tensor([[5, 9, 6, 7, 9, 8, 0]])
    mask = torch.tensor([[1, 1, 1, 1, 1, 1, 0]]).bool()
    assert sentence_steps(ids, mask, torch.tensor([9])).tolist() == [[0, 0, 1, 1, 1, 2, -1]]
    read = Reader(tiny.tokenizer(), None).read(Need.STEPS, answers("a.b!c"))
    assert read.tolist() == [[0, 0, 1, 1, 2]]


def test_thinking_ends_with_its_mark() -> None:
    ids = torch.tensor([[5, 6, 7, 8, 9], [5, 5, 5, 5, 5]])
    mask = torch.ones_like(ids).bool()
    expected = [[True, True, True, False, False], [False] * 5]
    assert thinking_mask(ids, mask, [6, 7]).tolist() == expected
    read = Reader(tiny.tokenizer(), None).read(Need.THINKING, answers("ab</think>c"))
    assert read[0].sum() == len("ab</think>")


def test_planning_marks_the_phrases() -> None:
    phrase = STRATEGY_PHRASES[0]
    read = Reader(tiny.tokenizer(), None).read(Need.PLANNING, answers(f"x {phrase} y", "nothing"))
    assert read[0].sum() == len(f" {phrase}")
    assert not read[1].any()


def test_beliefs_come_from_the_rows() -> None:
    reader = Reader(tiny.tokenizer(), None)
    with pytest.raises(ValueError, match="field `beliefs`"):
        reader.read(Need.BELIEFS, answers("a"))
    row = {"beliefs": [[0.5, 0.5], [1.0, 0.0]]}
    read = reader.read(Need.BELIEFS, answers("a")._replace(rows=[row]))
    assert read.shape == (1, 2, 2)
