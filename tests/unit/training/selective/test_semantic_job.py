"""`train-probe semantic`: the label, the split, the two probes and their controls."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

from probes.artifact import Artifact
from training.common import hidden_states
from training.common.errors import TrainingError
from training.selective import fit
from training.selective.config import SemanticConfig
from training.selective.rows import GradedAnswer, GradedAnswers, save_rows
from training.selective.semantic import best_split, sampled_questions, train_semantic

QUIET = Console(quiet=True)


def answers(questions: int = 100, samples: int = 4) -> GradedAnswers:
    """Every other question is unclear: all of its answers but two differ, and are often wrong."""
    draw, rows = np.random.default_rng(0), []
    for number in range(questions):
        unclear = number % 2 == 1
        for sample in range(samples + 1):
            words = str(sample // 2) if unclear else "7"
            scores = {
                name: float(draw.normal())
                for name in ("logprob_mean", "entropy_mean", "num_tokens")
            }
            right = bool(draw.uniform() < (0.3 if unclear else 0.8))
            rows.append(GradedAnswer(f"question {number:03}", "a", right, scores, words))
    return GradedAnswers(rows, 0.7, 2048)


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"weights")
    save_rows(answers(), tmp_path / "rows.jsonl")

    def states(checkpoint: Path, prompts: list[str], advance: Any) -> Any:
        found = torch.randn(len(prompts), 8, generator=torch.Generator().manual_seed(0))
        found[:, 3] += torch.tensor([4.0 * (int(prompt[-1]) % 2) for prompt in prompts])
        return found, None

    monkeypatch.setattr(hidden_states, "hidden_states", states)
    monkeypatch.setattr(fit, "FOLDS", 3)
    return {
        "task": str(tmp_path / "rows.jsonl"),
        "name": "m/semantic",
        "checkpoint": folder,
        "out": tmp_path / "artifacts",
        "runs": tmp_path / "runs",
    }


def test_the_split_leaves_the_least_squared_error() -> None:
    golden = [0, 0, 0, 0.325083, 0.500402, 0.802, 0.9, 1.2, 1.5, 1.8, 2, 2.3]
    assert best_split(np.array(golden)) == pytest.approx(1.05)
    with pytest.raises(TrainingError, match="disagree equally"):
        best_split(np.ones(5))


def test_the_first_answer_is_graded_and_the_others_are_counted() -> None:
    found = sampled_questions(answers(4))
    assert [one.entropy for one in found] == pytest.approx([0, 1.039721, 0, 1.039721])
    assert [one.agreement for one in found] == [1.0, 0.5, 1.0, 0.5]
    assert found[0].graded == answers(4).rows[0]


def test_a_probe_predicts_from_the_prompt_where_answers_disagree(settings: dict[str, Any]) -> None:
    manifest = Artifact.load(train_semantic(SemanticConfig(**settings, samples=4), QUIET)).manifest
    spec = manifest.confidence
    assert spec is not None
    assert (spec.predicts, spec.features, spec.temperature) == ("high_entropy", (), 0.7)
    assert spec.state is not None
    assert manifest.metrics["auroc_high_entropy"] > 0.9
    assert manifest.metrics["auroc_errors"] > 0.6
    page = (settings["runs"] / "selective-rows" / "semantic.md").read_text()
    shuffled = [line for line in page.splitlines() if line.startswith("| SEP, shuffled")]
    assert len(shuffled) == 2
    assert all(0.3 < float(line.split("|")[2].split()[0]) < 0.7 for line in shuffled)
    assert "| accuracy probe, same states |" in page


def test_rows_that_say_nothing_about_agreement_are_refused(settings: dict[str, Any]) -> None:
    found = answers(20)
    cases = {
        "three are needed": found.rows[::5],
        "more than half": [
            row._replace(answer=f"{row.answer}{index}") for index, row in enumerate(found.rows)
        ],
        "no row has an `answer`": [row._replace(answer=None) for row in found.rows],
        "every row needs": [row._replace(scores={"entropy_max": 1.0}) for row in found.rows],
    }
    for message, rows in cases.items():
        with pytest.raises(TrainingError, match=message):
            sampled_questions(GradedAnswers(rows, 0.7, 2048))
    assert math.isclose(sampled_questions(found)[1].entropy, 1.039721, rel_tol=1e-5)
