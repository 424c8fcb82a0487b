"""Names the question whose answer is expected to shrink a prediction set most (C-IP)."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from probes.decisions.question import choice
from probes.decisions.scores import OptionLogprobs, ReadSettings, features, probabilities
from probes.inquiry.lookahead import expected_entropy, expected_size, information_gain
from probes.inquiry.pursuit import MIN_GAIN
from server.decisions.answers import JudgedQuestion
from server.decisions.frame import ChatFrame
from server.decisions.reading import (
    MAX_READS,
    AskedRead,
    QuestionTrees,
    build_trees,
    num_reads,
    read_options,
    read_variants,
)
from server.errors import BadControl
from server.inquiry.engine_reads import Reads
from server.planning.decisions import DecisionPlan, PlannedFollowUp


class UncertainQuestion(NamedTuple):
    """A question whose answer abstains."""

    verdict: JudgedQuestion
    trees: QuestionTrees
    prior: tuple[Sequence[Sequence[float]], Sequence[float]]
    """Priors of its letters and of its statements."""


async def next_questions(
    plan: DecisionPlan,
    before: tuple[int, ...],
    uncertain: Sequence[UncertainQuestion],
    frame: ChatFrame,
    reads: Reads,
) -> list[str | None]:
    """The follow-up to ask for each uncertain question; None if none is expected to help.

    The model predicts each answer from the input, and the decision again with each answer added to
    the input. The sets are those of the calibration, whose level holds for inputs of its kind, not
    for inputs with added answers.

    Args:
        plan: Plan of the request; it has questions that could be asked.
        before: Tokens of the chat's head and the input.
        uncertain: Questions whose answers abstain.
        frame: The chat template.
        reads: Reads from the engine.

    Raises:
        BadControl: This would take too many engine requests.

    Source: C-IP (arXiv 2507.03279), the selection rule, with the model as the answer's predictor.
    """
    asked = plan.asks
    num_answers = sum(len(one.answers) for one in asked)
    cost = num_answers * num_reads([one.trees for one in uncertain])
    if cost > MAX_READS:
        raise BadControl(
            f"`entropy.ask`: {cost} engine requests would be needed, at most {MAX_READS} are made",
            "entropy.ask",
        )
    weights = await _answer_probabilities(asked, before, frame, reads)
    variants = [
        (*before, *await frame.content(f"\n\n{one.question}\n{answer}", reads))
        for one in asked
        for answer in one.answers
    ]
    found = iter(await read_variants(variants, [one.trees for one in uncertain], reads))
    futures = [  # for each follow-up and answer, every question's posterior
        [
            _posterior(two, logprobs)
            for _ in one.answers
            for two, logprobs in zip(uncertain, next(found), strict=True)
        ]
        for one in asked
    ]
    width = len(uncertain)
    return [
        _best(plan, two, asked, weights, [row[place::width] for row in futures])
        for place, two in enumerate(uncertain)
    ]


async def _answer_probabilities(
    asked: Sequence[PlannedFollowUp], before: tuple[int, ...], frame: ChatFrame, reads: Reads
) -> list[Tensor]:
    """Probability of each answer to each follow-up, given the input."""
    settings = ReadSettings(prior=False)
    questions = [AskedRead(choice(one.question, one.answers), settings, one.param) for one in asked]
    trees = await build_trees(questions, frame, reads)
    found = await read_options(before, trees, reads)
    return [probabilities(features(one, settings)) for one in found]


def _posterior(one: UncertainQuestion, found: OptionLogprobs) -> Tensor:
    """Probabilities of the options from reads without a prior."""
    whole = found._replace(letters_prior=one.prior[0], statements_prior=one.prior[1])
    evidence = features(whole, one.verdict.plan.settings)
    calibration = one.verdict.plan.calibration
    return probabilities(evidence) if calibration is None else calibration.scaled(evidence)


def _best(
    plan: DecisionPlan,
    one: UncertainQuestion,
    asked: Sequence[PlannedFollowUp],
    answers: Sequence[Tensor],
    futures: Sequence[Sequence[Tensor]],
) -> str | None:
    """The follow-up with the smallest expected set, ties by entropy; by entropy without sets."""
    ranks = []
    for place, (weight, posteriors) in enumerate(zip(answers, futures, strict=True)):
        after = torch.stack(list(posteriors)).unsqueeze(0)  # (1, A, K)
        joint = weight[None, :, None] * after
        size = 0.0
        if one.verdict.members is not None:
            sets = one.verdict.plan.sets(plan.control, after)
            size = float(expected_size(sets, joint))
            if size >= float(one.verdict.members.sum()):
                continue
        if float(information_gain(after, joint)) > MIN_GAIN:
            ranks.append((round(size, 9), float(expected_entropy(after, joint)), place))
    return asked[min(ranks)[2]].question if ranks else None
