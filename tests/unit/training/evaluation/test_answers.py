"""The graded answers of an arm, as arrays."""

from pathlib import Path

import numpy as np
import pytest

from training.common.rollout_store import RolloutStore
from training.common.server_pool import RolloutRecord
from training.datasets.problem import Problem
from training.evaluation.answers import ArmAnswers, read_answers
from training.evaluation.collect import AnswerGrid

PIECES = ["12", " +", " 7", " =", " 1", "9", "<end>"]
ENTROPIES = [1.0, 0.5, 0.25, 0.5, 2.0, 4.0, 0.0]
SUM = Problem(task="sums", prompt="What is 12 + 7?", answer="19", grader="numeric")


def graded(tmp_path: Path, text: str, **columns: list[float] | None) -> ArmAnswers:
    measured = {
        "logprobs": [-h for h in ENTROPIES],
        "varentropies": [10 * h for h in ENTROPIES],
        **columns,
    }
    record = RolloutRecord(
        number=0,
        messages=[],
        seed=0,
        text=text,
        finish_reason="stop",
        entropies=list(ENTROPIES),
        temperatures=[1.0] * len(ENTROPIES),
        pieces=PIECES,
        **measured,
    )
    with RolloutStore(tmp_path / "answers.jsonl") as store:
        store.append(record)
        return read_answers([SUM], [0], 0, AnswerGrid(1, 1), store)


def test_the_final_part_is_the_number_that_the_grader_reads(tmp_path: Path) -> None:
    found = graded(tmp_path, "12 + 7 = 19")
    assert found.right.item() == 1.0
    assert found.final_entropy_mean.item() == 3.0
    assert found.final_varentropy_mean.item() == 30.0
    assert found.final_logprob_mean.item() == -3.0
    assert found.final_logprob_sum.item() == -6.0
    assert found.varentropy_mean.item() == pytest.approx(10 * np.mean(ENTROPIES))


def test_without_an_answer_the_whole_text_is_the_final_part(tmp_path: Path) -> None:
    found = graded(tmp_path, "no idea")
    assert found.right.item() == 0.0
    assert found.final_entropy_mean == found.entropy_mean
    assert found.final_varentropy_mean == found.varentropy_mean
    assert found.final_logprob_sum == found.logprob_sum


def test_what_was_not_asked_for_is_not_a_number(tmp_path: Path) -> None:
    no_varentropy = graded(tmp_path, "12 + 7 = 19", varentropies=None)
    assert np.isnan(no_varentropy.varentropy_mean).all()
    assert np.isnan(no_varentropy.final_varentropy_mean).all()
    assert no_varentropy.final_logprob_sum.item() == -6.0
