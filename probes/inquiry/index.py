"""Identify an assistant message of an inquiry: a question of the task, or the final answer.

The lookup tables are built once, when a task is loaded, so that a message costs one normalization
however many labels and questions the task has.
"""

from probes.inquiry.task import Task
from probes.inquiry.text import normalize_question

_SPACING = 100
"""Characters by which a copy of a text may be longer than twice the longest one."""


class TaskIndex:
    """Questions and final answers of a task, indexed by wording."""

    def __init__(self, task: Task) -> None:
        guesses = {name: task.guess.replace("{label}", name) for name in task.names}
        self._questions = {
            normalize_question(text): place for place, text in enumerate(task.questions)
        }
        self._exact = {text: place for place, text in enumerate(task.questions)}
        self._guesses = {normalize_question(text): name for name, text in guesses.items()}
        self.max_chars = 2 * max(map(len, [*task.questions, *guesses.values()])) + _SPACING
        """Longest message that can be one of these texts; a longer one need not be normalized."""

    def question(self, text: str) -> int | None:
        """Place of the question with this wording; None if the task has none."""
        place = self._exact.get(text)
        return self._questions.get(normalize_question(text)) if place is None else place

    def guess(self, text: str) -> str | None:
        """The label of a final answer; None if the message is not one."""
        return self._guesses.get(normalize_question(text))
