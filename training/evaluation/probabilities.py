"""The probability of an answer at any temperature, from what the server reports at its tokens.

At every token it reports the entropy, the log-probability and those of the most probable tokens.
The rest of the vocabulary counts as equally probable tokens with the mass and the entropy that are
missing.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from probes.laws import EntropyTargetLaw
from training.common.metrics import Floats
from training.common.server_pool import RolloutRecord
from training.evaluation.arms import is_law_of_entropy

_BISECTIONS = 40
_LEAST_MASS = 1e-12


class MeasuredTokens(NamedTuple):
    """The tokens of many answers, one after another."""

    entropy: Floats
    """Nats at temperature 1, shape (tokens,)."""
    temperature: Floats
    """That the token was drawn at, shape (tokens,)."""
    logprob: Floats
    """At temperature 1, shape (tokens,)."""
    top: Floats
    """Log-probabilities of the most probable tokens, descending, shape (tokens, width)."""
    rest_mass: Floats
    """ln of the probability of all other tokens, shape (tokens,)."""
    rest_logprob: Floats
    """Mean log-probability of those, shape (tokens,)."""
    answer: NDArray[np.int64]
    """Index of the token's answer, shape (tokens,)."""

    def log_normalizer(self, beta: Floats) -> Floats:
        """ln of the sum of p^beta over the vocabulary, shape (tokens,)."""
        return np.asarray(np.logaddexp.reduce(self._powers(beta), axis=1))

    def entropy_at(self, beta: Floats) -> Floats:
        """Entropy at the inverse temperature beta, shape (tokens,)."""
        powers = self._powers(beta)
        total = np.logaddexp.reduce(powers, axis=1)
        logprobs = np.column_stack((self.top, self.rest_logprob))
        mean = (np.exp(powers - total[:, None]) * np.maximum(logprobs, -1e3)).sum(1)
        return np.asarray(total - beta * mean)

    def _powers(self, beta: Floats) -> Floats:
        rest = self.rest_mass + (beta - 1.0) * self.rest_logprob
        return np.column_stack((self.top * beta[:, None], rest))


def read_tokens(records: Sequence[RolloutRecord]) -> MeasuredTokens:
    """The tokens of answers that `is_complete`."""
    top = _padded([row for record in records for row in record.top_logprobs or ()])
    entropy = np.array([value for record in records for value in record.entropies], np.float64)
    mass = np.clip(1.0 - np.exp(top).sum(1), _LEAST_MASS, None)
    shown = (np.exp(top) * np.maximum(top, -1e3)).sum(1)
    most = top[:, -2]  # if the sampled token is not among the most probable ones it is the last
    rest = np.clip(-(entropy + shown) / mass, -40.0, np.maximum(most, -40.0))
    return MeasuredTokens(
        entropy,
        np.array([value for record in records for value in record.temperatures], np.float64),
        np.array([value for record in records for value in record.logprobs or ()], np.float64),
        top,
        np.log(mass),
        rest,
        np.repeat(np.arange(len(records)), [len(record.entropies) for record in records]),
    )


def is_complete(record: RolloutRecord) -> bool:
    """Whether every token has its entropy, temperature, log-probability and alternatives."""
    length = len(record.entropies)
    columns = (record.logprobs or (), record.top_logprobs or ())
    measured = None not in record.entropies and None not in record.temperatures
    return measured and all(len(column) == length for column in columns)


def _padded(rows: Sequence[Sequence[float]]) -> Floats:
    width = max(2, *(len(row) for row in rows))
    table = np.full((len(rows), width), -np.inf)
    for place, row in zip(table, rows, strict=True):
        place[: len(row)] = sorted(row, reverse=True)
    return table


def law_temperatures(
    control: Mapping[str, Any], base: float, tokens: MeasuredTokens, own: NDArray[np.bool_]
) -> Floats | None:
    """Temperature of every token under a profile; None if it is more than a law of the entropy.

    Args:
        control: Of the profile.
        base: T0.
        tokens: Of all arms.
        own: Which tokens are of the profile's own answers: they tell what a law that depends on the
            statistics of the model does with an entropy.
    """
    if not is_law_of_entropy(control):
        return None
    law = control["temperature"]
    if law["type"] == "fixed":
        return np.full(len(tokens.entropy), float(law["temperature"]))
    if law["type"] == "entropy_target":
        return _of_target(EntropyTargetLaw.model_validate(law), base, tokens)
    x = np.log(np.maximum(tokens.entropy, 1e-6))
    order = np.argsort(x[own])
    return np.asarray(np.interp(x, x[own][order], tokens.temperature[own][order]), np.float64)


def _of_target(law: EntropyTargetLaw, base: float, tokens: MeasuredTokens) -> Floats:
    low = np.full(len(tokens.entropy), law.temperature_min)
    high = np.full(len(tokens.entropy), law.temperature_max)
    for _ in range(_BISECTIONS):
        middle = np.sqrt(low * high)
        above = tokens.entropy_at(1 / middle) > law.entropy_target
        low, high = np.where(above, low, middle), np.where(above, middle, high)
    solved = np.sqrt(low * high)
    if law.side == "both":
        return np.asarray(solved)
    bound = np.minimum if law.side == "ceiling" else np.maximum
    return np.asarray(bound(solved, base))


def token_logprobs(tokens: MeasuredTokens, temperatures: Floats) -> Floats:
    """Log-probability of every token at its temperature, shape (tokens,)."""
    beta = 1 / temperatures
    return np.asarray(beta * tokens.logprob - tokens.log_normalizer(beta))


def answer_logprobs(each: Floats, tokens: MeasuredTokens, shape: tuple[int, ...]) -> Floats:
    """Sums over the tokens of every answer, of `shape`."""
    sums = np.bincount(tokens.answer, each, minlength=int(np.prod(shape)))
    return np.asarray(sums, np.float64).reshape(shape)
