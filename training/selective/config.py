"""Settings of `train-probe confidence` and `train-probe abstain`."""

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import Field, model_validator

from probes.graders import GraderName
from probes.selective.scores import MEASURED, PREDICTED, ScoreName
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
    questions: int = Field(300, ge=20, le=1_000_000)
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
    state: bool = False
    """Whether the hidden state at the end of the prompt may be used as well, if it predicts better,
    and prompts unlike the questions are flagged. Reads the questions through the checkpoint."""

    self_report: bool = False
    """Whether to ask the model about each of its answers as well, by two short requests, for the
    baselines p(True) and verbalized confidence of the report."""
    test: CommaSeparated = ()
    """Files of graded answers to other questions, separated by commas, on which the finished probe
    is measured as well."""

    @model_validator(mode="after")
    def _are_scores(self) -> "ConfidenceConfig":
        for name in self.features:
            if name not in MEASURED:
                raise ValueError(
                    f"--features: unknown score `{name}`; known: {', '.join(MEASURED)}"
                )
        return self


class SemanticConfig(GradedAnswersConfig):
    """A probe that predicts from the prompt alone whether answers will disagree."""

    quick: ClassVar[Mapping[str, Any]] = {"questions": 40, "samples": 4, "max_tokens": 24}
    minutes: ClassVar[str] = "about 15 minutes with the defaults, 3 with --quick (not measured)"

    questions: int = Field(200, ge=20, le=1_000_000)
    """Number of questions."""
    samples: int = Field(10, ge=2, le=64)
    """Answers to each question whose semantic entropy is taken, besides the one that is graded."""


class AbstainConfig(GradedAnswersConfig):
    """The calibration of an abstention."""

    score: ScoreName = "logprob_mean"
    """The score that decides. `probability` and `high_entropy` need --probe."""
    probe: str | None = None
    """Id of a `confidence` artifact of the server."""
    delta: float = Field(0.1, gt=0.0, lt=1.0)
    """Of the promise `selective` in the report."""

    @model_validator(mode="after")
    def _has_its_probe(self) -> "AbstainConfig":
        if (self.score in PREDICTED) != (self.probe is not None):
            raise ValueError(f"--score {' or '.join(PREDICTED)} and --probe belong together")
        return self
