"""Grades completions; each row of the data set has the index of its problem."""

from collections.abc import Mapping, Sequence
from typing import Any

from training.datasets.problem import Problem


def final_text(completion: str | Sequence[Mapping[str, Any]]) -> str:
    """The text to grade: for a conversation, the last message if the policy wrote it.

    Returns "" if the last message has no content, or if the conversation ends with a tool result
    because the policy's last turn was truncated to nothing.
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
    """Reward function and grader of a run."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        """Store the problems.

        Args:
            problems: Problems; the data set column `problem` has their indices.
        """
        self._problems = problems

    def is_right(self, row: Mapping[str, Any], text: str) -> bool:
        """Whether a text answers the problem of a row."""
        index: int = row["problem"]
        return self._problems[index].is_right(text)

    def accuracy_reward(
        self, completions: Sequence[Any], problem: Sequence[int], **_: Any
    ) -> list[float]:
        """Return 1 for each right answer and 0 for each wrong one.

        Args:
            completions: Texts or conversations.
            problem: Index of the problem of each completion.
        """
        rows = zip(problem, completions, strict=True)
        return [float(self.is_right({"problem": i}, final_text(answer))) for i, answer in rows]
