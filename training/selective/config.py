"""Settings of `train-probe confidence` and `train-probe abstain`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field, model_validator

from probes.graders import GraderName
from probes.selective.scores import SCORE_NAMES, ScoreName
from training.common.config import CommaSeparated, ServedJobConfig


class GradedAnswersConfig(ServedJobConfig):
    """Which answers are graded: drawn through a server, or rows of a file."""

    quick: ClassVar[Mapping[str, Any]] = {"questions": 60}
    minutes: ClassVar[str] = "about 5 minutes with the defaults, 2 with --quick"
    arguments: ClassVar[tuple[str, ...]] = ("task",)

    task: str = "quiz"
    """Questions: quiz, arithmetic, words, facts, drill, a JSONL file with `prompt` and `answer`, or
    a data set of the hub. Or a JSONL file of graded answers: `right` and scores of the report, such
    as `logprob_mean`, in every line; `question` as well if a question has several answers, because
    a line without it counts as a question of its own."""
    grader: GraderName | None = None
    """Grader of JSONL questions that name none."""
    questions: int = Field(300, ge=20)
    """Number of questions."""
    max_tokens: int = Field(48, ge=1)
    """Maximum length of an answer, in tokens."""
    instruction: str = ""
    """Text after every question."""
    temperature: float = Field(0.7, ge=0.0, le=2.0)
    """Temperature of the answers. A request must use the same."""


class ConfidenceConfig(GradedAnswersConfig):
    """A confidence probe."""

    samples: int = Field(2, ge=1, le=64)
    """Answers to each question."""
    features: CommaSeparated = ()
    """Scores to use, separated by commas; default: what predicts best, of single scores and all."""

    test: Path | None = None
    """Graded answers to other questions, on which the finished probe is measured as well."""

    @model_validator(mode="after")
    def _are_scores(self) -> "ConfidenceConfig":
        for name in self.features:
            if name not in SCORE_NAMES or name == "probability":
                raise ValueError(f"--features: unknown score `{name}`; known: {_KNOWN}")
        return self


class AbstainConfig(GradedAnswersConfig):
    """The calibration of an abstention."""

    score: ScoreName = "logprob_mean"
    """The score that decides. `probability` needs --probe."""
    probe: str | None = None
    """Id of a `confidence` artifact of the server."""
    delta: float = Field(0.1, gt=0.0, lt=1.0)
    """Of the promise `selective` in the report."""

    @model_validator(mode="after")
    def _has_its_probe(self) -> "AbstainConfig":
        if (self.score == "probability") != (self.probe is not None):
            raise ValueError("--score probability and --probe belong together")
        return self


_KNOWN = ", ".join(name for name in SCORE_NAMES if name != "probability")
