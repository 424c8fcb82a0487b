"""Random micro-batches, the loss of a plan as a trainer computes it, and processes as threads."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, TypeVar

import torch
from pydantic import TypeAdapter
from torch import Tensor

from probes.entropy import entropy_from_logits
from training.objectives.catalog import ObjectiveList
from training.objectives.compose import Objectives
from training.objectives.core.batch import LossPlan, MicroBatch, RolloutBatch, StepStatistics
from training.objectives.core.distributed import Ranks, SingleProcess
from training.objectives.core.requirements import RequiredTensor
from training.objectives.groups.baselines import group_advantages

VOCAB = 11
CONFIGS: TypeAdapter[Any] = TypeAdapter(ObjectiveList)
T = TypeVar("T")
R = TypeVar("R")


def objectives(*configs: str | dict[str, object]) -> Objectives:
    return Objectives(CONFIGS.validate_python(list(configs)))


def only(*configs: str | dict[str, object]) -> Any:
    """The only objective of a config."""
    (member,) = objectives(*configs).members.values()
    return member


class Case(NamedTuple):
    """A micro-batch computed from logits, to which gradients can be computed."""

    logits: Tensor
    ids: Tensor
    old_logprobs: Tensor
    mask: Tensor
    advantages: Tensor

    def rows(self, part: slice) -> "Case":
        return Case(*(x[part].detach() for x in self))._leaf()

    def _leaf(self) -> "Case":
        return self._replace(logits=self.logits.detach().clone().requires_grad_())

    def tokens(self, ranks: Ranks | None = None) -> MicroBatch:
        logprobs = torch.log_softmax(self.logits, -1)
        members = objectives("lp_reg", "siren").members
        old = self.logits.detach() + 0.1 * self.logits.detach().sin()
        return MicroBatch(
            logprobs=logprobs.gather(-1, self.ids.unsqueeze(-1)).squeeze(-1),
            entropy=entropy_from_logits(self.logits),
            old_logprobs=self.old_logprobs,
            mask=self.mask,
            measured={
                RequiredTensor.PROXY_LOGPROBS: members["lp_reg"].measure(old, self.ids).double(),
                RequiredTensor.NUCLEUS_ENTROPY: members["siren"].measure(self.logits, self.ids),
            },
            ranks=ranks or SingleProcess(),
        )


def case(
    seed: int = 0, rows: int = 6, length: int = 8, lag: float = 0.3, scale: float = 2.0
) -> Case:
    """Lengths differ, some ratios are outside the clip range, half the advantages are negative."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    logits = normal(rows, length, VOCAB) * scale
    ids = torch.randint(VOCAB, (rows, length), generator=generator)
    logprobs = torch.log_softmax(logits, -1).gather(-1, ids.unsqueeze(-1)).squeeze(-1)
    lengths = torch.randint(2, length + 1, (rows,), generator=generator)
    lengths[0] = length
    mask = torch.arange(length) < lengths[:, None]
    advantages = normal(rows)
    advantages[::2] = -advantages[::2].abs()
    old = (logprobs + lag * normal(rows, length)).clamp_max(0.0) if lag else logprobs
    return Case(logits, ids, old, mask, advantages)._leaf()


def policy_loss(plan: LossPlan, tokens: MicroBatch) -> Tensor:
    """The clipped loss per token, (B, T)."""
    ratio = (tokens.logprobs - tokens.old_logprobs).exp()
    low = 1 - torch.as_tensor(plan.epsilon_low, dtype=ratio.dtype)
    high = 1 + torch.as_tensor(plan.epsilon_high, dtype=ratio.dtype)
    advantages = plan.advantages * plan.weight
    return -torch.minimum(ratio * advantages, ratio.clamp(low, high) * advantages)


def trainer_loss(
    plan: LossPlan, tokens: MicroBatch, num_tokens: float | None = None, num_micro: int = 1
) -> Tensor:
    """The token-mean loss of a plan; `num_tokens` is that of the whole step."""
    count = float(tokens.mask.sum()) if num_tokens is None else num_tokens
    per_token = policy_loss(plan, tokens)
    for terms in (plan.policy_terms, plan.mean_terms):
        per_token = per_token if terms is None else per_token + terms
    loss = (per_token * tokens.mask).sum() / count
    return loss if plan.scalar is None else loss + plan.scalar / num_micro


def plan_of(
    composed: Objectives, one: Case, ranks: Ranks | None = None
) -> tuple[LossPlan, MicroBatch]:
    tokens = one.tokens(ranks).without_padding()
    return composed.plan(tokens, one.advantages, 0.2, 0.28), tokens


def loss_and_gradient(composed: Objectives, one: Case) -> tuple[Tensor, Tensor]:
    plan, tokens = plan_of(composed, one)
    loss = trainer_loss(plan, tokens)
    (gradient,) = torch.autograd.grad(loss, one.logits)
    return loss.detach(), gradient


def step(entropy: float = 1.0, surprisal: float = 1.0, num_tokens: int = 100) -> StepStatistics:
    return StepStatistics(num_tokens, entropy, surprisal, 0.0, 0.0)


class _Lockstep:
    """One of several processes; every reduction waits for all of them."""

    def __init__(self, index: int, size: int, barrier: threading.Barrier, board: list[Any]) -> None:
        self.index, self.size, self.barrier, self.board = index, size, barrier, board

    def gather(self, values: Tensor) -> list[Tensor]:
        self.board[self.index] = values
        self.barrier.wait(10)
        everyone = list(self.board)
        self.barrier.wait(10)
        return everyone

    def sum(self, values: Tensor) -> Tensor:
        return torch.stack(self.gather(values)).sum(0)

    def max(self, values: Tensor) -> Tensor:
        return torch.stack(self.gather(values)).amax(0)


def on_ranks(parts: Sequence[T], work: Callable[[T, Ranks], R]) -> list[R]:
    """Run `work` on each part in a separate thread that stands for a process."""
    size = len(parts)
    barrier, board = threading.Barrier(size), [None] * size
    results: list[Any] = [None] * size
    failures: list[BaseException] = []

    def run(index: int) -> None:
        try:
            results[index] = work(parts[index], _Lockstep(index, size, barrier, board))
        except BaseException as error:
            failures.append(error)
            barrier.abort()

    threads = [threading.Thread(target=run, args=(i,)) for i in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return results


def rollout(
    rewards: Sequence[float],
    lengths: Sequence[int] | None = None,
    num_generations: int = 4,
    **measured: Tensor,
) -> RolloutBatch:
    """A generation batch with GRPO's advantages."""
    lengths = lengths or [3] * len(rewards)
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    bare = RolloutBatch(
        rewards=torch.tensor(rewards, dtype=torch.float64),
        advantages=torch.zeros(mask.shape, dtype=torch.float64),
        mask=mask,
        num_generations=num_generations,
        measured={RequiredTensor(name): value for name, value in measured.items()},
    )
    return replace(bare, advantages=group_advantages(bare))
