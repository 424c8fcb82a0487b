"""The predictor `table`: Bayes' rule over the task's own answers, where all of them are known.

No model is used. Each answer is assumed to be wrong with probability `WRONG_ANSWERS`, so an answer
that contradicts the others enlarges the set instead of emptying it.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from probes.conformal import EmptySets
from probes.inquiry.likelihood import known_answers
from probes.inquiry.task import Task

WRONG_ANSWERS = 0.01
"""Probability that a player's answer differs from the table."""


def table_logprobs(task: Task) -> Float[Tensor, "questions 2 labels"] | None:
    """ln P(answer | question, label) by the task's table, shape (Q, 2, K); None without one.

    A task has a table where every question names the labels whose answer is yes.
    """
    if any(query.yes is None for query in task.queries):
        return None
    return known_answers(task.answer_table(), WRONG_ANSWERS)


class CredibleSets(NamedTuple):
    """The smallest sets of most probable labels that contain a given probability.

    The guarantee is Bayesian, not conformal: for labels drawn uniformly and answers that follow the
    table except for a random share of `WRONG_ANSWERS`, a set contains the true label with
    probability `confidence_level` or more, whatever rule chose the questions. The coverage is lower
    for users who err more often or think of a label that the task does not have.
    """

    confidence_level: float
    num_samples: int = 10**9
    """Stands for a calibration without sampling error."""

    def is_calibrated(self, length: int) -> bool:
        """True for every length: the guarantee does not depend on it."""
        return length >= 0

    def sets(
        self, probabilities: Float[Tensor, "*batch labels"], length: int, empty: EmptySets = "full"
    ) -> Bool[Tensor, "*batch labels"]:
        """Labels that have less than `confidence_level` of the probability strictly above them.

        Args:
            probabilities: Shape (..., labels).
            length: Number of answers; ignored.
            empty: Ignored: no set is empty.

        Returns:
            Membership, bool, shape (..., labels); labels of equal probability go together.
        """
        rounded = probabilities.round(decimals=9)  # equal but for the order of a sum
        ascending = -rounded.sort(dim=-1, descending=True).values
        num_above = torch.searchsorted(ascending.contiguous(), -rounded.contiguous())
        above = torch.nn.functional.pad(-ascending.cumsum(-1), (1, 0)).gather(-1, num_above)
        return above < self.confidence_level
