"""Settings of `train-probe inquiry`."""

from collections.abc import Mapping
from typing import Any, ClassVar, Self

from pydantic import Field, model_validator

from training.common.config import ServedJobConfig


class InquiryConfig(ServedJobConfig):
    """Settings of the job."""

    quick: ClassVar[Mapping[str, Any]] = {"task": "triage", "samples": 200, "games": 24}
    minutes: ClassVar[str] = "about 5 minutes with the defaults, 1 with --quick"

    task: str = "animals"
    """animals, triage, or a JSON file; a task needs ten labels or more."""
    samples: int = Field(1000, ge=20, le=100_000)
    """Calibration histories for each length."""
    lengths: int = Field(25, ge=1, le=200)
    """Maximum length of a calibrated history, in answers."""
    direct: int = Field(0, ge=0)
    """Calibration histories of each length for the predictor `direct`, one forward pass each; 0
    leaves it out."""
    direct_lengths: int = Field(8, ge=1, le=200)
    """Maximum length of a history of the predictor `direct`, in answers."""
    games: int = Field(200, ge=10)
    """Simulated games of each rule."""
    level: float = Field(0.9, gt=0, lt=1)
    """Confidence level to measure at; a server takes any."""
    ridge: float = Field(1.0, ge=0.01)
    """Shrinkage of each question toward all of them; 1 has the weight of a few labels."""
    concurrency: int = Field(64, ge=1)
    """Statements in flight at once."""

    @model_validator(mode="after")
    def _enough_samples(self) -> Self:
        highest = self.samples / (self.samples + 1)
        if self.level > highest:
            raise ValueError(
                f"--level {self.level}: {self.samples} samples promise a level of at most "
                f"{highest:.4f}; raise --samples for a higher one"
            )
        return self
