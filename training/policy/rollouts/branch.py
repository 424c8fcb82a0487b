"""Completions that are forked from other completions, and replacement of samples in a batch."""

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from training.policy.rollouts.sampler import Sampler
from training.policy.rollouts.settings import BranchConfig
from training.policy.rollouts.source import DrawnCompletions, Generate

_PROMPT = ("prompt_ids", "prompt_mask")


def replace_samples(
    batch: Mapping[str, Any], extra: Mapping[str, Any], kept: Tensor, pad_token: int
) -> dict[str, Any]:
    """Replace the first sequences of a batch with chosen extra samples, with advantage 1.

    Rows without recorded sampling log-probabilities get NaN, which counts as on policy.

    Args:
        batch: TRL's batch of a rollout: (N, P) prompts, (N, T) completions, advantages (N,) or
            (N, T), and so on.
        extra: The same for M extra samples.
        kept: Indices into `extra`, at most N.
        pad_token: Pads shorter rows.
    """
    count = len(kept)
    if count == 0:
        return dict(batch)
    result = dict(batch)
    advantages = batch["advantages"]
    if advantages.dim() == 1:
        advantages = advantages[:, None].expand(batch["completion_ids"].shape)
    batch = {**batch, "advantages": advantages}
    ones = torch.ones_like(extra["completion_ids"], dtype=advantages.dtype)
    extra = {**extra, "advantages": ones}
    unknown = "sampling_per_token_logps"
    if unknown in extra and unknown not in batch:
        batch[unknown] = torch.full(advantages.shape, torch.nan, device=advantages.device)
    for key, values in batch.items():
        if not isinstance(values, Tensor) or values.dim() != 2 or key not in extra:
            continue
        fill = pad_token if key.endswith("_ids") else 0
        width = max(values.shape[1], extra[key].shape[1])
        left = key in _PROMPT
        rows = _pad(extra[key][kept], width, fill, left).to(values.dtype)
        result[key] = torch.cat([rows, _pad(values[count:], width, fill, left)])
    return result


def _pad(values: Tensor, width: int, fill: int, left: bool) -> Tensor:
    missing = width - values.shape[1]
    return torch.nn.functional.pad(values, (missing, 0) if left else (0, missing), value=fill)


class Fork(NamedTuple):
    """The point where a completion diverges from its root."""

    root: int
    """Row of the root."""
    position: int
    """Number of tokens copied from the root."""


def is_root(row: int, num_generations: int, roots: int) -> bool:
    """Whether a row of a rollout is a root, which is drawn in full."""
    return row % num_generations < roots


def choose_forks(
    entropies: Mapping[int, Sequence[float]],
    tokens: Mapping[int, Sequence[str]],
    num_rows: int,
    num_generations: int,
    config: BranchConfig,
    chance: random.Random,
) -> dict[int, Fork]:
    """Assign a root and a fork point to every row that is not a root.

    The rows of a group are assigned to its roots in turn, and each root has one fork point. The
    first token, special tokens and tokens of one visible character are excluded; without another
    candidate, the fork point is position 0.

    Args:
        entropies: Entropy of every token of the root rows, nats.
        tokens: Text of every token of the root rows; "" for special tokens.
        num_rows: Rows of the rollout, groups contiguous.
        num_generations: Rows of a group.
        config: Numbers of roots and of candidates.
        chance: Random generator that chooses among the candidates.
    """
    points = {root: _fork_point(entropies[root], tokens[root], config, chance) for root in tokens}
    found = {}
    for row in range(num_rows):
        if is_root(row, num_generations, config.roots):
            continue
        place = row % num_generations - config.roots
        root = row - row % num_generations + place % config.roots
        found[row] = Fork(root, points[root])
    return found


def _fork_point(
    entropies: Sequence[float], texts: Sequence[str], config: BranchConfig, chance: random.Random
) -> int:
    usable = [at for at, text in enumerate(texts) if at > 0 and len(text.strip()) > 1]
    best = sorted(usable, key=lambda at: -entropies[at])[: config.top]
    return chance.choice(best) if best else 0


class BranchSource:
    """Draws the roots of every group in full, and other completions from a fork point of a root."""

    is_off_policy = False

    def __init__(
        self,
        config: BranchConfig,
        temperature: float,
        num_generations: int,
        token_texts: Callable[[list[int]], list[str]],
    ) -> None:
        """Store the settings.

        Args:
            config: Numbers of roots and of candidates.
            temperature: Temperature of all tokens.
            num_generations: Completions of a group.
            token_texts: Returns the text of each token of a completion; "" for special tokens.
        """
        self._config, self._temperature = config, temperature
        self._size, self._token_texts = num_generations, token_texts

    def draw(self, prompt_ids: list[list[int]], generate: Generate) -> DrawnCompletions:
        """Draw completions; tokens copied from a root have no loss."""
        rows = range(len(prompt_ids))
        roots = [row for row in rows if is_root(row, self._size, self._config.roots)]
        sampler = Sampler(None, self._temperature)
        drafts = generate([prompt_ids[row] for row in roots], sampler)
        completions = dict(zip(roots, drafts, strict=True))
        texts = {row: self._token_texts(draft) for row, draft in completions.items()}
        entropies = dict(zip(roots, sampler.entropies(drafts), strict=True))
        chance = random.Random(int(torch.randint(2**31, ())))
        found = choose_forks(entropies, texts, len(prompt_ids), self._size, self._config, chance)
        prefixes = {row: completions[fork.root][: fork.position] for row, fork in found.items()}
        rest = generate([[*prompt_ids[row], *prefix] for row, prefix in prefixes.items()])
        for (row, prefix), more in zip(prefixes.items(), rest, strict=True):
            completions[row] = [*prefix, *more]
        taken = [len(prefixes.get(row, [])) for row in rows]
        mask = [[int(at >= taken[row]) for at in range(len(completions[row]))] for row in rows]
        return DrawnCompletions([completions[row] for row in rows], None, loss_mask=mask)
