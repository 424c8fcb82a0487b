"""`train-probe confidence` and `train-probe abstain` on rows; the choice, the figures, refusals."""

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

from probes.artifact import Artifact
from probes.selective.abstention import Abstention
from probes.selective.confidence import ConfidenceProbe
from training.common import hidden_states
from training.common.errors import TrainingError
from training.selective import fit
from training.selective.abstain import SHARES, abstention, split_rates, train_abstention
from training.selective.confidence import fit_data, train_confidence
from training.selective.config import AbstainConfig, ConfidenceConfig
from training.selective.figures import compare, uncalibrated_errors
from training.selective.fit import (
    Feature,
    FitData,
    candidates,
    cross_fitted,
    final_probe,
    fit_probe,
    folds,
    probabilities,
)
from training.selective.prompt_state import coordinates
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


def test_a_curve_removes_the_error_of_a_score_that_is_too_sure() -> None:
    found = answers(400)
    rows = [row._replace(reports={"p_true": 0.9, "verbalized": 0.5}) for row in found.rows]
    data = fit_data(found)
    scores = {**data.columns, "logprob_sum": data.columns["logprob_mean"] / 4}
    data = data._replace(columns=scores)
    before = uncalibrated_errors(rows, data)
    assert set(before) == {"logprob_mean", "logprob_sum", "p(True)", "verbalized confidence"}
    assert before["p(True)"] == pytest.approx(abs(0.9 - data.right.mean()))
    assert before["logprob_sum"] > 0.15
    figures = compare(rows, data, np.full(400, 0.5), 0)
    for name in ("logprob_sum", "p(True)"):
        after = figures[name].ece
        assert after is not None
        assert after < 0.5 * before[name]


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
    folder = train_confidence(ConfidenceConfig(**settings, test=(str(other),)), QUIET)
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
        train_confidence(ConfidenceConfig(**settings, test=(str(other),)), QUIET)


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


def with_states(found: GradedAnswers, informative: bool, size: int = 12) -> FitData:
    """States in which one direction is the skill of the question, or nothing is."""
    data, draw = fit_data(found), np.random.default_rng(5)
    states = draw.normal(size=(int(data.groups.max()) + 1, size))
    if informative:
        np.add.at(states[:, 2], data.groups.astype(int), 4.0 * data.right)
    return data._replace(states=states)


@pytest.mark.parametrize("informative", [True, False])
def test_the_state_is_chosen_only_if_it_predicts_questions_left_out(informative: bool) -> None:
    data = with_states(answers(300), informative)
    sets: list[tuple[Feature, ...]] = [("logprob_mean",), ("prompt_state",)]
    sets.append(("logprob_mean", "prompt_state"))
    best = candidates(data, sets, 0)[0]
    assert ("prompt_state" in best.features) is informative
    made = GradedAnswers([], 0.7, 2048)
    probe = final_probe(data, best, made, 0)
    assert probe.reader is not None
    assert bool(probe.reader.weight.any()) is informative
    read = ConfidenceProbe.from_tensors(probe.spec, probe.tensors())
    assert np.array_equal(probabilities(read, data), probabilities(probe, data))


def test_only_prompts_unlike_the_questions_are_out_of_distribution() -> None:
    data = with_states(answers(400), informative=False)
    choice = candidates(data, [("logprob_mean",)], 0)[0]
    probe = final_probe(data, choice, GradedAnswers([], None, None), 0)
    state, reader = probe.spec.state, probe.reader
    assert state is not None
    assert reader is not None
    draw = np.random.default_rng(6)
    alike, other = draw.normal(size=(400, 12)), draw.normal(size=(400, 12)) + 3.0
    flagged = [(coordinates(reader, one)[1] > state.threshold).mean() for one in (alike, other)]
    assert flagged[0] < 0.04
    assert flagged[1] > 0.9


def test_states_of_rows_are_read_through_the_checkpoint(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def states(checkpoint: Path, prompts: list[str], advance: Any) -> Any:
        asked.append((checkpoint, len(prompts)))
        return torch.randn(len(prompts), 8, generator=torch.Generator().manual_seed(0)), None

    monkeypatch.setattr(hidden_states, "hidden_states", states)
    monkeypatch.setattr(fit, "FOLDS", 2)  # this test is about files
    other = settings["runs"].parent / "other.jsonl"
    save_rows(answers(60, 1, 1), other)
    job = ConfidenceConfig(**settings, state=True, test=(str(other),), features="logprob_mean")
    for _ in range(2):  # the second run finds the states
        found = Artifact.load(train_confidence(job, QUIET)).manifest.confidence
    assert asked == [(settings["checkpoint"], 150), (settings["checkpoint"], 60)]
    assert found is not None
    assert found.state is not None
    assert (found.state.features, found.state.questions) == (8, 150)
    page = (settings["runs"] / "selective-rows" / "confidence.md").read_text()
    assert "| state of the prompt |" in page
    assert "of the 60 questions are out of distribution" in page
    nameless = settings["runs"].parent / "nameless.jsonl"
    nameless.write_text("\n".join(['{"right": 1, "logprob_mean": -1}'] * 30))
    with pytest.raises(TrainingError, match="every row needs a `question`"):
        train_confidence(ConfidenceConfig(**{**settings, "task": str(nameless)}, state=True), QUIET)
