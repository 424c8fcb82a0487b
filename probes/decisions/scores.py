"""From log-probabilities of labels and statements to probabilities of the options."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from probes.decisions.question import Read
from probes.strict import StrictModel


class ReadSettings(StrictModel):
    """How a question is read. A calibration applies to one setting only."""

    reads: tuple[Read, ...] = Field(("letters",), min_length=1)
    """What is read; the evidence of both is added."""
    orders: int = Field(2, ge=1)
    """Orders of the options whose letters are averaged."""
    prior: bool = True
    """Whether what the model says about an empty input is subtracted."""


class OptionLogprobs(NamedTuple):
    """What was read for one question, in nats, in the order of its options."""

    letters: Sequence[Sequence[float]] = ()
    """Log-probability of each option's label, for each order."""
    letters_prior: Sequence[Sequence[float]] = ()
    """The same after an empty input."""
    statements: Sequence[float] = ()
    """Log-likelihood of each option's text."""
    statements_prior: Sequence[float] = ()
    """The same after an empty input."""

    def is_readable(self) -> bool:
        """Whether no value is NaN, as it is if the model's logits are not finite."""
        rows = (*self.letters, *self.letters_prior, self.statements, self.statements_prior)
        return not any(math.isnan(value) for row in rows for value in row)


def features(found: OptionLogprobs, settings: ReadSettings) -> Float[Tensor, "reads options"]:
    """Evidence of each read for each option, centered over the options, nats, shape (reads, K).

    A position or a wording that the model prefers adds the same amount to every input: the mean
    over the orders and the difference to the empty input remove it.

    Source: contextual calibration, Zhao et al. (arXiv 2102.09690); pointwise mutual information
    of a domain, Holtzman et al. (arXiv 2104.08315).
    """
    rows = []
    for read in settings.reads:
        values, priors = (
            (found.letters[: settings.orders], found.letters_prior[: settings.orders])
            if read == "letters"
            else ([found.statements], [found.statements_prior])
        )
        evidence = _mean(values) - (_mean(priors) if settings.prior else 0.0)
        rows.append(evidence - evidence.mean())
    return torch.stack(rows)


def probabilities(
    evidence: Float[Tensor, "*batch reads options"],
) -> Float[Tensor, "*batch options"]:
    """Uncalibrated probabilities of the options: softmax of the mean evidence, shape (..., K).

    Args:
        evidence: From `features`, shape (..., reads, K).
    """
    return torch.softmax(evidence.mean(-2), -1)


def label_mass(found: OptionLogprobs, count: int) -> float | None:
    """Probability that the reply is a label, mean over the orders; None without letters."""
    if not found.letters:
        return None
    rows = torch.tensor(found.letters[:count], dtype=torch.float64)
    return float(rows.exp().sum(-1).mean().clamp(0.0, 1.0))


_LOWEST = -1e4
"""Stands for the log-probability of an impossible token."""


def _mean(rows: Sequence[Sequence[float]]) -> Float[Tensor, " options"]:
    values = torch.tensor(rows, dtype=torch.float64)
    return values.clamp(min=_LOWEST).mean(0)
