"""Data that one sampling step passes from its start to its end."""

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from vllm.utils.torch_utils import async_tensor_h2d

from probes.law_functions import GREEDY


class Group(NamedTuple):
    """Rows of a batch that are computed together."""

    rows: Tensor | None
    """Their positions in the batch, on the device; None means every row."""
    slots: Tensor
    """Their slots, on the device."""
    host_slots: NDArray[np.int64] | None
    """The same on the host, if the runner has them there."""
    solve: bool
    """Whether any of them follows an entropy target."""
    traced: bool
    """Whether any of them sends a trace."""
    has_probe: bool = False
    """Whether any of them has a probe that reads the end of its prompt."""
    classified: bool = False
    """Whether any of them has a difficulty probe, whose class holds for the whole answer."""
    shuffled: bool = False
    """Whether any of them follows the law `shuffled`."""
    truncated: bool = False
    """Whether any of them removes unlikely tokens."""
    confident: bool = False
    """Whether the trace of any of them has the confidence of its tokens."""
    learns: bool = False
    """Whether any of them is controlled by the tokens that are sampled."""
    phased: bool = False
    """Whether any of them has a law of its own while the model thinks."""
    weak: bool = False
    """Whether any of them ends when its tokens grow too unsure."""


def on_device(values: NDArray[Any] | Tensor, device: torch.device) -> Tensor:
    """These values on the device; the host does not wait for the copy.

    Args:
        values: On the host, or a tensor that is on the device already.
        device: Of the worker.
    """
    return values if isinstance(values, Tensor) else async_tensor_h2d(values, device)


def update_on_device(target: Tensor, values: NDArray[Any] | Tensor) -> None:
    """Write the host's values over a tensor of the device; the host does not wait for the copy.

    The values are copied to pinned memory first: the driver may wait for the device before it
    copies from other memory, and the caller may change its own at once.
    """
    async_tensor_h2d(values, out=target)


def force_token(logits: Tensor, rows: Tensor | None, forced: Tensor, token: Tensor) -> None:
    """Leave some rows one token to sample, in place.

    Args:
        logits: The whole batch.
        rows: Which rows the others are about; None is all.
        forced: Whether each of them is forced, shape (rows,).
        token: To which token, shape (rows,).
    """
    last = logits.shape[1] - 1
    # Some tokenizers end with a token that their model does not have: no answer can end at it.
    forced, token = forced & (token <= last), token.clamp_max(last)
    where = torch.arange(len(forced), device=logits.device) if rows is None else rows
    own = logits[where, token]
    kept = torch.where(forced & ~own.isfinite(), 0.0, own)
    cut = torch.zeros(len(logits), dtype=torch.bool, device=logits.device)
    cut[where] = forced
    logits.masked_fill_(cut.unsqueeze(1), -torch.inf)
    logits[where, token] = kept


class PromptRows(NamedTuple):
    """Requests of one step whose prompt may have ended."""

    hidden: Tensor
    """Final hidden states of the step, shape (any number of rows, hidden size)."""
    rows: NDArray[np.int64]
    """Row of `hidden` of each request."""
    slots: NDArray[np.int64]
    """Slot of each request."""
    indices: NDArray[np.int64]
    """Token that each request draws next; negative while its prompt is still read."""

    def where(self, mask: NDArray[np.bool_]) -> "PromptRows":
        """Those that a mask selects."""
        return PromptRows(self.hidden, self.rows[mask], self.slots[mask], self.indices[mask])

    def states(self) -> Tensor:
        """The hidden state of each, shape (requests, hidden size)."""
        return self.hidden[on_device(self.rows, self.hidden.device)]


class Odds(NamedTuple):
    """What turns sampled tokens into their log-probabilities."""

    logits: Tensor
    """The whole batch; the sampler divides it by the temperature in place."""
    temperature: Tensor
    """As applied to the rows of the group, shape (rows,); 0 for a greedy row."""
    maximum: Tensor
    """Highest logit before any temperature, shape (rows,)."""
    log_total: Tensor
    """ln of the sum of exp(logit - maximum), shape (rows,)."""
    log_kept: Tensor | None
    """ln of the sum of exp((logit - maximum) / T) over the tokens that a truncation keeps."""


class Measured(NamedTuple):
    """What one step measured at the rows of a group."""

    group: Group
    indices: NDArray[np.int64] | Tensor
    """Token index of each row in its completion; negative where nothing is sampled."""
    entropy: Tensor
    """Nats, shape (rows,)."""
    temperature: Tensor
    """Shape (rows,)."""
    sampled_entropy: Tensor | None
    """Nats at that temperature, shape (rows,); None if no trace is sent."""
    varentropy: Tensor
    """Nats^2, shape (rows,)."""
    confidence: Tensor | None
    """Self-certainty and collision probability, shape (2, rows); None where nobody asked."""
    odds: Odds | None
    """None where a control failed, or the logits are not kept until a token is sampled."""

    @property
    def awaits_token(self) -> bool:
        """Whether the sampled tokens are needed: for a trace, by mirostat, or by laws by phase."""
        return self.group.learns or self.group.phased or self.sampled_entropy is not None


def record(measured: Measured, logprob: Tensor | None) -> tuple[Tensor | None, ...]:
    """The fields of `TOKEN` after the index, each of shape (rows,); None where nothing is known.

    Args:
        measured: Of rows that send a trace.
        logprob: Of the sampled tokens; None where they are not known.
    """
    assert measured.sampled_entropy is not None
    confidence = measured.confidence
    return (
        measured.entropy,
        measured.temperature,
        measured.sampled_entropy,
        logprob,
        measured.varentropy,
        *((None, None) if confidence is None else confidence.unbind(0)),
    )


_FORCED = 1e-3
"""A logit this far above the maximum was set by another processor to force a token."""


def logprobs(odds: Odds, group: Group, sampled: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probabilities of sampled tokens, nats, shape (rows,).

    Args:
        odds: Of the step.
        group: Its rows.
        sampled: Token of every row of the group; anything where none was sampled.

    Returns:
        Under the distribution at T = 1, and under the one sampled from, after T and the truncation.
        Both are NaN for a token that was forced, the second also in a greedy row.
    """
    rows = torch.arange(len(sampled), device=sampled.device) if group.rows is None else group.rows
    token = sampled.long().clamp(0, odds.logits.shape[1] - 1)
    greedy = odds.temperature < GREEDY
    temperature = torch.where(greedy, 1.0, odds.temperature)
    gap = odds.logits[rows, token] * temperature - odds.maximum
    gap = gap.masked_fill(gap > _FORCED, torch.nan)
    plain = gap - odds.log_total
    if odds.log_kept is None:
        return plain, plain
    return plain, (gap / temperature - odds.log_kept).masked_fill(greedy, torch.nan)
