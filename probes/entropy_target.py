"""Solver of the law `entropy_target`: finds the temperature that gives a target entropy."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from probes.entropy import moments, power_sums
from probes.laws import SIDES

Rows = Float[Tensor, " rows"]
_TINY = 1e-12


class Bracket(NamedTuple):
    """Inverse temperatures on either side of the target, each of shape (rows,).

    `log_entropy_*` is NaN as long as that end is a limit of the allowed range and not measured.
    """

    target: Rows
    """ln of the entropy target."""
    beta_low: Rows
    log_entropy_low: Rows
    slope_low: Rows
    beta_high: Rows
    log_entropy_high: Rows
    slope_high: Rows
    limit_low: Rows
    limit_high: Rows


def open_bracket(target: Rows, temperature_min: Rows, temperature_max: Rows) -> Bracket:
    """Initial bracket, with limits and no measured end.

    Args:
        target: Target entropy in nats, > 0, shape (rows,).
        temperature_min: Lower limit of T, shape (rows,).
        temperature_max: Upper limit of T, shape (rows,).
    """
    low, high = 1 / temperature_max, 1 / temperature_min
    unknown = torch.full_like(target, torch.nan)
    return Bracket(target.log(), low, unknown, unknown, high, unknown, unknown, low, high)


def refine_bracket(
    sums: Float[Tensor, "3 rows"], beta: Rows, bracket: Bracket
) -> tuple[Rows, Bracket]:
    """Next inverse temperature and updated bracket, from `power_sums` at `beta`."""
    bracket = _update_bracket(bracket, beta, sums)
    return _next_beta(bracket), bracket


def _update_bracket(bracket: Bracket, beta: Rows, sums: Float[Tensor, "3 rows"]) -> Bracket:
    """Move one end of the bracket to a measured point."""
    entropy, variance = moments(sums, beta)
    value = entropy.clamp_min(_TINY).log()
    slope = -beta * variance.clamp_min(1e-20) / entropy.clamp_min(_TINY)  # d ln H / d beta
    low_known, high_known = ~bracket.log_entropy_low.isnan(), ~bracket.log_entropy_high.isnan()
    left = (value >= bracket.target) & (~low_known | (beta >= bracket.beta_low))
    right = (value < bracket.target) & (~high_known | (beta <= bracket.beta_high))
    return bracket._replace(
        beta_low=torch.where(left, beta, bracket.beta_low),
        log_entropy_low=torch.where(left, value, bracket.log_entropy_low),
        slope_low=torch.where(left, slope, bracket.slope_low),
        beta_high=torch.where(right, beta, bracket.beta_high),
        log_entropy_high=torch.where(right, value, bracket.log_entropy_high),
        slope_high=torch.where(right, slope, bracket.slope_high),
    )


def _next_beta(bracket: Bracket) -> Rows:
    """Beta at which a monotone cubic interpolation of ln H between the two ends meets the target.

    ln H is close to linear in beta for peaked distributions; H is not. If one end is not measured,
    takes a Newton step from the other end.
    """
    width = bracket.beta_high - bracket.beta_low
    rise = bracket.log_entropy_high - bracket.log_entropy_low
    safe_rise = torch.where(rise.abs() < 1e-9, -1e-9, rise)
    t = ((bracket.target - bracket.log_entropy_low) / safe_rise).clamp(0.0, 1.0)
    # Slopes of beta as a function of ln H, limited to keep the cubic monotone (Fritsch-Carlson).
    start = (rise / bracket.slope_low / width).clamp(0.0, 3.0) * width
    end = (rise / bracket.slope_high / width).clamp(0.0, 3.0) * width
    t2, t3 = t * t, t * t * t
    cubic = (
        (2 * t3 - 3 * t2 + 1) * bracket.beta_low
        + (t3 - 2 * t2 + t) * start
        + (3 * t2 - 2 * t3) * bracket.beta_high
        + (t3 - t2) * end
    )
    to_target_low = bracket.target - bracket.log_entropy_low
    to_target_high = bracket.target - bracket.log_entropy_high
    beta = torch.where(rise.abs() < 1e-6, bracket.beta_low, cubic)
    newton_left = bracket.beta_low + to_target_low / bracket.slope_low
    newton_right = bracket.beta_high + to_target_high / bracket.slope_high
    beta = torch.where(bracket.log_entropy_high.isnan(), newton_left, beta)
    beta = torch.where(bracket.log_entropy_low.isnan(), newton_right, beta)
    return torch.minimum(torch.maximum(beta, bracket.limit_low), bracket.limit_high)


def apply_side(solved: Rows, base: Rows, side: Rows) -> Rows:
    """Combine T0 and the solved temperature according to the side, shape (rows,).

    Args:
        solved: T*, shape (rows,).
        base: T0, shape (rows,).
        side: A value of `probes.laws.SIDES`, shape (rows,).
    """
    cooled, heated = torch.minimum(base, solved), torch.maximum(base, solved)
    one = torch.where(side == SIDES["ceiling"], cooled, heated)
    return torch.where(side == SIDES["both"], solved, one)


REFINEMENTS = 3
"""Passes over the logits after the one at T = 1, in the decode loop. Measured on 480 tokens of the
default model at targets of 0.3 to 4 nats: 3 leave a mean error under 9e-4 nats (99th percentile
under 0.025), 4 under 2e-5."""


def temperature_for_entropy(
    logits: Float[Tensor, "rows vocabulary"],
    target: Rows | float,
    temperature_min: float | Rows = 0.1,
    temperature_max: float | Rows = 2.0,
    refinements: int = 6,
) -> Rows:
    """Solve H(softmax(logits / T)) = target for T, row by row.

    H increases with T, so a root is unique if it exists. If the target is out of reach within the
    limits (few allowed tokens bound the entropy from above, near-ties at the top from below), the
    nearer limit is returned. Rows without a finite entropy return NaN.

    Args:
        logits: Shape (rows, vocab).
        target: Nats, > 0; a number or shape (rows,).
        temperature_min: Lower limit of T, > 0.
        temperature_max: Upper limit of T.
        refinements: Passes over the logits after the one at T = 1.

    Returns:
        T per row, shape (rows,).
    """
    rows = logits.float()
    template = rows[..., 0]
    wanted, low, high = (
        torch.as_tensor(x, dtype=torch.float32, device=rows.device).expand_as(template)
        for x in (target, temperature_min, temperature_max)
    )
    maximum, beta = rows.amax(-1, keepdim=True), torch.ones_like(wanted)
    bracket = open_bracket(wanted, low, high)
    for _ in range(1 + refinements):
        beta, bracket = refine_bracket(power_sums(rows, maximum, beta), beta, bracket)
    return 1 / beta
