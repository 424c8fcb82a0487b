"""What a model is asked during an inquiry: what a reply means, which label fits. Plain text.

No chat template: both are read from the next token, and examples teach the form to a model that was
never tuned as well as to one that was.
"""

import json
from collections.abc import Sequence

from probes.inquiry.likelihood import NO, UNKNOWN, YES
from probes.inquiry.task import Task
from probes.inquiry.text import wording

MEANINGS = {YES: " yes", NO: " no", UNKNOWN: " unknown"}
"""How the prompt names the meaning of a reply; what is asked of the model is the first token."""

NEUTRAL_REPLIES = ("...", "table", "let me see", "7")
"""Replies that say nothing: what a model reads into them is its bias."""

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

    Histories that begin alike give prompts that begin alike, which a prefix cache finds. What is
    read anew for every candidate is its own line and the last one, so these are short.

    Args:
        task: Names the labels.
        history: Question and `YES` or `NO`.
    """
    return f"{_known(task, history)}The {task.subject} is:"


def _known(task: Task, history: Sequence[tuple[str, int]]) -> str:
    said = "".join(f"{question} {task.answers[answer]}\n" for question, answer in history)
    return f"One {task.subject} of: {', '.join(task.names)}.\n{said}"


_OTHER_GAME = """One tool of: hammer, saw, spoon, umbrella, rope.
Does it have a handle? yes
Endings of "It ..." that are true of some of them and not of others, as JSON:
{"endings": ["has a sharp blade", "is used in the kitchen", "can be folded", "is made of metal", \
"keeps you dry"]}

"""


def proposal_prompt(task: Task, history: Sequence[tuple[str, int]]) -> str:
    """Ask for properties that divide the labels; JSON as `proposal_schema` says follows.

    An example of another game shows the form.
    """
    return (
        f"{_OTHER_GAME}{_known(task, history)}"
        'Endings of "It ..." that are true of some of them and not of others, as JSON:\n'
    )


def proposal_schema(count: int) -> dict[str, object]:
    """The JSON schema of some proposals: one-line endings of a sentence, without its full stop."""
    ending = {"type": "string", "pattern": r'^[^".?!,:;{}\[\]\\\n]{4,60}$'}
    endings = {"type": "array", "items": ending, "minItems": count, "maxItems": count}
    return {
        "type": "object",
        "properties": {"endings": endings},
        "required": ["endings"],
        "additionalProperties": False,
    }


def read_proposals(text: str) -> list[str]:
    """The endings in what the model wrote; none if it did not come to an end."""
    try:
        found = [str(one) for one in json.loads(text)["endings"]]
    except (ValueError, KeyError, TypeError):
        return []
    return [" ".join(one.split()) for one in found if wording(one)]
