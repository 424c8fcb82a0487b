"""Interface of the sources of training rollouts.

Without a source, TRL draws the completions at the training temperature.
"""

from typing import NamedTuple, Protocol

from training.policy.rollouts.sampler import Sampler


class DrawnCompletions(NamedTuple):
    """Completions of a batch of prompts, in the order of the prompts."""

    token_ids: list[list[int]]
    logprobs: list[list[float]] | None
    """Sampling log-probability of each token; None if the trained policy was sampled."""
    loss_mask: list[list[int]] | None = None
    """1 at trained tokens; None trains on all tokens."""
    temperature: float | None = None
    """Mean temperature of the tokens; None if it is the training temperature."""


class Generate(Protocol):
    """Draws completions with the policy in this process."""

    def __call__(
        self, prompt_ids: list[list[int]], sampler: Sampler | None = None, /
    ) -> list[list[int]]:
        """Draw one completion per prompt.

        Args:
            prompt_ids: Token ids.
            sampler: Sets temperatures and records log-probabilities; None samples without it.
        """


class RolloutSource(Protocol):
    """Draws the completions of a rollout."""

    is_off_policy: bool
    """Whether the sampling distribution differs from the trained policy and is recorded."""

    def draw(self, prompt_ids: list[list[int]], generate: Generate) -> DrawnCompletions:
        """Draw completions for a batch of prompts, groups contiguous.

        Args:
            prompt_ids: Token ids.
            generate: Draws with the policy in this process.
        """
