"""Patients of the task `triage` as inputs of decisions: a complaint and answered questions."""

import random
from collections.abc import Iterator
from typing import Any

from probes.inquiry.task import Query, load_task

_TASK = load_task("triage")
CONDITION_QUESTION: dict[str, Any] = {
    "type": "choice",
    "name": "condition",
    "instructions": "Which condition does the patient have?",
    "choices": [{"value": name} for name in _TASK.names],
}
_CANDIDATES = 6
"""Questions that may be asked about each patient."""


def patients(number: int, seed: int) -> Iterator[dict[str, Any]]:
    """Patients with equally many for each condition of the task's table.

    Args:
        number: Number of patients; two may be alike.
        seed: Seed; equal seeds give equal patients.

    Yields:
        `input`, one complaint; `condition`; and `facts`: the patient's answer to six other
        questions of the task. Where the table leaves the answer open, either comes.
    """
    chance = random.Random(f"triage:{seed}")
    for place in range(number):
        condition = _TASK.names[place % len(_TASK.names)]
        complaint = chance.choice([one for one in _TASK.queries if condition in (one.yes or ())])
        others = [one for one in _TASK.queries if one is not complaint]
        yield {
            "input": f"A patient {complaint.property}",
            "condition": condition,
            "facts": {
                one.question: _answer(one, condition, chance)
                for one in chance.sample(others, _CANDIDATES)
            },
        }


def _answer(query: Query, condition: str, chance: random.Random) -> str:
    if condition in query.varies:
        return chance.choice(_TASK.answers)
    return _TASK.answers[condition not in (query.yes or ())]


def consultations(number: int, seed: int) -> Iterator[dict[str, Any]]:
    """Patients with the answers to none, one, two or three of their questions.

    Yields:
        As `patients`; the answers are part of `input`.
    """
    for place, one in enumerate(patients(number, seed)):
        count = place // len(_TASK.names) % 4
        said = [f"{asked}\n{answer}" for asked, answer in list(one["facts"].items())[:count]]
        yield {**one, "input": "\n\n".join([one["input"], *said])}
