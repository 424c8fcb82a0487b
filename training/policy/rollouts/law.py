"""Rollouts with a separate temperature for each token."""

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
    """Draws in this process at the temperatures of a law, a controller, or both."""

    is_off_policy = True

    def __init__(
        self,
        law: TemperatureLaw | None,
        temperature: float,
        *,
        shift: Callable[[], float] = _no_shift,
        statistics: Callable[[], HapoStatistics | None] = _no_statistics,
    ) -> None:
        """Store the settings.

        Args:
            law: Sets the temperature of each token; None uses `temperature` plus the shift.
            temperature: Training temperature T0.
            shift: Returns the controller's output, which is added to T0 at each rollout.
            statistics: Returns the statistics of the policy's entropies, for the law `hapo`.
        """
        self._law, self._temperature = law, temperature
        self._shift, self._statistics = shift, statistics

    def draw(self, prompt_ids: list[list[int]], generate: Generate) -> DrawnCompletions:
        """Draw completions with their sampling log-probabilities."""
        statistics = self._statistics() if isinstance(self._law, HapoLaw) else None
        sampler = Sampler(self._law, self._temperature, self._shift(), statistics)
        completions = generate(prompt_ids, sampler)
        mean = torch.stack(sampler.temperatures).mean().item()
        return DrawnCompletions(completions, sampler.logprobs(completions), temperature=mean)
