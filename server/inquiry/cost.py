"""Bounds the engine requests of one inquiry turn, before the first is sent."""

from collections.abc import Sequence

from probes.inquiry.label_tokens import Tokens, branches
from server.errors import BadControl
from server.inquiry.conversation import Exchange
from server.inquiry.open_questions import ATTEMPTS, PROPOSALS, asked_open_questions
from server.planning.inquiry import InquiryPlan

MAX_ENGINE_REQUESTS = 2048
"""Per turn, ignoring the cache, so that every replica makes the same decision."""


def refuse_expensive_turn(
    plan: InquiryPlan, exchanges: Sequence[Exchange], num_read: int, labels: Sequence[Tokens]
) -> None:
    """Refuse a turn that takes more than `MAX_ENGINE_REQUESTS` engine requests.

    Args:
        plan: Plan of the turn.
        exchanges: The game so far.
        num_read: Prompts needed to interpret the replies.
        labels: Tokens of each label that `direct` reads; empty for other predictors.

    Raises:
        BadControl: Names the field that causes most of the requests.
    """
    costs = {"messages": num_read, "entropy.inquiry.max_candidates": 0}
    task, limit = plan.inquiry.task, plan.control.max_candidates
    if plan.control.queries == "open":
        asked = len(asked_open_questions(plan.inquiry, [one.question for one in exchanges]))
        costs["messages"] += len(task.labels) * asked
        costs["entropy.inquiry.max_candidates"] += (
            len(task.labels) * min(PROPOSALS, limit) + ATTEMPTS
        )
    num_candidates = min(limit, len(task.queries))
    places = len(branches(labels)) if labels else 0
    costs["entropy.inquiry.max_candidates"] += places * (1 + 2 * num_candidates)
    total = sum(costs.values())
    if total > MAX_ENGINE_REQUESTS:
        param = max(costs, key=lambda name: costs[name])
        raise BadControl(
            f"`{param}`: this turn would take {total} engine requests, of which {costs[param]} for "
            f"this field; at most {MAX_ENGINE_REQUESTS} are served",
            param,
        )
