"""p(True) and verbalized confidence: what is asked, and how replies are read."""

import math
from pathlib import Path

import pytest

from tests.unit.training.selective.test_selective_jobs import answers
from training.common.rollout_store import RolloutStore
from training.common.server_pool import RolloutRecord
from training.selective.confidence import fit_data
from training.selective.figures import compare, uncalibrated_errors
from training.selective.rows import load_rows, save_rows
from training.selective.self_report import missing_reports, self_reports


def record(number: int, text: str, logprob: float = 0.0, question: str = "2 + 2?") -> RolloutRecord:
    return RolloutRecord(
        number=number,
        messages=[{"role": "user", "content": question}],
        seed=0,
        text=text,
        finish_reason="stop",
        entropies=[0.5],
        temperatures=[0.0],
        scores={"logprob_sum": logprob},
    )


def test_each_answer_is_asked_about_twice_and_not_again(tmp_path: Path) -> None:
    drawn = [record(0, " 4\n"), record(1, "5")]
    with RolloutStore(tmp_path / "traces.jsonl") as store:
        asked = list(missing_reports(drawn, store))
        assert [one.number for one in asked] == [0, 1, 2, 3]
        assert asked[0].messages[0]["content"].startswith("Question: 2 + 2?\nProposed answer: 4\n")
        assert asked[0].sampling is not None
        assert asked[0].sampling.further == {"structured_outputs": {"choice": ["True", "False"]}}
        store.append(record(0, "True"))
        assert [one.number for one in missing_reports(drawn, store)] == [1, 2, 3]


def test_replies_are_read_as_probabilities(tmp_path: Path) -> None:
    with RolloutStore(tmp_path / "traces.jsonl") as store:
        replies = [("True", math.log(0.7)), ("85", -1.0), ("False", math.log(0.9)), ("100", -1.0)]
        for number, (text, logprob) in enumerate(replies):
            store.append(record(number, text, logprob))
        first, second = self_reports(2, store)
    assert first == pytest.approx({"p_true": 0.7, "verbalized": 0.85})
    assert second == pytest.approx({"p_true": 0.1, "verbalized": 1.0})


def test_they_are_kept_with_the_rows_and_compared_like_scores(tmp_path: Path) -> None:
    found = answers(60)
    reported = [
        row._replace(reports={"p_true": 0.9 if row.right else 0.2, "verbalized": 0.5}, answer="4")
        for row in found.rows
    ]
    found = found._replace(rows=reported)
    save_rows(found, tmp_path / "rows.jsonl")
    assert load_rows(tmp_path / "rows.jsonl") == found
    data = fit_data(found)
    figures = compare(found.rows, data, data.right * 0.5 + 0.2, 0)
    assert figures["p(True)"].auroc.value == pytest.approx(1.0)
    own = uncalibrated_errors(found.rows, data)["p(True)"]
    assert own == pytest.approx(0.1 + 0.1 * (1 - data.right.mean()), abs=1e-6)
    assert figures["verbalized confidence"].auroc.value == pytest.approx(0.5)
