"""Answers under a calibration: sets, abstention, and what a request may not change."""

from pathlib import Path
from typing import Any

import pytest
import torch

from probes.artifact import Artifact, Manifest
from probes.decisions.calibration import CalibratedQuestion, DecisionSpec
from probes.decisions.question import choice
from probes.decisions.scores import ReadSettings
from server.feedback.facts import digest
from tests.unit.server.decisions.support import KEPT, CharacterEngine, post
from tests.unit.server.support import SERVED, artifacts

VALUES = ["cat", "dog", "cow"]
TEAM: dict[str, Any] = {
    "type": "choice",
    "instructions": "Who?",
    "choices": [{"value": value} for value in VALUES],
}


def save(root: Path, sure: float, name: str = "m/teams") -> Path:
    """A calibration whose 99 rows gave the right option this probability."""
    rest = (1 - sure) / 2
    question = choice("Who?", VALUES)
    spec = DecisionSpec(
        questions=(
            CalibratedQuestion(
                name="team", question=question, settings=ReadSettings(), method="temperature"
            ),
        )
    )
    manifest = Manifest(
        kind="decision-calibration",
        model="m",
        identity=SERVED,
        data_hash="d",
        seed=0,
        decision=spec,
    )
    tensors = {
        "0.weight": torch.eye(3),
        "0.bias": torch.tensor([5.0, 0.0, 0.0]),
        "0.probabilities": torch.tensor([[sure, rest, rest]]).repeat(99, 1),
        "0.labels": torch.zeros(99),
    }
    return Artifact(id=name, manifest=manifest, tensors=tensors).save(root)


def decided(tmp_path: Path, sure: float, question: dict[str, Any] = TEAM, **entropy: Any) -> Any:
    save(tmp_path, sure)
    control = {"calibration": "m/teams", **entropy}
    body = {"input": "the text", "questions": [question], "entropy": control}
    return post(CharacterEngine(), body, known=artifacts(tmp_path))


def test_a_calibrated_answer_has_scaled_probabilities_and_a_set(tmp_path: Path) -> None:
    answer = decided(tmp_path, 0.8).json()["answers"][0]
    report = answer["entropy"]
    assert report["calibrated"]
    assert report["confidence_level"] == 0.9
    assert report["prediction_set"] == [answer["choice"]] == ["cat"]
    assert not report["abstained"]
    logits = torch.tensor(report["raw"], dtype=torch.float64).log() + torch.tensor([5.0, 0, 0])
    found = [one["probability"] for one in answer["probabilities"]]
    assert found == pytest.approx(logits.softmax(-1).tolist())
    assert answer["confidence"] == max(found)


def test_a_set_of_several_values_abstains_unless_the_request_allows_it(tmp_path: Path) -> None:
    report = decided(tmp_path, 1e-6).json()["answers"][0]["entropy"]
    assert report["prediction_set"] == VALUES
    assert report["abstained"]
    allowed = decided(tmp_path, 1e-6, abstain={"max_set_size": 3}).json()["answers"][0]["entropy"]
    assert not allowed["abstained"]
    refused = decided(tmp_path, 1e-6, abstain={"answer": "refusal"}).json()["answers"][0]
    assert refused["type"] == "refusal"
    assert refused["entropy"]["prediction_set"] == VALUES


def test_another_question_is_answered_uncalibrated(tmp_path: Path) -> None:
    other = {**TEAM, "instructions": "Which?"}
    report = decided(tmp_path, 0.8, other).json()["answers"][0]["entropy"]
    assert not report["calibrated"]
    assert report["prediction_set"] is None


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"read": "both"}, "entropy.read"),
        ({"orders": 3}, "entropy.orders"),
        ({"prior": False}, "entropy.prior"),
        ({"confidence_level": 0.995}, "entropy.confidence_level"),
        ({"calibration": "m/other"}, "entropy.calibration"),
    ],
)
def test_what_the_calibration_does_not_cover_is_refused(
    tmp_path: Path, change: dict[str, Any], param: str
) -> None:
    answer = decided(tmp_path, 0.8, **change)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param
    assert decided(tmp_path, 0.8, read="letters", orders=2, prior=True).status_code == 200


def test_a_damaged_calibration_is_listed_with_the_reason(tmp_path: Path) -> None:
    folder = save(tmp_path, 0.8)
    whole = Artifact.load(folder)
    tensors = {name: one for name, one in whole.tensors.items() if name != "0.bias"}
    Artifact(id="m/broken", manifest=whole.manifest, tensors=tensors).save(tmp_path)
    cards = {card.id: card for card in artifacts(tmp_path).cards}
    assert cards["m/teams"].usable
    said = "m/broken: weights.safetensors: the tensor `0.bias` is missing"
    assert cards["m/broken"].reason == said


def test_the_prediction_set_of_an_answer_is_kept_for_feedback(tmp_path: Path) -> None:
    answer = decided(tmp_path, 0.8)
    kept = KEPT[-1]
    assert kept.id == answer.headers["x-entropy-id"]
    prediction = kept.facts.prediction
    assert prediction is not None
    inside = {VALUES[place] for place in prediction.members}
    assert inside == set(answer.json()["answers"][0]["entropy"]["prediction_set"])
    assert (prediction.level, prediction.artifact) == (0.9, "m/teams")
    assert prediction.values == tuple(map(digest, VALUES))
