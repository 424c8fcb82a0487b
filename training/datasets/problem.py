"""A question with a known answer."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from probes.graders import GRADERS, GraderName


class Problem(BaseModel):
    """A question, its answer and how answers are graded."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    task: str
    """Which kind of question it is."""
    level: int = Field(0, ge=0)
    """How hard it was made, 1 to 10; 0 where unknown."""
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
