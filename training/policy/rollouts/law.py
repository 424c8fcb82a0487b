"""Rollouts whose tokens have temperatures of their own."""

from collections.abc import Callable

import torch

from probes.laws import HapoLaw, HapoStatistics, TemperatureLaw
from training.policy.rollouts.sampler import Sampler
from training.policy.rollouts.source import DrawnCompletions, Generate


def _no_shift() -> float:
    return 0.0


def _no_statistics() -> None:
    return None


class LawSource:
    """Draws in this process at the temperatures of a law, of a controller, or of both."""

    is_off_policy = True

    def __init__(
        self,
        law: TemperatureLaw | None,
        temperature: float,
        *,
        shift: Callable[[], float] = _no_shift,
        statistics: Callable[[], HapoStatistics | None] = _no_statistics,
    ) -> None:
        """Draw by a law.

        Args:
            law: Of each token; None draws all at `temperature` and the shift.
            temperature: That is trained at, T0.
            shift: Added to T0 at each rollout, a controller's output.
            statistics: Of the policy's entropies, for the law `hapo`.
        """
        self._law, self._temperature = law, temperature
        self._shift, self._statistics = shift, statistics

    def draw(self, prompt_ids: list[list[int]], generate: Generate) -> DrawnCompletions:
        """Completions, with the log-probabilities they were drawn with."""
        statistics = self._statistics() if isinstance(self._law, HapoLaw) else None
        sampler = Sampler(self._law, self._temperature, self._shift(), statistics)
        completions = generate(prompt_ids, sampler)
        mean = torch.stack(sampler.temperatures).mean().item()
        return DrawnCompletions(completions, sampler.logprobs(completions), temperature=mean)
