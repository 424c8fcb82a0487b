"""Settings of `train-probe difficulty`."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from probes.graders import GraderName
from training.common.config import CommaSeparated, ServedJobConfig

HeadKind = Literal["auto", "linear", "mlp"]
Labeling = Literal["entropy", "outcome"]
"""By accuracy and entropy of the answers by the strategy normal, or by the answers by all three."""


class AnswersConfig(ServedJobConfig):
    """How questions are answered."""

    samples: int = Field(6, ge=2)
    """Answers to each question."""
    max_tokens: int = Field(96, ge=16)
    """Maximum length of an answer, in tokens; the budget of a strategy is a share of it."""


class DifficultyConfig(AnswersConfig):
    """Settings of the job."""

    quick: ClassVar[Mapping[str, Any]] = {"problems": 120, "samples": 2, "head": "linear"}
    minutes: ClassVar[str] = "about 30 minutes with the defaults, 5 with --quick"

    task: CommaSeparated = ("arithmetic", "words", "facts")
    """Questions, separated by commas: arithmetic, words, facts, quiz, a JSONL file with `prompt`
    and `answer`, openai/gsm8k, HuggingFaceH4/MATH-500."""
    grader: GraderName | None = None
    """Grader of JSONL questions that name none."""
    problems: int = Field(450, ge=50, le=1_000_000)
    """Number of questions, 50 or more; every class needs ten or more of them."""
    strategies: str = "think"
    """How each class is answered: `think` (the answer alone, step by step, or an outline), `short`
    (the answer alone, as it is, or a word that it is not known), `plain` (no text is added), or a
    TOML file."""
    labels: Labeling = "entropy"
    """`entropy`: by accuracy and entropy of the answers of the strategy normal, as in the paper.
    `outcome`: by the answers of all three strategies, which takes three times as many; the probe
    then also has a router that predicts accuracy and tokens of every strategy."""
    alpha: float | None = Field(None, ge=0, le=1)
    """Minimum accuracy of a normal question."""
    beta: float | None = Field(None, ge=0)
    """Maximum entropy of a normal question, nats."""
    gamma: float | None = Field(None, ge=0, le=1)
    """Questions with a lower accuracy are hard."""
    tolerance: float | None = Field(None, ge=0, le=1)
    """Accuracy that a cheaper strategy may lose, with `--labels outcome`."""
    head: HeadKind = "auto"
    """Classifier to train."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        given = [value is not None for value in (self.alpha, self.beta, self.gamma)]
        if self.labels == "outcome" and any(given[:2]):
            raise ValueError("--alpha and --beta belong to --labels entropy")
        if self.labels == "entropy" and any(given) and not all(given):
            raise ValueError("--alpha, --beta and --gamma belong together: give all or none")
        if self.alpha is not None and self.gamma is not None and self.gamma > self.alpha:
            raise ValueError(f"--gamma {self.gamma} must not be larger than --alpha {self.alpha}")
        if self.labels == "entropy" and self.tolerance is not None:
            raise ValueError("--tolerance belongs to --labels outcome")
        return self
