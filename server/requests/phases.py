"""Which tokens of an answer are thinking, as its tokens tell."""

from collections.abc import Sequence

from server.planning.laws import PhasePlan
from server.planning.thinking import ThinkingMarks
from server.worker.message import PhaseMessage, phase_control


class PhaseRecord:
    """The phases of one completion.

    The token that ends the thinking is its last one; the token that starts it belongs to what was
    before.
    """

    def __init__(self, marks: ThinkingMarks, starts: bool) -> None:
        """Create a record.

        Args:
            marks: Of the model.
            starts: Whether the first token is thinking.
        """
        self.starts = starts
        self._marks = marks
        self._thinking: list[bool] = []
        self._now = starts

    @classmethod
    def of_prompt(cls, marks: ThinkingMarks, prompt: Sequence[int]) -> "PhaseRecord":
        """A record of no tokens yet, behind a prompt.

        The thinking is open if the prompt starts one and does not end it, behind the last message
        that it ends: a template may do so, and so may a client that continues an answer.
        """
        for token in reversed(prompt):
            if token in (marks.start, marks.end) or token in marks.turn_ends:
                return cls(marks, token == marks.start)
        return cls(marks, False)

    def copy(self) -> "PhaseRecord":
        """A record that starts alike, without tokens."""
        return PhaseRecord(self._marks, self.starts)

    def follow(self, first: int, tokens: Sequence[int]) -> None:
        """Add tokens; those that are known already are left out.

        Args:
            first: Index of the first of them in the completion.
            tokens: Token ids.
        """
        start, end, _ = self._marks
        for token in tokens[len(self._thinking) - first :]:
            self._thinking.append(self._now)
            self._now = (self._now or token == start) and token != end

    @property
    def thinking(self) -> Sequence[bool]:
        """Whether each token is thinking."""
        return self._thinking


def phase_message(phases: PhasePlan, record: PhaseRecord, call: int) -> PhaseMessage:
    """The message to the worker.

    Args:
        phases: The plan.
        record: Of the prompt.
        call: Number of the `generate` call.
    """
    return phase_control(
        law=phases.tag,
        parameters=phases.parameters,
        marks=(phases.marks.start, phases.marks.end),
        thinking=record.starts,
        call=call,
    )
