"""Settings of `entrostat evaluate`. Imports neither torch nor numpy, so that `--help` is fast."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from probes.graders import GraderName
from training.common.config import CommaSeparated, ServedJobConfig

CURVE = (0.1, 0.3, 0.5, 0.7, 1.0, 1.3)
"""Fixed temperatures that every law is compared with."""


class EvaluateConfig(ServedJobConfig):
    """What to measure, on which questions, and how much it may cost."""

    quick: ClassVar[Mapping[str, Any]] = {
        "questions": 24,
        "samples": 2,
        "budget": 20_000,
        "temperatures": ("0.3", "0.7", "1.3"),
    }
    minutes: ClassVar[str] = "about 15 minutes a task with the defaults, 2 with --quick"
    arguments: ClassVar[tuple[str, ...]] = ("tasks",)
    hidden: ClassVar[tuple[str, ...]] = ("serve_flags", "command", "name")
    aliases: ClassVar[Mapping[str, tuple[str, ...]]] = {"server": ("--url",)}

    tasks: CommaSeparated = ()
    """Questions with known answers: quiz, arithmetic, words, facts, drill, a JSONL file with
    `prompt` and `answer`, or a data set of the hub such as openai/gsm8k. Each task gets a page."""
    grader: GraderName | None = None
    """Grader of JSONL questions that name none."""
    profiles: CommaSeparated = ()
    """Profiles of the server to measure, separated by commas; default: all that set a temperature
    law, a truncation or the control `difficulty`, and every one against `plain`."""
    against: Literal["controls", "plain"] = "controls"
    """What profiles are compared with: their matched controls, or only the plain request with the
    same seeds. `plain` needs one arm for each profile, takes every profile and scores all
    questions: it shows whether a profile costs accuracy. It recommends no law and no router,
    because without matched controls a gain may be that of a lower temperature or more tokens."""
    trees: bool = False
    """Compute the controls of laws instead of drawing them: from the answers of the fixed
    temperatures and the laws, each counted by its probability under the control. It takes fewer
    tokens and has less noise where answers are short, and asks for 20 `logprobs`."""
    questions: int = Field(120, ge=8, le=1_000_000)
    """Number of questions; half of them choose, the other half score."""
    samples: int = Field(4, ge=2, le=64)
    """Answers to each question by every arm."""
    k: int | None = Field(None, ge=1)
    """Answers in pass@k and maj@k; default: all samples, at most 4."""
    max_tokens: int = Field(48, ge=1)
    """Maximum length of an answer, in tokens. Step-by-step answers need 200 or more."""
    instruction: str = ""
    """Text after every question, such as "Think step by step."."""
    temperature: float = Field(0.7, ge=0.01, le=2.0)
    """The request's own temperature T0, which the laws start from."""
    temperatures: CommaSeparated = tuple(map(str, CURVE))
    """Fixed temperatures of the curve that laws are compared with, separated by commas."""
    min_p: float = Field(0.1, ge=0.0, lt=1.0)
    """Stock `min_p`, which is measured at temperature 1; 0 leaves it out."""
    budget: int = Field(200_000, ge=1000)
    """Most tokens to generate for one task. Questions that it does not cover are left out."""
    label: str = ""
    """Name of the model on the page, such as a name with a hash."""
    out: Path = Path("evaluation")
    """Folder of the pages."""

    @field_validator("temperatures")
    @classmethod
    def _are_temperatures(cls, values: tuple[str, ...]) -> tuple[str, ...]:
        if len(values) < 2 or not all(_is_temperature(value) for value in values):
            raise ValueError("write two or more numbers from 0.01 to 10, such as 0.3,0.7,1.3")
        return values

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if not self.tasks:
            raise ValueError("name a task: quiz, arithmetic, words, a JSONL file or a hub id")
        if self.trees and self.against == "plain":
            raise ValueError("--trees computes controls, and --against plain has none: drop one")
        if self.k is not None and self.k > self.samples:
            raise ValueError(f"--k {self.k} must not be larger than --samples {self.samples}")
        return self

    @property
    def curve(self) -> tuple[float, ...]:
        """The fixed temperatures, ascending, T0 among them; T0 alone against `plain`."""
        if self.against == "plain":
            return (self.temperature,)
        return tuple(sorted({*map(float, self.temperatures), self.temperature}))

    @property
    def votes(self) -> int:
        """The k of pass@k and maj@k."""
        return self.k or min(self.samples, 4)


def _is_temperature(text: str) -> bool:
    try:
        return 0.01 <= float(text) <= 10.0
    except ValueError:
        return False
