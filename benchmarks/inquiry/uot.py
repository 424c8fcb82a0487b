"""Uncertainty of Thoughts as a baseline, looking one question ahead."""

import math

import torch
from torch import Tensor

from probes.conformal import Calibration
from probes.inquiry.likelihood import YES
from probes.inquiry.turn import Rule, likelihood_lookahead, take_turn
from training.inquiry.simulate import GameStep

_LAMBDA = 0.4
_IN_PLAY = 1e-3
"""Probability under which a label no longer counts as possible."""


def reward(share: Tensor) -> Tensor:
    """H2(x) / (1 + |2x - 1| / lambda), in bits, of the share of labels that say yes.

    Source: zhiyuanhubj/UoT, `src/uot/uot.py`, without its exception for counts that differ by one.
    """
    bits = torch.special.entr(share) + torch.special.entr(1 - share)
    found: Tensor = bits / math.log(2) / (1 + (2 * share - 1).abs() / _LAMBDA)
    return found


def uot_game(
    logprobs: Tensor, answers: Tensor, label: int, calibration: Calibration, questions: int
) -> list[GameStep]:
    """A game whose questions split the labels still possible best; as `play`."""
    history: list[tuple[int, int]] = []
    steps: list[GameStep] = []
    while True:
        lookahead = likelihood_lookahead(logprobs, history)
        turn = take_turn(lookahead, history, calibration, Rule("entropy", budget=questions))
        members = turn.members
        steps.append(
            GameStep(turn.guess == label, bool(members[label]), int(members.sum()), turn.length)
        )
        if not lookahead.questions or len(history) == questions:
            return steps
        possible = turn.probabilities > _IN_PLAY
        share = lookahead.answers[:, YES, possible].mean(-1)
        question = lookahead.questions[int(reward(share).argmax())]
        history.append((question, int(answers[question])))
