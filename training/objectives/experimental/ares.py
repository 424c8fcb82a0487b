"""ARES: rewards that match the number of high-entropy windows to the difficulty of a problem."""

import math
from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from training.objectives.core.batch import RolloutBatch
from training.objectives.core.interface import Objective
from training.objectives.core.requirements import RequiredTensor
from training.objectives.experimental.configs import AresConfig


def window_means(
    entropy: Float[Tensor, "sequences tokens"], mask: Bool[Tensor, "sequences tokens"], width: int
) -> Float[Tensor, "sequences tokens"]:
    """Mean entropy of the `width` tokens after each token, (N, T); NaN where tokens are missing."""
    result = torch.full_like(entropy, torch.nan)
    if entropy.shape[-1] <= width:
        return result
    means = entropy.masked_fill(~mask, torch.nan)[:, 1:].unfold(-1, width, 1).mean(-1)
    result[:, : means.shape[-1]] = means
    return result


class _Bucket(NamedTuple):
    """Reward settings of one difficulty."""

    name: Literal["easy", "medium", "hard"]
    accuracy_min: float
    """Smallest share of right answers in a group of this bucket."""
    margin: float
    kappa: float
    temperature: float
    cap: float
    gain_wrong: float


BUCKETS = (
    _Bucket("easy", 2 / 3, 0.15, 2.0, 2.0, 1.0, 0.6),
    _Bucket("medium", 1 / 3, 0.25, 3.0, 2.5, 1.0, 0.8),
    _Bucket("hard", 0.0, 0.35, 4.0, 3.0, 1.2, 1.0),
)


def effort_reward(
    bucket: _Bucket,
    count: Float[Tensor, "*batch"],
    target: float,
    alpha: float,
    correct: Bool[Tensor, "*batch"],
) -> Float[Tensor, "*batch"]:
    """Reward term of ARES for answers of one difficulty, any shape.

    Args:
        bucket: The difficulty.
        count: Number of high-entropy windows in the answer.
        target: Target number of windows.
        alpha: Strength; all terms lie in [-cap, cap] with cap = alpha * bucket.cap.
        correct: Bool, shape of `count`.
    """
    excess = count.double() - target
    margin = max(1.0, bucket.margin * max(target, 1.0))
    cap = alpha * bucket.cap
    scale = cap / (margin + bucket.kappa)
    over = (excess - margin).clamp_min(0.0)
    gain = cap * torch.sigmoid(over / bucket.temperature) * bucket.gain_wrong
    if bucket.name == "hard":
        enough = cap * torch.sigmoid((excess + margin) / bucket.temperature)
        lack = 0.5 * scale * _huber((-excess - margin).clamp_min(0.0), bucket.kappa)
        right = torch.where(excess >= -margin, enough, -lack.clamp_max(cap))
    else:
        away = over if bucket.name == "easy" else (excess.abs() - margin).clamp_min(0.0)
        right = -(scale * _huber(away, bucket.kappa)).clamp_max(cap)
    return torch.where(correct, right, gain)


def _huber(x: Float[Tensor, "*batch"], kappa: float) -> Float[Tensor, "*batch"]:
    return torch.where(x <= kappa, x.square() / (2 * kappa), x - kappa / 2)


class Ares(Objective[AresConfig]):
    """Reward effort on hard problems and brevity on easy ones.

    The count of an answer is the number of tokens whose following `window` tokens have a mean
    entropy of at least the threshold. The threshold is a moving average of the median over answers
    of a high quantile of their windows. Groups with at least 2/3 right answers are easy, with at
    least 1/3 medium, others hard. `effort_reward` is added to the reward; a wrong answer gets at
    least 0.3 alpha, since sigmoid(0) = 0.5. After each batch, the strength of a difficulty changes
    by alpha_rate (mean count - target), with the opposite sign for hard groups, within [0, 2].

    Source: ARES (arXiv 2510.08457), shawn0728/ARES at 146620e. There, the target is the rounded
    mean count of the same batch, so the strength only follows rounding errors; here it is the
    moving average over past batches. There, only tokens of a list of reasoning words are counted;
    here, all tokens are.
    """

    state = (
        "threshold",
        *(f"{kind}_{b.name}" for b in BUCKETS for kind in ("alpha", "target")),
    )

    def __init__(self, config: AresConfig) -> None:
        super().__init__(config)
        self.threshold: float | None = None
        for bucket in BUCKETS:
            setattr(self, f"alpha_{bucket.name}", config.alpha)
            setattr(self, f"target_{bucket.name}", None)

    def shape_rewards(self, rollout: RolloutBatch) -> Float[Tensor, " sequences"]:
        """Rewards with the effort term."""
        counts = rollout.per_group(self.count(rollout))
        correct = rollout.per_group(rollout.measured[RequiredTensor.CORRECT])
        accuracy = correct.double().mean(-1)
        added = torch.zeros_like(counts)
        below = 2.0
        for bucket in BUCKETS:
            members = (accuracy >= bucket.accuracy_min) & (accuracy < below)
            below = bucket.accuracy_min
            if not bool(members.any()):
                continue
            mean = float(counts[members].mean())
            alpha, target = self._strength(bucket, mean)
            added[members] = effort_reward(bucket, counts[members], target, alpha, correct[members])
            self._update_alpha(bucket, mean, target)
        return rollout.rewards + added.flatten().to(rollout.rewards)

    def count(self, rollout: RolloutBatch) -> Float[Tensor, " sequences"]:
        """Number of high-entropy windows per answer, (N,); updates the threshold."""
        config, entropy = self.config, rollout.measured[RequiredTensor.OLD_ENTROPY].double()
        wide = window_means(entropy, rollout.mask, config.threshold_window)
        observed = float(wide.nanquantile(config.quantile, -1).nanquantile(0.5))
        if math.isfinite(observed):
            past = observed if self.threshold is None else self.threshold
            weight = config.threshold_smoothing
            self.threshold = weight * past + (1 - weight) * observed
        windows = window_means(entropy, rollout.mask, config.window)
        threshold = math.inf if self.threshold is None else self.threshold
        return (windows >= threshold).sum(-1).double()

    def _strength(self, bucket: _Bucket, mean: float) -> tuple[float, float]:
        target = getattr(self, f"target_{bucket.name}")
        return getattr(self, f"alpha_{bucket.name}"), mean if target is None else target

    def _update_alpha(self, bucket: _Bucket, mean: float, target: float) -> None:
        sign = -1 if bucket.name == "hard" else 1
        alpha = getattr(self, f"alpha_{bucket.name}")
        alpha += sign * self.config.alpha_rate * (mean - target)
        setattr(self, f"alpha_{bucket.name}", min(max(alpha, 0.0), 2.0))
        past = self.config.smoothing
        setattr(self, f"target_{bucket.name}", past * target + (1 - past) * mean)
