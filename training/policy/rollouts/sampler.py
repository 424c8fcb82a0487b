"""Samples rollouts at controlled temperatures and records their sampling log-probabilities.

If a law or a controller changes the temperature of a rollout, the sampling policy differs from the
trained policy. Importance ratios then need the log-probability under the distribution from which
each token was drawn, so the sampler records it.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from probes.entropy import entropy_from_logits
from probes.entropy_target import apply_side, temperature_for_entropy
from probes.law_functions import apply_laws
from probes.laws import SIDES, EntropyTargetLaw, HapoLaw, HapoStatistics, TemperatureLaw, law_row


class Sampler:
    """A logits processor that sets the temperature of each row and records log-probabilities.

    Pass it to `transformers.generate` as a logits processor, then call `logprobs` with the
    completions. A later processor divides by the temperature of the generation config, `base`, so
    this one multiplies its output by `base`.
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
            law: Sets the temperature of each token; None uses `base + shift`.
            base: Training temperature T0.
            shift: The controller's output, which is added to T0.
            statistics: Statistics for `HapoLaw`; without them, the law uses `base + shift`.
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
        self._store(input_ids[:, -1])
        logits = scores.float()
        entropy = entropy_from_logits(logits)
        temperature = self._temperature(logits, self._law_inputs(logits, entropy))
        self._entropies.append(entropy)
        scaled = logits / temperature[:, None]
        self.temperatures.append(temperature)
        self._last = torch.log_softmax(scaled, -1)
        return scaled * self._base

    def logprobs(self, completions: Sequence[Sequence[int]]) -> list[list[float]]:
        """Sampling log-probability of every token of every completion."""
        if self._last is not None:
            steps = len(self._drawn) + 1
            final = [row[-1] if len(row) == steps else 0 for row in completions]
            self._store(torch.tensor(final, device=self._last.device))
            self._last = None
        if not self._drawn:
            return [[] for _ in completions]
        table = torch.stack(self._drawn, 1).tolist()
        return [values[: len(row)] for values, row in zip(table, completions, strict=True)]

    def entropies(self, completions: Sequence[Sequence[int]]) -> list[list[float]]:
        """Entropy at temperature 1 before every token of every completion, nats."""
        table = torch.stack(self._entropies, 1).tolist()
        return [values[: len(row)] for values, row in zip(table, completions, strict=True)]

    def _store(self, tokens: Tensor) -> None:
        if self._last is not None:
            self._drawn.append(self._last.gather(-1, tokens[:, None]).squeeze(-1))

    def _law_inputs(self, logits: Tensor, entropy: Tensor) -> Tensor:
        """The input entropies of the law; those of HAPO's statistics are at `base`."""
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
            return apply_side(solved, base, torch.full_like(base, SIDES[law.side]))
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
