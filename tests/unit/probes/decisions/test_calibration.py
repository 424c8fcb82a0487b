"""Prediction sets keep their level, over all inputs and for each right value."""

import pytest
import torch
from torch import Tensor

from probes.decisions.calibration import (
    CalibratedQuestion,
    DecisionCalibration,
    DecisionSpec,
    QuestionCalibration,
    TooFewRows,
    rows_needed,
)
from probes.decisions.question import choice
from probes.decisions.scores import ReadSettings

SETTINGS = ReadSettings()
SIZE = 3


def rows(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Predictions that are overconfident, worst for the rare last option."""
    draw = torch.Generator().manual_seed(seed)
    weights = torch.tensor([0.6, 0.35, 0.05])
    labels = torch.multinomial(weights, count, replacement=True, generator=draw)
    noise = torch.randn(count, SIZE, generator=draw, dtype=torch.float64) * 3
    noise[:, 2] -= 2
    truth = torch.nn.functional.one_hot(labels, SIZE) * 3.0
    return torch.softmax(truth + noise, -1), labels


def calibration(probabilities: Tensor, labels: Tensor) -> QuestionCalibration:
    eye = torch.eye(SIZE, dtype=torch.float64)
    zero = torch.zeros(SIZE, dtype=torch.float64)
    return QuestionCalibration.of(SETTINGS, eye, zero, probabilities, labels)


@pytest.mark.parametrize("score", ["lac", "aps"])
@pytest.mark.parametrize("level", [0.8, 0.9])
def test_sets_cover_at_their_level_over_all_inputs_and_by_class(score: str, level: float) -> None:
    whole: list[list[Tensor]] = []
    by_class: list[list[Tensor]] = []
    for seed in range(40):
        one = calibration(*rows(1500, seed))
        tested, labels = rows(1500, 1000 + seed)
        for found, conditional in ((whole, False), (by_class, True)):
            members = one.sets(tested, level, score, by_class=conditional)  # type: ignore[arg-type]
            inside = members.gather(-1, labels[:, None]).squeeze(-1).double()
            found.append([inside.mean(), *(inside[labels == k].mean() for k in range(SIZE))])
    margins, classes = torch.tensor(whole).mean(0), torch.tensor(by_class).mean(0)
    assert float(margins[0]) == pytest.approx(level, abs=0.015)
    assert bool((classes[1:] >= level - 0.02).all())
    assert float(margins[3]) < level - 0.1  # what conditioning on the class is for


def test_classes_with_too_few_rows_share_theirs_or_are_always_inside() -> None:
    probabilities, _ = rows(100, 0)
    labels = torch.tensor([0] * 90 + [1] * 5 + [2] * 5)
    limits = calibration(probabilities, labels).thresholds(0.8, by_class=True)
    assert limits[1] != limits[2]  # five rows suffice for .8: ceil(6 * .8) = 5
    shared = calibration(probabilities, labels).thresholds(0.9, by_class=True)
    assert shared[1] == shared[2] != shared[0]
    alone = torch.tensor([0] * 98 + [1, 2])
    assert calibration(probabilities, alone).thresholds(0.9, by_class=True)[1] == torch.inf


def test_no_set_is_empty() -> None:
    probabilities, _labels = rows(400, 0)
    sure = probabilities.argmax(-1)
    one = calibration(probabilities, sure)  # always right: thresholds below some best option
    members = one.sets(probabilities, 0.5)
    assert bool((members.sum(-1) == 1).all())
    assert torch.equal(members.int().argmax(-1), sure)


def test_too_few_rows_for_a_level_are_refused_and_the_number_needed_is_known() -> None:
    probabilities, labels = rows(rows_needed(0.9) - 1, 0)
    with pytest.raises(TooFewRows, match="promise"):
        calibration(probabilities, labels).thresholds(0.9)
    assert rows_needed(0.9) == 9
    calibration(*rows(rows_needed(0.9), 0)).thresholds(0.9)


def spec() -> DecisionSpec:
    question = choice("Which?", ["a", "b", "c"])
    return DecisionSpec(
        questions=(
            CalibratedQuestion(
                name="q", question=question, settings=SETTINGS, method="temperature"
            ),
        )
    )


def tensors() -> dict[str, Tensor]:
    probabilities, labels = rows(50, 0)
    return {
        "0.weight": torch.eye(SIZE),
        "0.bias": torch.zeros(SIZE),
        "0.probabilities": probabilities,
        "0.labels": labels,
    }


def test_an_artifact_calibrates_exactly_the_question_that_it_names() -> None:
    found = DecisionCalibration.from_tensors(spec(), tensors()).questions
    assert choice("Which?", ["a", "b", "c"]) in found
    for other in (
        choice("Which one?", ["a", "b", "c"]),
        choice("Which?", ["b", "a", "c"]),
        choice("Which?", ["a", "b", "c"], ["first"]),
    ):
        assert other not in found


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("0.weight", None, "is missing"),
        ("0.weight", torch.eye(2), "has shape"),
        ("0.bias", torch.full((3,), torch.nan), "holds no finite numbers"),
        ("0.labels", torch.full((50,), 3), "names no options"),
        ("0.probabilities", torch.zeros(0, 3), "has shape"),
    ],
)
def test_a_damaged_artifact_says_what_is_wrong(
    name: str, value: Tensor | None, reason: str
) -> None:
    damaged = tensors()
    if value is None:
        del damaged[name]
    else:
        damaged[name] = value
    with pytest.raises(ValueError, match=reason):
        DecisionCalibration.from_tensors(spec(), damaged)
