"""Grades completions of a run's problems; a row of the data set carries a problem's index."""

from collections.abc import Mapping, Sequence
from typing import Any

from training.datasets.problem import Problem


def final_text(completion: str | Sequence[Mapping[str, Any]]) -> str:
    """The text that is graded: of a conversation the last message, if the policy wrote it.

    A last message without content counts as "". So does a conversation that ends with the result
    of a tool, because the policy's own last turn was cut to nothing.
    """
    if isinstance(completion, str):
        return completion
    last = completion[-1] if completion else {}
    if last.get("role", "assistant") != "assistant":
        return ""
    content = last.get("content")
    if isinstance(content, list):
        return "".join(part.get("text") or "" for part in content)
    return content or ""


class ProblemGrader:
    """The reward and the grader of a run."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        """Grade by these problems.

        Args:
            problems: In the order of the data set's column `problem`, which holds their indices.
        """
        self._problems = problems

    def is_right(self, row: Mapping[str, Any], text: str) -> bool:
        """Whether a row's problem is answered by a text."""
        index: int = row["problem"]
        return self._problems[index].is_right(text)

    def accuracy_reward(
        self, completions: Sequence[Any], problem: Sequence[int], **_: Any
    ) -> list[float]:
        """1 for a right answer, 0 for a wrong one.

        Args:
            completions: Texts or conversations.
            problem: The index of each one's problem.
        """
        rows = zip(problem, completions, strict=True)
        return [float(self.is_right({"problem": i}, final_text(answer))) for i, answer in rows]
