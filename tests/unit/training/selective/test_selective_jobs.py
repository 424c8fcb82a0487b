"""`train-probe confidence` and `train-probe abstain` on rows; the choice, the figures, refusals."""

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from probes.artifact import Artifact
from probes.selective.abstention import Abstention
from probes.selective.confidence import ConfidenceProbe
from training.common.errors import TrainingError
from training.selective.abstain import SHARES, abstention, split_rates, train_abstention
from training.selective.confidence import fit_data, train_confidence
from training.selective.config import AbstainConfig, ConfidenceConfig
from training.selective.figures import compare
from training.selective.fit import candidates, cross_fitted, fit_probe, folds
from training.selective.rows import GradedAnswer, GradedAnswers, load_rows, save_rows

QUIET = Console(quiet=True)


def answers(questions: int = 150, samples: int = 1, seed: int = 0) -> GradedAnswers:
    """The log-probability knows how likely an answer is right, the maximal entropy nothing."""
    draw = np.random.default_rng(seed)
    rows = []
    for question in range(questions):
        skill = draw.uniform()
        for _ in range(samples):
            scores = {
                "logprob_mean": math.log(skill) + 0.1 * draw.normal(),
                "entropy_max": draw.uniform(),
            }
            right = bool(draw.uniform() < skill)
            rows.append(
                GradedAnswer(f"question {seed}.{question}", "ab"[question % 2], right, scores)
            )
    return GradedAnswers(rows, 0.7, 2048)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"weights")
    return folder


@pytest.fixture
def settings(tmp_path: Path, checkpoint: Path) -> dict[str, Any]:
    save_rows(answers(), tmp_path / "rows.jsonl")
    return {
        "task": str(tmp_path / "rows.jsonl"),
        "name": "m/made",
        "checkpoint": checkpoint,
        "out": tmp_path / "artifacts",
        "runs": tmp_path / "runs",
    }


def test_rows_read_back_equal(tmp_path: Path) -> None:
    written = answers(20)._replace(probe_hash="h")
    save_rows(written, tmp_path / "rows.jsonl")
    assert load_rows(tmp_path / "rows.jsonl") == written


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([{"right": 2, "logprob_mean": -1}], "`right` is true or false"),
        ([{"right": True, "logprob": -1}], "has no score"),
        ([{"right": True, "logprob_mean": "-1"}], "`logprob_mean` is a number"),
        ([{"right": True, "logprob_mean": -1, "temperature": t} for t in (0, 1)], "differ"),
        ([], "has no rows"),
    ],
)
def test_wrong_rows_are_refused(lines: list[Any], message: str, tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(map(json.dumps, lines)))
    with pytest.raises(TrainingError, match=message):
        load_rows(file)


def test_the_choice_is_the_score_that_knows_and_the_probability_is_calibrated() -> None:
    found = answers(300, 2)
    data = fit_data(found)
    ways = candidates(data, [("entropy_max",), ("logprob_mean",)], 0)
    assert ways[0].features == ("logprob_mean",)
    assert [way.loss for way in ways] == sorted(way.loss for way in ways)
    probability, chosen = cross_fitted(data, [("logprob_mean",)], 0)
    assert len(chosen) == 5
    figures = compare(found.rows, data, probability, 0)
    assert figures["probe"].auroc.value > 0.75 > 0.6 > figures["probe, shuffled"].auroc.value
    assert figures["entropy_max"].auroc.value < 0.6
    ece = figures["probe"].ece
    assert ece is not None
    assert ece < 0.08
    assert abs(np.exp(data.columns["logprob_mean"]).mean() - data.right.mean()) < 0.1


def test_answers_to_one_question_are_on_one_side_of_a_fold() -> None:
    data = fit_data(answers(40, 3))
    for fitted, left_out in folds(data, 0):
        assert not set(data.groups[fitted]) & set(data.groups[left_out])
    with pytest.raises(TrainingError, match="10 different questions"):
        folds(fit_data(answers(9, 3)), 0)


@pytest.mark.parametrize("calibrator", ["platt", "isotonic"])
def test_what_was_fitted_reads_back_from_its_tensors(calibrator: Any) -> None:
    data = fit_data(answers(200))
    probe = fit_probe(data, ("logprob_mean",), calibrator, 0)
    assert ConfidenceProbe.from_tensors(probe.spec, probe.tensors()) == probe
    sure, unsure = (probe.probability({"logprob_mean": value}) for value in (-0.05, -2.5))
    assert sure > 0.7 > 0.3 > unsure


def test_a_confidence_artifact_is_made_from_rows(settings: dict[str, Any]) -> None:
    other = settings["runs"].parent / "other.jsonl"
    save_rows(answers(60, 1, 1), other)
    folder = train_confidence(ConfidenceConfig(**settings, test=other), QUIET)
    found = Artifact.load(folder)
    spec = found.manifest.confidence
    assert spec is not None
    assert (spec.temperature, spec.window, spec.rows) == (0.7, 2048, 150)
    assert found.manifest.metrics["auroc"] > 0.6
    page = (settings["runs"] / "selective-rows" / "confidence.md").read_text()
    for row in ("probe, shuffled", "question length", "kind of question", "`logprob_mean`"):
        assert f"| {row} |" in page
    assert "## On other.jsonl" in page
    assert "60 answers to questions" in page


def test_a_test_on_questions_of_the_fit_is_refused(settings: dict[str, Any]) -> None:
    other = settings["runs"].parent / "other.jsonl"
    save_rows(answers(2), other)
    with pytest.raises(TrainingError, match="2 of its questions are among those of the fit"):
        train_confidence(ConfidenceConfig(**settings, test=other), QUIET)


def test_an_abstention_artifact_is_made_from_rows(settings: dict[str, Any]) -> None:
    folder = train_abstention(AbstainConfig(**settings), QUIET)
    found = Artifact.load(folder)
    contents = found.contents()
    assert isinstance(contents, Abstention)
    assert (contents.spec.score, contents.spec.rows) == ("logprob_mean", 150)
    assert found.manifest.metrics["joint_0.1_answered_and_wrong"] <= 0.1
    page = (settings["runs"] / "selective-rows" / "abstain.md").read_text()
    assert "| joint | 0.1 |" in page
    lines = re.findall(r"^\| (\d+)% \| ([\d.]+) \|", page, re.MULTILINE)
    assert len(lines) == len(SHARES)
    for share, alpha in lines:
        threshold = contents.threshold("joint", float(alpha), 0.1)
        assert threshold is not None
        given = sum(doubt <= threshold for doubt in contents.uncertainties)
        assert given >= round(int(share) / 100 * 150) - 1


def test_rates_of_random_halves_keep_the_joint_promise() -> None:
    found = abstention(answers(300), AbstainConfig())
    rates = split_rates(found, "joint", 0.1, 0.1, 0)
    assert rates is not None
    assert 0.05 < rates.answered_and_wrong <= 0.105
    assert rates.error == pytest.approx(rates.answered_and_wrong / rates.answered)
    assert rates.error > rates.answered_and_wrong  # what the joint promise does not say
    assert split_rates(abstention(answers(20), AbstainConfig()), "joint", 0.05, 0.1, 0) is None


def test_an_answer_without_the_score_is_kept_as_one_that_is_never_given() -> None:
    found = answers(30)
    del found.rows[0].scores["logprob_mean"]  # type: ignore[attr-defined]
    contents = abstention(found, AbstainConfig())
    assert (contents.spec.rows, contents.spec.unscored) == (30, 1)
    assert Abstention.from_tensors(contents.spec, contents.tensors()).wrong.count(True) <= 29


def test_the_first_answer_to_a_question_counts() -> None:
    found = answers(30, 2)
    first = GradedAnswers(found.rows[::2], found.temperature, found.window)
    assert abstention(found, AbstainConfig()) == abstention(first, AbstainConfig())


REFUSED: dict[str, tuple[Callable[[], object], str]] = {
    "a score that no answer has": (
        lambda: abstention(answers(30), AbstainConfig(score="collision_mean")),
        "no answer has it",
    ),
    "all right": (
        lambda: fit_probe(
            fit_data(GradedAnswers([r._replace(right=True) for r in answers().rows], None, None)),
            ("logprob_mean",),
            "platt",
            0,
        ),
        "all answers are right",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_fitted_is_refused(case: str) -> None:
    attempt, message = REFUSED[case]
    with pytest.raises(TrainingError, match=message):
        attempt()


def test_options_that_contradict_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="unknown score"):
        ConfidenceConfig(features="entropy")
    with pytest.raises(ValueError, match="belong together"):
        AbstainConfig(score="probability")
    with pytest.raises(TrainingError, match="--name MODEL/NAME"):
        train_abstention(AbstainConfig(**{**settings, "name": None}), QUIET)
