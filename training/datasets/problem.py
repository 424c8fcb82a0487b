"""A question with a known answer."""

from pydantic import BaseModel, ConfigDict, Field

from probes.graders import GRADERS, GraderName


class Problem(BaseModel):
    """A question, its answer and how answers are graded."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    task: str
    """Which kind of question it is."""
    grade: int = Field(0, ge=0)
    """How hard it was made, 1 to 10; 0 where nobody knows."""
    prompt: str = Field(min_length=1)
    answer: str = Field(min_length=1)
    grader: GraderName

    def is_right(self, text: str) -> bool:
        """Whether an answer is right."""
        return GRADERS[self.grader](text, self.answer)
