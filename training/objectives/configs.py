"""Settings of the objectives that act on the loss of tokens. Does not import torch.

`groups.configs` has the settings of objectives that act on rewards and advantages of whole groups,
and `experimental.configs` those of objectives that were never checked against their source.
"""

from typing import Literal, Self

from pydantic import Field, model_validator

from training.objectives.core.controller import Actuator
from training.objectives.core.requirements import Claim, ObjectiveSettings, RequiredTensor


class PlainConfig(ObjectiveSettings):
    """No objective: the trainer's unmodified loss."""

    checked = "TRL"

    type: Literal["none"] = "none"
    """Name of the objective."""


class EntropyBonusConfig(ObjectiveSettings):
    """A bonus on the entropy: L - c mean(H)."""

    checked = "TRL"
    decides = frozenset({Claim.ENTROPY})
    actuator = Actuator.COEFFICIENT
    acts_on = ("tokens",)

    type: Literal["entropy_bonus"] = "entropy_bonus"
    """Name of the objective."""
    entropy_coef: float = Field(0.001, ge=0.0)
    """Loss per nat."""


class AdaptiveEntropyConfig(ObjectiveSettings):
    """Entropy bonus with a coefficient that grows while the entropy is below a target."""

    checked = "TRL"
    decides = frozenset({Claim.ENTROPY})
    acts_on = ("tokens",)

    type: Literal["adaptive_entropy"] = "adaptive_entropy"
    """Name of the objective."""
    entropy_target: float = Field(0.2, gt=0.0)
    """Nats; a value near the entropy of early training works best."""
    entropy_coef: float = Field(0.0, ge=0.0)
    """Initial coefficient, loss per nat."""
    entropy_coef_delta: float = Field(0.005, gt=0.0)
    """Change per optimizer step."""
    entropy_coef_min: float = Field(0.0, ge=0.0)
    """Lower limit of the coefficient."""
    entropy_coef_max: float = Field(1.0, gt=0.0)
    """Upper limit of the coefficient."""

    @model_validator(mode="after")
    def _check_bounds(self) -> Self:
        if not self.entropy_coef_min <= self.entropy_coef <= self.entropy_coef_max:
            raise ValueError(
                f"entropy_coef = {self.entropy_coef} must lie between entropy_coef_min = "
                f"{self.entropy_coef_min} and entropy_coef_max = {self.entropy_coef_max}"
            )
        return self


class TargetEntropyConfig(ObjectiveSettings):
    """Hold the mean entropy at a target: L + c |mean(H) - target|, from both sides."""

    checked = "paper (section 6.1)"
    decides = frozenset({Claim.ENTROPY})
    actuator = Actuator.COEFFICIENT
    acts_on = ("tokens",)

    type: Literal["target_entropy"] = "target_entropy"
    """Name of the objective."""
    entropy_target: float = Field(0.55, gt=0.0)
    """Nats."""
    entropy_coef: float = Field(0.001, ge=0.0)
    """Loss per nat of distance."""


class HighEntropyMaskConfig(ObjectiveSettings):
    """Train on the share of tokens with the highest entropy ("80/20")."""

    checked = "TRL"
    batch_needs = frozenset({RequiredTensor.OLD_ENTROPY})
    acts_on = ("tokens",)

    type: Literal["high_entropy_mask"] = "high_entropy_mask"
    """Name of the objective."""
    top_entropy_quantile: float = Field(0.2, gt=0.0, le=1.0)
    """Share of tokens that keep their loss; 1 keeps all."""


class EntropyAdvantageConfig(ObjectiveSettings):
    """Raise advantages where the policy is uncertain: A + min(alpha H, |A| / kappa)."""

    checked = "Linn3a/siren"
    acts_on = ("tokens",)

    type: Literal["entropy_advantage"] = "entropy_advantage"
    """Name of the objective."""
    alpha: float = Field(0.4, ge=0.0)
    """Advantage per nat."""
    kappa: float = Field(2.0, ge=1.0)
    """The bonus is at most |A| / kappa; with kappa > 1 it never flips the sign of an advantage."""


class ClipCovConfig(ObjectiveSettings):
    """Detach a random sample of the tokens with a large covariance."""

    checked = "PRIME-RL/Entropy-Mechanism-of-RL"
    batch_needs = frozenset({RequiredTensor.OLD_LOGPROBS})
    acts_on = ("tokens",)

    type: Literal["clip_cov"] = "clip_cov"
    """Name of the objective."""
    share: float = Field(2e-4, gt=0.0, le=1.0)
    """Share of all tokens that is detached, at least one token."""
    covariance_min: float = Field(1.0)
    """Only tokens with a larger covariance are candidates; units of advantage times nats."""
    covariance_max: float = Field(5.0)
    """Only tokens with a smaller covariance are candidates."""

    @model_validator(mode="after")
    def _check_band(self) -> Self:
        if self.covariance_min >= self.covariance_max:
            raise ValueError(
                f"covariance_min = {self.covariance_min} must be below covariance_max = "
                f"{self.covariance_max}"
            )
        return self


class KlCovConfig(ObjectiveSettings):
    """Add a KL penalty on the tokens with the largest covariance, without clipping."""

    checked = "PRIME-RL/Entropy-Mechanism-of-RL"
    decides = frozenset({Claim.CLIP})
    inert_on_policy = True
    batch_needs = frozenset({RequiredTensor.OLD_LOGPROBS})
    acts_on = ("tokens",)

    type: Literal["kl_cov"] = "kl_cov"
    """Name of the objective."""
    share: float = Field(2e-3, gt=0.0, le=1.0)
    """Share of tokens with the penalty, at least one token. The authors' `k_percent` of 0.2 (7B;
    0.02 for 32B) is 0.002 here; verl's `kl_cov_ratio` uses the same unit as this field."""
    beta: float = Field(1.0, ge=0.0)
    """Loss per nat of log-ratio."""


class TeaRlConfig(ObjectiveSettings):
    """Entropy bonus on the tokens of an answer whose covariance is largest (TEA-RL)."""

    checked = "Qihoo360/Light-IF"
    decides = frozenset({Claim.ENTROPY})
    batch_needs = frozenset({RequiredTensor.OLD_LOGPROBS})
    acts_on = ("tokens",)

    type: Literal["tea_rl"] = "tea_rl"
    """Name of the objective."""
    entropy_coef: float = Field(1.0, ge=0.0)
    """Loss per nat at weight 1."""
    scale: float = Field(10.0, gt=0.0)
    """Sum of the weights of an answer, unless a weight is limited."""
    weight_max: float = Field(5.0, gt=0.0)
    """Largest weight of a token."""


class SteerConfig(ObjectiveSettings):
    """Down-weight tokens whose update is expected to change the entropy strongly."""

    checked = "zz-haooo/STEER"
    batch_needs = frozenset({RequiredTensor.OLD_LOGPROBS, RequiredTensor.OLD_ENTROPY})
    acts_on = ("tokens",)

    type: Literal["steer"] = "steer"
    """Name of the objective."""
    map: Literal["exponential", "linear"] = "exponential"
    """How the expected entropy change is mapped to a weight."""
    weight_min: float = Field(0.8, gt=0.0, le=1.0)
    """Weight of the token with the largest expected change."""
    weight_max: float = Field(1.0, ge=1.0)
    """Largest weight. The exponential map requires 1; the published linear map uses 1.2."""

    @model_validator(mode="after")
    def _check_map(self) -> Self:
        if self.map == "exponential" and self.weight_max != 1.0:
            raise ValueError(
                f'weight_max = {self.weight_max} is not supported by map = "exponential", whose '
                'largest weight is 1: remove it or set map = "linear"'
            )
        return self


class LpRegConfig(ObjectiveSettings):
    """Protect plausible low-probability tokens of bad answers with a KL term."""

    checked = "CarlanLark/Lp-Reg-dev"
    needs = frozenset({RequiredTensor.PROXY_LOGPROBS})
    decides = frozenset({Claim.CLIP})
    batch_needs = frozenset({RequiredTensor.OLD_LOGPROBS})
    acts_on = ("tokens",)

    type: Literal["lp_reg"] = "lp_reg"
    """Name of the objective."""
    share: float = Field(0.01, gt=0.0, le=1.0)
    """Share of the tokens with A < 0 that may be protected, lowest probability first."""
    kappa: float = Field(0.02, gt=0.0, le=1.0)
    """Min-p threshold of the proxy."""
    fixed: bool = False
    """Apply the threshold to p instead of p / max(p)."""
    beta: float = Field(1.0, ge=0.0)
    """Coefficient of the KL term on protected tokens."""
    epsilon_low: float = Field(1.0, gt=0.0)
    """The ratio of all other tokens is clipped at 1 - epsilon_low."""
    epsilon_high: float = Field(9.0, gt=0.0)
    """The ratio of all other tokens is clipped at 1 + epsilon_high."""


class SirenConfig(ObjectiveSettings):
    """Hold the nucleus entropy of peak tokens at its initial value: L + c (H_sel - H_0)^2."""

    checked = "Linn3a/siren"
    needs = frozenset({RequiredTensor.NUCLEUS_ENTROPY})
    decides = frozenset({Claim.ENTROPY})
    acts_on = ("tokens",)

    type: Literal["siren"] = "siren"
    """Name of the objective."""
    entropy_coef: float = Field(0.005, ge=0.0)
    """Loss per square nat."""
    top_p: float = Field(0.8, gt=0.0, lt=1.0)
    """Probability of the nucleus."""
    top_k: int = Field(10_000, ge=1)
    """Largest number of tokens in the nucleus."""
    peak_quantile: float = Field(0.8, ge=0.0, lt=1.0)
    """Tokens above this quantile of their sequence are peak tokens."""


class EpoConfig(ObjectiveSettings):
    """Entropy bonus and band penalty: L - c (mean(H) - c_s w mean(P))."""

    checked = "paper v2 (equation 3)"
    decides = frozenset({Claim.ENTROPY})
    acts_on = ("tokens",)

    type: Literal["epo"] = "epo"
    """Name of the objective."""
    entropy_coef: float = Field(0.001, ge=0.0)
    """Loss per nat of entropy, and per nat outside the band."""
    smoothing_coef: float = Field(1.0, ge=0.0)
    """Weight of the penalty relative to the bonus."""
    ratio_low: float = Field(0.8, ge=0.0)
    """Lower end of the band as a multiple of the past mean entropy."""
    ratio_high: float = Field(1.2, gt=0.0)
    """Upper end of the band as a multiple of the past mean entropy."""
    gamma: float = Field(2.0, ge=0.0)
    """Decay rate of the penalty weight; the default is that of the public code."""
    num_steps: int | None = Field(None, ge=2)
    """Length of the schedule in optimizer steps; None uses the length of the run."""

    @model_validator(mode="after")
    def _check_band(self) -> Self:
        if self.ratio_low >= self.ratio_high:
            raise ValueError(
                f"ratio_low = {self.ratio_low} must be below ratio_high = {self.ratio_high}"
            )
        return self


class HapoConfig(ObjectiveSettings):
    """Three of the four components of HAPO, each of which can be disabled."""

    checked = "starriver030515/HAPO (clip and redistribution)"
    acts_on = ("groups", "tokens")

    type: Literal["hapo"] = "hapo"
    """Name of the objective."""
    token_average: bool = True
    """Compute the baseline and scale of a group over its tokens instead of its sequences."""
    redistribution: bool = True
    """Rescale advantages by entropy and importance ratio."""
    asymmetric_clip: bool = True
    """Widen the upper clip range at high entropy and the lower clip range at low entropy."""
    beta: float = Field(1.0, ge=0.0, le=1.0)
    """Strength of the redistribution; values above 1 would flip signs."""
    alpha: float = Field(1.0, ge=0.0)
    """Strength of the asymmetric clip."""
    quantile: float = Field(0.8, gt=0.0, lt=1.0)
    """Quantile of ln H that separates low from high entropy."""

    def claims(self) -> frozenset[Claim]:
        """The baseline and the clip range, if enabled."""
        claimed = {Claim.BASELINE: self.token_average, Claim.CLIP: self.asymmetric_clip}
        return frozenset(decision for decision, is_on in claimed.items() if is_on)


class SoftClipConfig(ObjectiveSettings):
    """Keep the gradient of tokens above the upper clip range, most of which have high entropy."""

    checked = "paper"
    decides = frozenset({Claim.CLIP})
    inert_on_policy = True
    acts_on = ("tokens",)

    type: Literal["soft_clip_high_entropy"] = "soft_clip_high_entropy"
    """Name of the objective."""
