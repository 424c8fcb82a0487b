"""Rollouts at temperatures of their own, and the log-probabilities that tokens were drawn with.

Whatever moves the temperature of a rollout, a law per token or a controller, makes the policy that
samples another one than the policy that is trained. Ratios are only right with the log-probability
that each token was really drawn with, so the sampler records it.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from probes.entropy import entropy_from_logits
from probes.entropy_target import one_sided, temperature_for_entropy
from probes.law_functions import apply_laws
from probes.laws import SIDES, EntropyTargetLaw, HapoLaw, HapoStatistics, TemperatureLaw, law_row


class Sampler:
    """A logits processor that sets each row's temperature and records what was drawn.

    It works beside `transformers.generate`: put it in the list of processors, call `logprobs` with
    the completions when it is done. The processor that divides by the generation config's own
    temperature, `base`, comes after this one, so rows leave here multiplied by it.
    """

    def __init__(
        self,
        law: TemperatureLaw | None,
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
        self._center = max(base + shift, 0.05)
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
        base = torch.full_like(logits[:, 0], self._center)
        law = self._law
        if isinstance(law, EntropyTargetLaw):
            solved = temperature_for_entropy(
                logits, law.entropy_target, law.temperature_min, law.temperature_max
            )
            return one_sided(solved, base, torch.full_like(base, SIDES[law.side]))
        if law is None or (isinstance(law, HapoLaw) and self._statistics is None):
            return base
        tag, row = law_row(law, self._statistics)
        return apply_laws(
            entropy,
            base,
            torch.full_like(base, tag, dtype=torch.long),
            torch.tensor(row).to(base).expand(len(base), -1),
            math.log(logits.shape[-1]),
        )
