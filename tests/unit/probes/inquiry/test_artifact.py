import pytest
import torch

from probes.inquiry.artifact import Inquiry, InquirySpec, TooFewSamples
from tests.unit.probes.inquiry.test_task import PETS

SPEC = InquirySpec.model_validate(
    {"task": PETS, "predictors": ["likelihood"], "score": "lac", "fitted": ["cat"]}
)
TENSORS = {
    "table": torch.tensor([[-3.0, -2.0, -1.0], [-1.0, -2.0, -3.0]]),
    "slope": torch.ones(3),
    "bias": torch.zeros(3),
    "pooled": torch.tensor([1.0, 0.0]),
    "scores.likelihood": torch.linspace(-0.9, -0.1, 9).repeat(4, 1),
}


def test_an_artifact_becomes_answers_and_thresholds() -> None:
    inquiry = Inquiry.from_tensors(SPEC, TENSORS)
    torch.testing.assert_close(inquiry.logprobs.exp().sum(1), torch.ones(3, 2, dtype=torch.float64))
    calibration = inquiry.calibration("likelihood", 0.5)
    assert calibration.thresholds.tolist() == pytest.approx([-0.5] * 4)  # the 5th of 9
    assert calibration.num_samples == 9


def test_a_level_that_cannot_be_promised_is_an_error_that_says_which_can() -> None:
    inquiry = Inquiry.from_tensors(SPEC, TENSORS)
    assert inquiry.calibration("likelihood", 0.9).confidence_level == 0.9
    with pytest.raises(TooFewSamples, match=r"9 calibration samples promise 0\.9000 at most"):
        inquiry.calibration("likelihood", 0.91)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"table": None}, "`table` is missing"),
        ({"slope": torch.ones(4)}, r"`slope` has shape \(4,\) instead of \(3,\)"),
        ({"bias": torch.full((3,), torch.nan)}, "`bias` holds no finite numbers"),
        ({"pooled": None}, "`pooled` is missing"),
        ({"scores.likelihood": None}, "`scores.likelihood` is missing"),
        ({"scores.likelihood": torch.ones(4)}, "not \\(lengths, n\\)"),
        ({"scores.likelihood": torch.ones(0, 4)}, "not \\(lengths, n\\)"),
    ],
)
def test_a_malformed_artifact_says_what_is_wrong(
    changes: dict[str, torch.Tensor | None], message: str
) -> None:
    tensors = {key: value for key, value in (TENSORS | changes).items() if value is not None}
    with pytest.raises(ValueError, match=message):
        Inquiry.from_tensors(SPEC, tensors)


def test_likelihood_is_always_there_to_fall_back_on() -> None:
    spec = SPEC.model_copy(update={"predictors": ("direct",)})
    with pytest.raises(ValueError, match="lacks `likelihood`"):
        Inquiry.from_tensors(spec, TENSORS)
