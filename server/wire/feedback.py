"""Wire format of `POST /v1/entropy/feedback`."""

from typing import Literal, Self

from pydantic import Field, StrictBool, StrictInt, StrictStr, model_validator

from probes.strict import RequestModel
from server.wire.report import ReportModel


class FeedbackRequest(RequestModel):
    """Whether an answer was right, or what the right value is."""

    id: str = Field(min_length=1, max_length=1000)
    """Id of the response; of a decision, its header `X-Entropy-Id`."""
    index: StrictInt = Field(0, ge=0, le=100_000)
    """Index of the choice, or of the question of a decision."""
    right: StrictBool | None = None
    """Whether the answer was right."""
    value: StrictStr | StrictBool | StrictInt | None = None
    """The right value: a label of an inquiry, or a value of the question of a decision (true or
    false, a choice, or the index of a level)."""

    @model_validator(mode="after")
    def _has_one_of_both(self) -> Self:
        if (self.right is None) == (self.value is None):
            raise ValueError("set exactly one of `right` and `value`")
        if isinstance(self.value, str) and len(self.value) > 100_000:
            raise ValueError("`value` has more than 100000 characters")
        return self


class FeedbackResponse(ReportModel):
    """What the feedback was counted as."""

    object: Literal["entropy.feedback"] = "entropy.feedback"
    """Always `entropy.feedback`."""
    id: str
    """As sent."""
    index: int
    """As sent."""
    kind: Literal["completion", "inquiry", "decision"]
    """What the answer is."""
    right: bool
    """Whether the answer was right. With `value`: whether it was the most probable value."""
    covered: bool | None = None
    """Whether the prediction set had the right value; None without `value` or calibration."""
