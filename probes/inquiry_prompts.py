"""What a model is asked during an inquiry: what a reply means, which label fits. Plain text.

No chat template: both are read from the next token, and examples teach the form to a model that was
never tuned as well as to one that was.
"""

from collections.abc import Sequence

from probes.inquiry_task import Task
from probes.likelihood import NO, UNKNOWN, YES

MEANINGS = {YES: " yes", NO: " no", UNKNOWN: " unknown"}
"""How the prompt names the meaning of a reply; what is asked of the model is the first token."""

_EXAMPLES = (
    ("Is it blue?", "yes, it is", YES),
    ("Can it swim?", "not at all", NO),
    ("Is it heavy?", "I have no idea", UNKNOWN),
    ("Does it sing?", "I don't think so", NO),
    ("Is it useful?", "of course", YES),
    ("Is it from Asia?", "can't say", UNKNOWN),
    ("Is it round?", "nope", NO),
    ("Does it smell?", "it does", YES),
    ("Is it old?", "banana banana 42", UNKNOWN),
)
_MAX_REPLY = 500
"""Characters of a reply that are read: the meaning of a longer one stands at its beginning."""


def reply_prompt(task: Task, question: str, reply: str) -> str:
    """Ask what a reply in free text means; the next token is one of `MEANINGS`.

    Everything but the last two lines is the same for all replies of a task.
    """
    own = zip(task.answers, (YES, NO), strict=True)
    examples = (*_EXAMPLES, *(("Is it so?", word, meaning) for word, meaning in own))
    shown = "".join(
        f"Question: {asked}\nReply: {said}\nMeaning:{MEANINGS[meaning]}\n\n"
        for asked, said, meaning in examples
    )
    line = " ".join(reply.split())[:_MAX_REPLY]
    return f"{shown}Question: {question}\nReply: {line}\nMeaning:"


def label_prompt(task: Task, history: Sequence[tuple[str, int]]) -> str:
    """Ask for the label after questions and answers; a label's name follows after a space.

    Histories that begin alike give prompts that begin alike, which a prefix cache finds.

    Args:
        task: Names the labels.
        history: Question and `YES` or `NO`.
    """
    said = "".join(
        f"Question: {question}\nAnswer: {task.answers[answer]}\n" for question, answer in history
    )
    return f"One {task.subject} of: {', '.join(task.names)}.\n{said}The {task.subject} is:"
