"""Fits the scaling of a question's evidence and measures it on rows that were not used."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from probes.decisions.calibration import Method, scaled
from probes.decisions.question import Read
from probes.decisions.scores import OptionLogprobs, ReadSettings, features

_RIDGES = (1e-2, 1e-3, 1e-4, 1e-5)
"""Penalties on the distance of a full matrix from the scales, beside the mean loss of a row. A
large one states too little confidence, a small one fits noise."""
_FOLDS = 5


class Scaling(NamedTuple):
    """Weights of a question's evidence."""

    method: Method
    weight: Tensor
    """Shape (K, reads * K)."""
    bias: Tensor
    """Shape (K,)."""


class ReadCandidate(NamedTuple):
    """One way to read a question, with its cross-validated loss."""

    settings: ReadSettings
    method: Method
    ridge: float
    """Penalty of `dirichlet`; 0 for `temperature`, which has none."""
    loss: float
    """Mean negative log-likelihood of the right option on rows left out, nats."""


def evidence_of(found: Sequence[OptionLogprobs], settings: ReadSettings) -> Tensor:
    """Evidence of all rows, shape (n, reads, K)."""
    return torch.stack([features(one, settings) for one in found])


def fit_scaling(
    evidence: Tensor, labels: Tensor, method: Method, ridge: float = _RIDGES[0]
) -> Scaling:
    """Maximum-likelihood weights.

    `temperature` has one scale >= 0 for each read. `dirichlet` has a full matrix and a bias, kept
    near the scales by a ridge penalty.

    Args:
        evidence: Shape (n, reads, K).
        labels: Index of the right option, shape (n,).
        method: Which weights are free.
        ridge: Penalty of `dirichlet`.

    Source: temperature scaling, Guo et al. (arXiv 1706.04599); Dirichlet calibration with
    off-diagonal regularization, Kull et al. (arXiv 1910.12656).
    """
    reads, size = evidence.shape[1:]
    eye = torch.eye(size, dtype=evidence.dtype)

    def matrix(scales: Tensor) -> Tensor:
        return torch.cat([scale * eye for scale in torch.nn.functional.softplus(scales)], 1)

    zero = torch.zeros(size, dtype=evidence.dtype)
    scales = torch.zeros(reads, dtype=evidence.dtype, requires_grad=True)
    _minimize([scales], lambda: _loss(evidence, labels, matrix(scales), zero))
    start = matrix(scales).detach()
    if method == "temperature":
        return Scaling(method, start, zero)
    weight, bias = start.clone().requires_grad_(), zero.clone().requires_grad_()

    def penalized() -> Tensor:
        distance = (weight - start).square().sum() + bias.square().sum()
        return _loss(evidence, labels, weight, bias) + ridge * distance

    _minimize([weight, bias], penalized)
    return Scaling(method, weight.detach(), bias.detach())


def _loss(evidence: Tensor, labels: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    logits = evidence.flatten(-2) @ weight.T + bias
    return torch.nn.functional.cross_entropy(logits, labels)


def _minimize(parameters: list[Tensor], loss: "object") -> None:
    optimizer = torch.optim.LBFGS(parameters, max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        value: Tensor = loss()  # type: ignore[operator]
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimizer.step(closure)  # type: ignore[no-untyped-call]


def cross_validated(
    evidence: Tensor, labels: Tensor, method: Method, ridge: float, seed: int
) -> float:
    """Mean negative log-likelihood of rows that were left out of the fit, nats."""
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    total = 0.0
    for fold in range(_FOLDS):
        out = torch.zeros(len(labels), dtype=torch.bool)
        out[order[fold::_FOLDS]] = True
        fitted = fit_scaling(evidence[~out], labels[~out], method, ridge)
        rest = scaled(evidence[out], fitted.weight, fitted.bias)
        chosen = rest.gather(-1, labels[out, None]).clamp_min(1e-12)
        total -= float(chosen.log().sum())
    return total / len(labels)


def candidates(
    found: Sequence[OptionLogprobs],
    labels: Tensor,
    reads: Sequence[tuple[Read, ...]],
    orders: int,
    seed: int,
) -> list[ReadCandidate]:
    """Every way to read and scale a question, the best first."""
    ways = []
    for read in reads:
        for prior in (True, False):
            settings = ReadSettings(reads=read, orders=orders, prior=prior)
            evidence = evidence_of(found, settings)
            forms: list[tuple[Method, float]] = [("temperature", 0.0)]
            forms += [("dirichlet", ridge) for ridge in _RIDGES]
            for form in forms:
                loss = cross_validated(evidence, labels, *form, seed)
                ways.append(ReadCandidate(settings, *form, loss))
    return sorted(ways, key=lambda way: way.loss)


class RowSplit(NamedTuple):
    """Rows by purpose."""

    fitted: Tensor
    """Rows that the scaling is fitted to; indices."""
    calibrated: Tensor
    """Rows whose scores are the thresholds."""
    held_out: Tensor
    """Rows of the report."""


def split_rows(count: int, seed: int) -> RowSplit:
    """Two fifths to fit, two fifths to calibrate, one fifth to report on."""
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    first, second = count * 2 // 5, count * 4 // 5
    return RowSplit(order[:first], order[first:second], order[second:])
