"""Where the completions of a training rollout come from: one strategy for each source.

Without a source the trainer draws them itself, at the temperature that is trained.
"""

from typing import NamedTuple, Protocol

from training.policy.rollouts.sampler import Sampler


class DrawnCompletions(NamedTuple):
    """Completions of a batch of prompts, in its order."""

    token_ids: list[list[int]]
    logprobs: list[list[float]] | None
    """Of each token under the distribution it was drawn from; None if that is the trained one."""
    loss_mask: list[list[int]] | None = None
    """1 at tokens that are trained on; None trains on all."""
    temperature: float | None = None
    """Mean temperature of the tokens; None if it is the trained one."""


class Generate(Protocol):
    """Draws completions with the policy in this process."""

    def __call__(
        self, prompt_ids: list[list[int]], sampler: Sampler | None = None, /
    ) -> list[list[int]]:
        """One completion for each prompt.

        Args:
            prompt_ids: Token ids.
            sampler: Sets temperatures and records what is drawn; None draws plainly.
        """


class RolloutSource(Protocol):
    """Draws the completions of a rollout."""

    is_off_policy: bool
    """Whether tokens are drawn from another distribution than is trained, and recorded."""

    def draw(self, prompt_ids: list[list[int]], generate: Generate) -> DrawnCompletions:
        """Completions of a batch of prompts, groups together.

        Args:
            prompt_ids: Token ids.
            generate: Draws with the policy in this process.
        """
