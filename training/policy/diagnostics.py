"""Diagnostics of entropy changes and of reward noise; pure functions."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Agreement(NamedTuple):
    """Agreement of predicted entropy changes with measured ones."""

    correlation: float
    """Pearson correlation; NaN if either is constant."""
    gain: float
    """Least squares through the origin: measured = gain * predicted; NaN if all are 0."""
    same_sign: float
    """Share of steps in which both have the same sign."""


def agreement(predicted: Sequence[float], measured: Sequence[float]) -> Agreement:
    """Compare predicted entropy changes per step with measured ones.

    For the covariance, `predicted` is -Cov(logprob, A) and the gain estimates the effective
    learning rate; for STEER it is -mean(Omega). A useful predictor has a positive correlation.

    Args:
        predicted: One value per step, any unit.
        measured: H after the step minus H before it, nats.

    Raises:
        ValueError: Lengths differ or there are fewer than 2 steps.
    """
    if len(predicted) != len(measured) or len(predicted) < 2:
        raise ValueError(
            f"expected equal numbers of at least 2 steps, found {len(predicted)} and "
            f"{len(measured)}"
        )
    p = torch.tensor(predicted, dtype=torch.float64)
    m = torch.tensor(measured, dtype=torch.float64)
    dp, dm = p - p.mean(), m - m.mean()
    scale = float(dp.norm() * dm.norm())
    square = float(p.square().sum())
    return Agreement(
        correlation=float(dp @ dm) / scale if scale > 0 else math.nan,
        gain=float(p @ m) / square if square > 0 else math.nan,
        same_sign=float((p.sign() == m.sign()).double().mean()),
    )


def policy_kl(logits: Tensor, other: Tensor, mask: Tensor) -> float:
    """Mean over masked tokens of KL(softmax(logits) || softmax(other)), nats.

    Args:
        logits: Shape (..., vocab).
        other: Shape (..., vocab).
        mask: Bool, shape (...).
    """
    p, q = (torch.log_softmax(x[mask].double(), -1) for x in (logits, other))
    gap = torch.where(p.isneginf(), 0.0, p - q)
    divergence = (p.exp() * gap).sum(-1)
    return float(divergence.mean()) if divergence.numel() else 0.0


class JitterResponse(NamedTuple):
    """Change of a policy under noise in its rewards."""

    policy_kl: float
    """Mean KL divergence from the policy for the given rewards to that for noisy rewards, nats."""
    share_flipped: float
    """Share of draws in which the most likely action changes."""


def jitter_response(
    rewards: Tensor, jitter: float, entropy_coef: float, draws: int, generator: torch.Generator
) -> JitterResponse:
    """Response of the optimal entropy-regularized policy, softmax(R / entropy_coef), to noise in R.

    Without regularization, the optimal policy is an argmax, and near a tie arbitrarily small noise
    changes it (the policy cliff). With it, the KL is at most 2 max|noise| / entropy_coef.

    Args:
        rewards: One per action, shape (actions,).
        jitter: Standard deviation of the normal noise, units of reward.
        entropy_coef: Reward per nat, > 0.
        draws: Number of noisy copies.
        generator: Random generator of the noise.

    Source: The Policy Cliff (arXiv 2507.20150), discontinuity of the optimal policy.
    """
    noise = torch.randn(draws, len(rewards), generator=generator, dtype=torch.float64) * jitter
    exact = rewards.double().expand(draws, -1)
    everything = torch.ones(draws, dtype=torch.bool)
    divergence = policy_kl(exact / entropy_coef, (exact + noise) / entropy_coef, everything)
    flipped = exact.argmax(-1) != (exact + noise).argmax(-1)
    return JitterResponse(divergence, float(flipped.double().mean()))
