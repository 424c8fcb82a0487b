"""Rows, scaling and report of `train-probe decisions`, on synthetic reads."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from probes.artifact import Artifact, ModelIdentity
from probes.decisions.calibration import DecisionCalibration
from probes.decisions.question import choice
from probes.decisions.scores import OptionLogprobs, ReadSettings, probabilities
from training.common.errors import TrainingError
from training.datasets import tickets as ticket_module
from training.datasets.tickets import TEAMS, tickets
from training.decisions.config import DecisionsConfig
from training.decisions.fit import candidates, evidence_of, fit_scaling, split_rows
from training.decisions.job import artifact_tensors, build_manifest, calibrate_question, check
from training.decisions.metrics import quality, set_figures
from training.decisions.report import write_report
from training.decisions.rows import LabeledRow, load_rows

SIZE = 4
QUESTION = choice("Which?", list("abcd"))
ASKED = {"type": "choice", "name": "which", "instructions": "Which?"}


def reads(count: int, seed: int = 0) -> tuple[list[OptionLogprobs], torch.Tensor]:
    """Letters that know the right option but are far too sure; statements that know less."""
    draw = torch.Generator().manual_seed(seed)
    labels = torch.randint(SIZE, (count,), generator=draw)
    truth = torch.nn.functional.one_hot(labels, SIZE).double()
    noise = torch.randn(count, 2, SIZE, generator=draw, dtype=torch.float64)
    letters = torch.log_softmax(8 * (2 * truth + noise[:, 0]), -1)
    statements = 2 * truth + 2 * noise[:, 1] - 20
    zeros = [0.0] * SIZE
    found = [
        OptionLogprobs([one, one], [zeros, zeros], two, zeros)
        for one, two in zip(letters.tolist(), statements.tolist(), strict=True)
    ]
    return found, labels


@pytest.mark.parametrize("method", ["temperature", "dirichlet"])
def test_scaling_makes_probabilities_honest_without_changing_much_else(method: Any) -> None:
    (found, labels), (other, truth) = reads(800), reads(800, 1)
    settings = ReadSettings()
    fitted = fit_scaling(evidence_of(found, settings), labels, method)
    evidence = evidence_of(other, settings)
    before = quality(probabilities(evidence), truth)
    logits = evidence.flatten(-2) @ fitted.weight.T + fitted.bias
    after = quality(logits.softmax(-1), truth)
    assert before.ece > 0.1
    assert after.ece < 0.05
    assert after.log_loss < before.log_loss
    assert after.accuracy == pytest.approx(before.accuracy, abs=0.02)


def test_the_ridge_is_chosen_so_that_confidence_is_not_too_small() -> None:
    """Small evidence, each option's in the column of the next one: far from one scale for all."""

    def shifted(seed: int) -> tuple[list[OptionLogprobs], torch.Tensor]:
        draw = torch.Generator().manual_seed(seed)
        labels = torch.randint(SIZE, (600,), generator=draw)
        truth = torch.nn.functional.one_hot((labels + 1) % SIZE, SIZE).double()
        rows = 0.2 * (2 * truth + torch.randn(600, SIZE, generator=draw, dtype=torch.float64))
        zeros = [0.0] * SIZE
        return [OptionLogprobs([row], [zeros]) for row in rows.tolist()], labels

    (found, labels), (other, truth) = shifted(0), shifted(1)
    chosen = candidates(found, labels, [("letters",)], 1, 0)[0]
    ece = {}
    for ridge in (1e-2, chosen.ridge):
        fitted = fit_scaling(evidence_of(found, chosen.settings), labels, chosen.method, ridge)
        logits = evidence_of(other, chosen.settings).flatten(-2) @ fitted.weight.T + fitted.bias
        ece[ridge] = quality(logits.softmax(-1), truth).ece
    assert ece[chosen.ridge] < ece[1e-2] / 2


def test_both_reads_predict_better_than_one_and_are_chosen() -> None:
    found, labels = reads(400)
    ways = candidates(
        found, labels, [("letters",), ("statements",), ("letters", "statements")], 2, 0
    )
    assert ways[0].settings.reads == ("letters", "statements")
    assert ways == sorted(ways, key=lambda way: way.loss)


def test_rows_are_used_for_one_purpose_each() -> None:
    split = split_rows(101, 3)
    assert sorted(torch.cat(list(split)).tolist()) == list(range(101))
    assert [len(part) for part in split] == [40, 40, 21]


def result(count: int) -> Any:
    found, labels = reads(count)
    rows = [LabeledRow("x", ASKED, QUESTION, label) for label in labels.tolist()]
    return rows, calibrate_question(DecisionsConfig(), 0, QUESTION, range(count), rows, found)


def test_coverage_over_random_halves_is_what_the_level_promises() -> None:
    _, one = result(600)
    rest = torch.cat([one.split.calibrated, one.split.held_out])
    for level in (0.8, 0.9, 0.95):
        figures = set_figures(one.calibration, one.scaled(rest), one.labels[rest], level, 200)
        assert figures.kept >= 0.97
        assert figures.coverage >= level - 0.01
        if level > one.tested().accuracy:
            assert figures.coverage == pytest.approx(level, abs=0.02)


def made_of(rows: Any, one: Any) -> tuple[Artifact, Any]:
    """The artifact of a calibrated question, and the question."""
    served: Any = type("S", (), {"model": "m/x", "vllm": "0", "root": ""})
    identity = ModelIdentity.unknown()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("training.decisions.job.identify_served", lambda *_: identity)
        manifest = build_manifest(DecisionsConfig(), served, rows, [one])
    return Artifact(id="x/which", manifest=manifest, tensors=artifact_tensors([one])), one


def test_the_artifact_is_read_back_as_it_was_fitted_and_the_page_has_its_figures(
    tmp_path: Path,
) -> None:
    artifact, one = made_of(*result(400))
    saved = Artifact.load(artifact.save(tmp_path))
    assert saved.manifest.decision is not None
    again = DecisionCalibration.from_tensors(saved.manifest.decision, saved.tensors)
    for level in (0.8, 0.95):
        limits = again.questions[QUESTION].thresholds(level)
        assert torch.equal(limits, one.calibration.thresholds(level))
    page = write_report([one], artifact, 0.9, "train-probe decisions", tmp_path, 20).read_text()
    assert "vLLM's letters" in page
    assert (tmp_path / "decisions.png").read_bytes().startswith(b"\x89PNG")


def test_the_risk_of_a_level_at_which_no_set_has_one_value_is_a_dash(tmp_path: Path) -> None:
    found, labels = reads(200)
    rows = [LabeledRow("x", ASKED, QUESTION, label) for label in labels.roll(1).tolist()]
    one = calibrate_question(DecisionsConfig(), 0, QUESTION, range(200), rows, found)
    artifact, _ = made_of(rows, one)
    page = write_report([one], artifact, 0.9, "train-probe decisions", tmp_path, 20).read_text()
    (line,) = [line for line in page.splitlines() if line.startswith("| 0.95 |")]
    assert line.endswith("| 0.0% | - |")
    assert "nan" not in page


def load(tmp_path: Path, name: str, text: str, instructions: str | None = None) -> Any:
    (tmp_path / name).write_text(text)
    return load_rows(str(tmp_path / name), instructions, 100, 0)


def test_rows_of_every_shape_are_read(tmp_path: Path) -> None:
    asked = {"type": "choice", "instructions": "?", "choices": [{"value": "a"}, {"value": True}]}
    single = json.dumps({"input": "x", "question": asked, "value": True})
    scale = {
        "type": "score",
        "name": "s",
        "instructions": "?",
        "levels": [{"label": "low"}, {"label": "high"}],
    }
    several = json.dumps(
        {
            "input": [{"role": "user", "content": "x"}],
            "questions": [{**asked, "name": "c"}, scale],
            "answers": {"c": "a", "s": "high"},
        }
    )
    found = load(tmp_path, "a.jsonl", f"{single}\n\n{several}\n")
    assert [row.label for row in found] == [1, 0, 1]
    evals = '{"item": {"input": "x", "ideal": "yes"}}\n{"input": "y", "ideal": ["no"]}\n'
    found = load(tmp_path, "b.jsonl", evals, "Is it?")
    assert [row.question.values[row.label] for row in found] == ["yes", "no"]
    found = load(tmp_path, "c.csv", 'text,label\n"a, b",cat\nc,dog\n', "Which?")
    assert [(row.input, row.question.values[row.label]) for row in found] == [
        ("a, b", "cat"),
        ("c", "dog"),
    ]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "contains no rows"),
        ('{"input": "x", "value": "a"}', "need --instructions"),
        ('{"input": "x", "question": {"type": "essay", "instructions": ""}, "value": 1}', "essay"),
        ('{"input": "x", "question": {"type": "choice"}, "value": 1}', "not a question"),
        ('{"input": "x", "question": {"type": "predicate", "instructions": "?"}}', "right value"),
        (
            '{"input": "x", "question": {"type": "predicate", "instructions": "?"}, "value": 3}',
            "not an option",
        ),
        ('{"question": {"type": "predicate", "instructions": "?"}, "value": true}', "no `input`"),
        ('{"item": 3}', "not a JSON object"),
    ],
)
def test_a_malformed_row_names_its_place(tmp_path: Path, text: str, reason: str) -> None:
    with pytest.raises(TrainingError, match=reason):
        load(tmp_path, "rows.jsonl", text)


def test_the_shipped_tickets_are_those_of_the_templates_and_balanced() -> None:
    path = Path(ticket_module.__file__).with_name("tickets.jsonl")
    shipped = [json.loads(line) for line in path.read_text().splitlines()]
    assert shipped == list(tickets(720, 0))
    assert len({one["input"] for one in shipped}) == 720
    assert {sum(one["team"] == team for one in shipped) for team in TEAMS} == {120}


def test_too_few_rows_for_the_level_are_refused_before_anything_starts() -> None:
    check(DecisionsConfig(limit=25, level=0.9))
    with pytest.raises(TrainingError, match="needs 48"):
        check(DecisionsConfig(limit=30, level=0.95))
