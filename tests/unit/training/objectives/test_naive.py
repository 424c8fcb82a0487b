"""Loss and gradient of every token-level objective, compared with formulas for single tokens.

Nothing of `training.objectives` is used on the naive side: probabilities come from `exp`, sets from
sorted lists, gradients from the formula alone.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from tests.unit.training.objectives.batch import Case, case, loss_and_gradient
from tests.unit.training.objectives.test_compose import ON_TOKENS, warm

LOW, HIGH = 0.2, 0.28


class Token(NamedTuple):
    """One token; `lp` and `entropy` have gradients, the other fields are numbers."""

    row: int
    lp: Tensor
    entropy: Tensor
    p: Tensor
    """(vocab,)."""
    p_old: Tensor
    """(vocab,), under the sampling policy, for `lp_reg`."""
    id: int
    old: float
    advantage: float

    @property
    def h(self) -> float:
        return float(self.entropy.detach())

    @property
    def r(self) -> float:
        return math.exp(float(self.lp.detach()) - self.old)

    @property
    def ratio(self) -> Tensor:
        return (self.lp - self.old).exp()


def tokens_of(one: Case) -> list[Token]:
    found = []
    for row, column in one.mask.nonzero().tolist():
        z = one.logits[row, column]
        p = z.exp() / z.exp().sum()
        old = (z + 0.1 * z.sin()).detach().exp()
        token = int(one.ids[row, column])
        found.append(
            Token(
                row,
                p[token].log(),
                -(p * p.log()).sum(),
                p,
                old / old.sum(),
                token,
                float(one.old_logprobs[row, column]),
                float(one.advantages[row]),
            )
        )
    return found


def ppo(t: Token, low: float = LOW, high: float = HIGH, advantage: float | None = None) -> Tensor:
    a = t.advantage if advantage is None else advantage
    return torch.maximum(-a * t.ratio, -a * t.ratio.clamp(1 - low, 1 + high))


def covariances(tokens: list[Token]) -> list[float]:
    lps = [float(t.lp.detach()) for t in tokens]
    mean_a = sum(t.advantage for t in tokens) / len(tokens)
    mean_lp = sum(lps) / len(lps)
    return [(t.advantage - mean_a) * (lp - mean_lp) for t, lp in zip(tokens, lps, strict=True)]


def mean(values: list[Tensor]) -> Tensor:
    return torch.stack(values).sum() / len(values)


def entropy_bonus(tokens: list[Token]) -> Tensor:
    return mean([ppo(t) - 0.001 * t.entropy for t in tokens])


def adaptive_entropy(tokens: list[Token]) -> Tensor:
    return mean([ppo(t) - 0.1 * t.entropy for t in tokens])  # 0.1 nats before, below 0.2


def target_entropy(tokens: list[Token]) -> Tensor:
    return mean([ppo(t) + 0.001 * (t.entropy - 0.55) for t in tokens])  # 1.7 nats before


def high_entropy_mask(tokens: list[Token]) -> Tensor:
    ordered = sorted(t.h for t in tokens)
    place = 0.8 * (len(ordered) - 1)
    below = ordered[math.floor(place)]
    limit = below + (place % 1) * (ordered[math.ceil(place)] - below)
    return mean([ppo(t) * float(t.h >= limit) for t in tokens])


def entropy_advantage(tokens: list[Token]) -> Tensor:
    def shaped(t: Token) -> float:
        return t.advantage + min(0.4 * t.h, abs(t.advantage) / 2)

    return mean([ppo(t, advantage=shaped(t)) for t in tokens])


def clip_cov(tokens: list[Token]) -> Tensor:
    def dropped(t: Token, covariance: float) -> bool:
        up = t.advantage > 0 and t.r > 1 + HIGH
        down = t.advantage < 0 and t.r < 1 - LOW
        return -9 < covariance < 9 and not up and not down

    pairs = zip(tokens, covariances(tokens), strict=True)
    return mean([ppo(t) * float(not dropped(t, c)) for t, c in pairs])


def kl_cov(tokens: list[Token]) -> Tensor:
    found = covariances(tokens)
    limit = sorted(found, reverse=True)[max(int(0.2 * len(tokens)), 1) - 1]
    return mean(
        [
            -t.advantage * t.ratio + (t.lp - t.old).abs() * float(c >= limit)
            for t, c in zip(tokens, found, strict=True)
        ]
    )


def tea_rl(tokens: list[Token]) -> Tensor:
    mean_a = sum(t.advantage for t in tokens) / len(tokens)
    mean_lp = sum(float(t.lp.detach()) for t in tokens) / len(tokens)
    grown = [((t.advantage - mean_a) * (t.lp - mean_lp)).exp() for t in tokens]
    sums: dict[int, Tensor] = {}
    for t, value in zip(tokens, grown, strict=True):
        sums[t.row] = sums.get(t.row, torch.zeros(())) + value
    weights = [
        (10 * value / sums[t.row]).clamp(0, 5) for t, value in zip(tokens, grown, strict=True)
    ]
    return mean([ppo(t) - w * t.entropy for t, w in zip(tokens, weights, strict=True)])


def steer(tokens: list[Token]) -> Tensor:
    def change(t: Token) -> float:
        p = math.exp(float(t.lp.detach()))
        return abs(t.advantage / math.exp(t.old) * p * (1 - p) * (math.log(p) + t.h))

    decay = -math.log(0.8) / max(max(change(t) for t in tokens), 0.02)
    return mean([ppo(t) * math.exp(-decay * change(t)) for t in tokens])


def lp_reg(tokens: list[Token]) -> Tensor:
    bad = sorted((t for t in tokens if t.advantage < 0), key=lambda t: float(t.lp.detach()))
    unlikely = bad[: int(0.8 * len(bad))]

    def loss(t: Token) -> Tensor:
        kept = t.p_old[t.p_old >= 0.02 * t.p_old.max()]
        if any(t is one for one in unlikely) and bool(t.p_old[t.id] >= kept.min()):
            proxy = math.log(float(t.p_old[t.id] / kept.sum()))
            if float(t.lp.detach()) < proxy:
                d = proxy - t.lp
                return -t.advantage * t.ratio + (d.exp() - d - 1).clamp(-10, 10)
        return ppo(t, 1.0, 9.0)

    return mean([loss(t) for t in tokens])


def siren(tokens: list[Token]) -> Tensor:
    def nucleus(t: Token) -> Tensor:
        total, kept = 0.0, list[Tensor]()
        for index in t.p.argsort(descending=True).tolist():
            total += float(t.p[index].detach())
            if kept and total >= 0.8:
                break
            kept.append(t.p[index])
            if total >= 0.8:
                break
        q = torch.stack(kept) / torch.stack(kept).sum()
        return -(q * q.log()).sum()

    def peaks(row: int) -> list[Tensor]:
        own = [nucleus(t) for t in tokens if t.row == row]
        ordered = sorted(float(value.detach()) for value in own)
        place = 0.5 * (len(ordered) - 1)
        median = (ordered[math.floor(place)] + ordered[math.ceil(place)]) / 2
        return [value for value in own if float(value.detach()) > median]

    rows = sorted({t.row for t in tokens})
    selected = mean([mean(values) for values in map(peaks, rows) if values])
    return mean([ppo(t) for t in tokens]) + 0.5 * (selected - 0.3) ** 2


def epo(tokens: list[Token]) -> Tensor:
    weight = 1 + math.exp(-2 * 3 / 75)
    past = 1.1

    def term(t: Token) -> Tensor:
        outside = (0.8 * past - t.entropy).clamp_min(0) + (t.entropy - 1.2 * past).clamp_min(0)
        return 0.001 * (weight * outside - t.entropy)

    return mean([ppo(t) + term(t) for t in tokens])


def hapo(tokens: list[Token]) -> Tensor:
    def loss(t: Token) -> Tensor:
        s = (math.log(max(t.h, 1e-6)) - 0.1) / (0.5 + 1e-6)
        h = max(min(s * (0.6 if s > 0 else 0.4), 1.0), -1.0)
        low, high = LOW * (1 - min(h, 0.0)), HIGH * (1 + max(h, 0.0))
        neutral = 1 - low / 2 < t.r < 1 + high / 2
        moved = (h > 0 and not neutral) or (h <= 0 and neutral)
        return ppo(t, low, high, t.advantage * (1 + h) if moved else t.advantage)

    return mean([loss(t) for t in tokens])


def soft_clip_high_entropy(tokens: list[Token]) -> Tensor:
    def loss(t: Token) -> Tensor:
        if t.advantage > 0 and t.r > 1 + HIGH:
            return -t.advantage * t.ratio * (1 + HIGH) / t.r
        return ppo(t)

    return mean([loss(t) for t in tokens])


NAIVE: dict[str, Callable[[list[Token]], Tensor]] = {
    formula.__name__: formula
    for formula in (
        *(entropy_bonus, adaptive_entropy, target_entropy, high_entropy_mask, entropy_advantage),
        *(clip_cov, kl_cov, tea_rl, steer, lp_reg, siren, epo, hapo, soft_clip_high_entropy),
    )
}
# With a share of all candidates there is no random choice.
ALL = {"clip_cov": {"share": 1.0}}
# What the first measures and the second's statistics are in single precision.
TOLERANCE = {"lp_reg": 1e-6, "hapo": 1e-7}


def test_every_token_level_objective_has_a_formula() -> None:
    assert sorted(NAIVE) == sorted(ON_TOKENS)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", NAIVE)
def test_loss_and_gradient_equal_the_formula(name: str, seed: int) -> None:
    one = case(seed)
    loss, gradient = loss_and_gradient(warm(name, **ALL.get(name, {})), one)
    expected = NAIVE[name](tokens_of(one))
    (expected_gradient,) = torch.autograd.grad(expected, one.logits)
    width = TOLERANCE.get(name, 1e-10)
    torch.testing.assert_close(loss, expected.detach(), atol=width, rtol=width)
    torch.testing.assert_close(gradient, expected_gradient, atol=width, rtol=width)
