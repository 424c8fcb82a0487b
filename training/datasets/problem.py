"""A problem with a known answer."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from probes.graders import GRADERS, GraderName


class Problem(BaseModel):
    """A question, its answer and its grader."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    task: str
    """Name of the task."""
    level: int = Field(0, ge=0)
    """Difficulty level, 1 to 10; 0 if unknown."""
    prompt: str = Field(min_length=1)
    answer: str = Field(min_length=1)
    grader: GraderName

    @model_validator(mode="before")
    @classmethod
    def _refuse_old_name(cls, data: Any) -> Any:
        if isinstance(data, dict) and "grade" in data:
            raise ValueError("`grade` is called `level`")
        return data

    def is_right(self, text: str) -> bool:
        """Whether an answer is right."""
        return GRADERS[self.grader](text, self.answer)
