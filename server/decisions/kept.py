"""What is kept of the answer to a question, for feedback."""

from server.decisions.answers import JudgedQuestion
from server.feedback.facts import AnswerFacts, prediction_set
from server.planning.decisions import DecisionPlan


def decision_facts(plan: DecisionPlan, verdict: JudgedQuestion) -> AnswerFacts:
    """The values of a question, those in its prediction set, and the most probable one.

    Args:
        plan: Plan of the request.
        verdict: From `judge`.
    """
    values = verdict.plan.question.values
    calibrated = verdict.members is not None
    members = [False] * len(values) if verdict.members is None else verdict.members.tolist()
    prediction = prediction_set(
        values,
        members,
        int(verdict.probabilities.argmax()),
        plan.control.confidence_level if calibrated else None,
        plan.control.calibration or "",
    )
    return AnswerFacts("decision", prediction=prediction)
