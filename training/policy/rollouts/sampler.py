"""Rollouts at temperatures of their own, and the log-probabilities that tokens were drawn with.

Whatever moves the temperature of a rollout, a law per token or a controller, makes the policy that
samples another one than the policy that is trained. Ratios are only right with the log-probability
that each token was really drawn with, so the sampler records it.
"""

import math
from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from probes.entropy import entropy_from_logits
from probes.laws import (
    HapoStatistics,
    Law,
    apply_laws,
    law_parameters,
    temperature_for_entropy,
)


class _Law(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class FixedLaw(_Law):
    """One temperature, other than the one that is trained at."""

    type: Literal["fixed"] = "fixed"
    temperature: float = Field(gt=0.0, le=2.0)
    """Of every token."""


class HapoLaw(_Law):
    """HAPO's: T = T0 (1 + tau h), h the scaled log-entropy.

    The statistics are those of the objective `hapo`, from the optimiser step before; the first
    rollout is plain.
    """

    type: Literal["hapo"] = "hapo"
    tau: float = Field(0.05, ge=0.0, lt=1.0)
    """Largest share of T0 that is added or taken."""


class EdtLaw(_Law):
    """EDT's: T = T0 base^(theta / H)."""

    type: Literal["edt"] = "edt"
    theta: float = Field(0.1, ge=0.0)
    """Nats."""
    base: float = Field(0.8, gt=0.0, lt=1.0)
    """Share of T0 that is left where H is theta."""


class DynatempLaw(_Law):
    """llama.cpp's: between T0 - range and T0 + range by H / ln(vocab)."""

    type: Literal["dynatemp"] = "dynatemp"
    range: float = Field(0.5, ge=0.0, le=1.0)
    """Half-width of the temperatures around T0."""
    exponent: float = Field(1.0, gt=0.0)
    """Applied to H / ln(vocab)."""


class EntropyTargetLaw(_Law):
    """T is solved per token so that the entropy drawn from is the target, within limits."""

    type: Literal["entropy_target"] = "entropy_target"
    entropy_target: float = Field(gt=0.0)
    """Nats."""
    temperature_min: float = Field(0.5, gt=0.0)
    """Where a target too low ends."""
    temperature_max: float = Field(1.5, gt=0.0)
    """Where a target too high ends."""


RolloutLaw = Annotated[
    FixedLaw | HapoLaw | EdtLaw | DynatempLaw | EntropyTargetLaw, Field(discriminator="type")
]


class Sampler:
    """A logits processor that sets each row's temperature and records what was drawn.

    It works beside `transformers.generate`: put it in the list of processors, call `logprobs` with
    the completions when it is done. The processor that divides by the generation config's own
    temperature, `base`, comes after this one, so rows leave here multiplied by it.
    """

    def __init__(
        self,
        law: RolloutLaw | None,
        base: float,
        shift: float = 0.0,
        statistics: HapoStatistics | None = None,
    ) -> None:
        """Prepare one call of `generate`.

        Args:
            law: None draws everything at `base + shift`.
            base: Temperature T0 of training.
            shift: Added to T0, a controller's output.
            statistics: For `HapoLaw`; without them the law leaves T0 alone.
        """
        self._law, self._base = law, base
        self._centre = max(base + shift, 0.05)
        self._statistics = statistics
        self._drawn: list[Tensor] = []
        self._last: Tensor | None = None
        self.temperatures: list[Tensor] = []
        """One tensor (rows,) per generated token."""
        self._entropies: list[Tensor] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Scale logits (rows, vocab) for the next token."""
        self._take(input_ids[:, -1])
        logits = scores.float()
        entropy = entropy_from_logits(logits)
        temperature = self._temperature(logits, self._seen(logits, entropy))
        self._entropies.append(entropy)
        scaled = logits / temperature[:, None]
        self.temperatures.append(temperature)
        self._last = torch.log_softmax(scaled, -1)
        return scaled * self._base

    def logprobs(self, completions: Sequence[Sequence[int]]) -> list[list[float]]:
        """Log-probability of every token of every completion, as it was drawn."""
        if self._last is not None:
            steps = len(self._drawn) + 1
            final = [row[-1] if len(row) == steps else 0 for row in completions]
            self._take(torch.tensor(final, device=self._last.device))
            self._last = None
        if not self._drawn:
            return [[] for _ in completions]
        table = torch.stack(self._drawn, 1).tolist()
        return [values[: len(row)] for values, row in zip(table, completions, strict=True)]

    def entropies(self, completions: Sequence[Sequence[int]]) -> list[list[float]]:
        """Entropy at temperature 1 before every token of every completion, nats."""
        table = torch.stack(self._entropies, 1).tolist()
        return [values[: len(row)] for values, row in zip(table, completions, strict=True)]

    def _take(self, tokens: Tensor) -> None:
        if self._last is not None:
            self._drawn.append(self._last.gather(-1, tokens[:, None]).squeeze(-1))

    def _seen(self, logits: Tensor, entropy: Tensor) -> Tensor:
        """The entropies that a law goes by; HAPO's statistics are of those at the base."""
        if isinstance(self._law, HapoLaw) and self._base != 1.0:
            return entropy_from_logits(logits, self._base)
        return entropy

    def _temperature(self, logits: Tensor, entropy: Tensor) -> Tensor:
        base = torch.full_like(logits[:, 0], self._centre)
        law = self._law
        if isinstance(law, EntropyTargetLaw):
            return temperature_for_entropy(
                logits, law.entropy_target, law.temperature_min, law.temperature_max
            )
        if law is None or (isinstance(law, HapoLaw) and self._statistics is None):
            return base
        tag, row = _row(law, self._statistics)
        return apply_laws(
            entropy,
            base,
            torch.full_like(base, tag.value, dtype=torch.long),
            torch.tensor(row).to(base).expand(len(base), -1),
            math.log(logits.shape[-1]),
        )


def _row(law: RolloutLaw, statistics: HapoStatistics | None) -> tuple[Law, list[float]]:
    """The law's tag and parameters, as `probes.laws` lays them out."""
    tag = Law[law.type.upper()]
    values = law.model_dump(exclude={"type"})
    if statistics is not None and tag is Law.HAPO:
        values |= {**statistics._asdict(), "published": 0.0}
    return tag, law_parameters(tag, **values)
