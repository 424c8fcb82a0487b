"""Builds the report of an inquiry turn."""

from collections.abc import Sequence

from probes.inquiry.likelihood import UNKNOWN
from probes.inquiry.turn import Turn
from server.inquiry.engine_reads import Reads
from server.planning.inquiry import InquiryPlan
from server.wire.report import HeardReport, InquiryReport


def turn_report(
    plan: InquiryPlan, heard: Sequence[tuple[str, int]], turn: Turn, reads: Reads, seconds: float
) -> InquiryReport:
    """Build the report of a turn: prediction, action and cost.

    Args:
        plan: The plan of the turn, including open questions.
        heard: Questions and answers so far.
        turn: The chosen action.
        reads: Engine reads of the turn.
        seconds: Duration of the turn.
    """
    task = plan.inquiry.task
    names, questions = task.names, task.questions
    asks = turn.stop is None
    report = InquiryReport(
        task=plan.control.task,
        introduction=None if heard else task.introduction,
        action="ask" if asks else "answer",
        turn=len(heard) + asks,
        label=None if asks else names[turn.guess],
        reason=turn.stop,
        prediction_set=[
            names[label]
            for label in turn.probabilities.argsort(descending=True, stable=True).tolist()
            if turn.members[label]
        ],
        probabilities=dict(zip(names, turn.probabilities.tolist(), strict=True)),
        heard=[
            HeardReport(
                query=question, answer="unknown" if answer == UNKNOWN else task.answers[answer]
            )
            for question, answer in heard
        ],
        confidence_level=plan.control.confidence_level,
        predictor=plan.predictor,
        policy=plan.rule.policy,
        queries=plan.control.queries,
        num_candidates=0 if turn.selection is None else len(turn.selection.gain),
        calibrated=plan.calibration.is_calibrated(turn.length),
        forwards=reads.forwards,
        prompt_tokens=reads.prompt_tokens,
        seconds=seconds,
    )
    if asks and turn.selection is not None and turn.question is not None:
        sizes = turn.selection.expected_size
        report.query = questions[turn.question]
        report.expected_size = float(sizes[turn.selection.chosen])
        if turn.runner_up is not None and turn.selection.runner_up is not None:
            report.runner_up = questions[turn.runner_up]
            report.runner_up_size = float(sizes[turn.selection.runner_up])
    return report
