"""Prompts of an inquiry: the meaning of a reply, and the label that fits. Plain text.

No chat template: both are read from the next token, and the examples work for base models and for
tuned ones.
"""

import json
from collections.abc import Sequence

from probes.inquiry.likelihood import NO, UNKNOWN, YES
from probes.inquiry.task import Task
from probes.inquiry.text import normalize_question

MEANINGS = {YES: " yes", NO: " no", UNKNOWN: " unknown"}
"""Meanings of a reply in the prompt; the first token of each is read."""

NEUTRAL_REPLIES = ("...", "table", "let me see", "7")
"""Replies without meaning, which measure the model's bias."""

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
"""Characters of a reply that the prompt includes."""


def reply_prompt(task: Task, question: str, reply: str) -> str:
    """Prompt for the meaning of a free-text reply; the next token is one of `MEANINGS`.

    All lines except the last two are the same for all replies of a task.
    """
    own = zip(task.answers, (YES, NO), strict=True)
    examples = (*_EXAMPLES, *(("Is it so?", word, meaning) for word, meaning in own))
    shown = "".join(
        f"Question: {asked}\nReply: {reply}\nMeaning:{MEANINGS[meaning]}\n\n"
        for asked, reply, meaning in examples
    )
    line = " ".join(reply.split())[:_MAX_REPLY]
    return f"{shown}Question: {question}\nReply: {line}\nMeaning:"


def label_prompt(task: Task, history: Sequence[tuple[str, int]]) -> str:
    """Prompt for the label after questions and answers; a label's name follows after a space.

    Histories with a common prefix give prompts with a common prefix, which the prefix cache reuses.
    Only the candidate's line and the last line are new, so both are short.

    Args:
        task: Names the labels.
        history: Question and `YES` or `NO`.
    """
    return f"{_known(task, history)}The {task.subject} is:"


def _known(task: Task, history: Sequence[tuple[str, int]]) -> str:
    transcript = "".join(f"{question} {task.answers[answer]}\n" for question, answer in history)
    return f"One {task.subject} of: {', '.join(task.names)}.\n{transcript}"


_OTHER_GAME = """One tool of: hammer, saw, spoon, umbrella, rope.
Does it have a handle? yes
Endings of "It ..." that are true of some of them and not of others, as JSON:
{"endings": ["has a sharp blade", "is used in the kitchen", "can be folded", "is made of metal", \
"keeps you dry"]}

"""


def proposal_prompt(task: Task, history: Sequence[tuple[str, int]]) -> str:
    """Prompt for properties that divide the labels, to be answered as `proposal_schema` requires.

    An example of another task shows the format.
    """
    return (
        f"{_OTHER_GAME}{_known(task, history)}"
        'Endings of "It ..." that are true of some of them and not of others, as JSON:\n'
    )


def proposal_schema(count: int) -> dict[str, object]:
    """JSON schema of `count` proposals: one-line sentence endings without the period."""
    ending = {"type": "string", "pattern": r'^[^".?!,:;{}\[\]\\\n]{4,60}$'}
    endings = {"type": "array", "items": ending, "minItems": count, "maxItems": count}
    return {
        "type": "object",
        "properties": {"endings": endings},
        "required": ["endings"],
        "additionalProperties": False,
    }


def read_proposals(text: str) -> list[str]:
    """Parse the proposed endings; empty if the JSON is incomplete."""
    try:
        found = [str(one) for one in json.loads(text)["endings"]]
    except (ValueError, KeyError, TypeError):
        return []
    return [" ".join(one.split()) for one in found if normalize_question(one)]
