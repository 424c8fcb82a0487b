"""Runs a model with transformers on an agent's episodes, under many steering conditions.

The prompts of a run are read once, unsteered, as a tree; every way of steering then costs the last
prompt token and those of the actions.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from training.steering.tasks import AgentStep, Episode
from training.steering.token_tree import (
    Nodes,
    TokenTree,
    add_to_stream,
    build_tree,
    capture_stream,
    pad_rows,
)

_BATCH_TOKENS = 1024
_TAIL_TOKENS = 512
"""Maximum number of tokens per pass, over all rows and conditions."""
_BRANCHES = 256
"""Completions that are sampled in one pass."""


class Condition(NamedTuple):
    """One steering condition; without moves, the unsteered model."""

    moves: Mapping[int, Tensor] = {}
    """Added after each layer, from the last prompt token on."""
    temperature: float = 1.0


PLAIN = Condition()


class TokenizedEpisode(NamedTuple):
    """A tokenized episode."""

    prompts: list[list[int]]
    """One per step, the beginning of the answer included."""
    actions: list[list[list[int]]]
    """Of every step, the tokens of every action."""
    names: Sequence[Sequence[str]] = ()
    """Of every step, the actions as text."""


def tokenize_episode(tokenizer: Any, run: Episode) -> TokenizedEpisode:
    """A run in tokens: the chat template, then how the answer is begun."""
    return TokenizedEpisode(
        [_prompt(tokenizer, step) for step in run],
        [_actions(tokenizer, step) for step in run],
        [step.actions for step in run],
    )


def _prompt(tokenizer: Any, step: AgentStep) -> list[int]:
    chat = tokenizer.apply_chat_template(
        step.messages, add_generation_prompt=True, return_dict=True
    )
    return [
        *chat["input_ids"],
        *tokenizer(step.answer_prefix, add_special_tokens=False)["input_ids"],
    ]


def _actions(tokenizer: Any, step: AgentStep) -> list[list[int]]:
    space = " " if step.answer_prefix and not step.answer_prefix[-1].isspace() else ""
    return [
        list(tokenizer(space + action, add_special_tokens=False)["input_ids"])
        for action in step.actions
    ]


def batches(runs: Sequence[TokenizedEpisode]) -> Iterator[list[TokenizedEpisode]]:
    """Batches of episodes, in order, with a bounded number of tokens."""
    batch, widest = list[TokenizedEpisode](), 0
    for run in runs:
        width = max(widest, len(build_tree(run.prompts)[0]))
        if batch and width * (len(batch) + 1) > _BATCH_TOKENS:
            yield batch
            batch, width = [], len(build_tree(run.prompts)[0])
        batch.append(run)
        widest = width
    if batch:
        yield batch


class EpisodeReader:
    """A batch of episodes whose prompts are in the KV cache, except for the last tokens."""

    def __init__(self, model: Any, runs: Sequence[TokenizedEpisode]) -> None:
        """Read the prompts.

        Args:
            model: A causal language model of transformers.
            runs: Rows of the batch.
        """
        self._model = model
        self.runs = runs
        trees = [build_tree([prompt[:-1] for prompt in run.prompts]) for run in runs]
        self._tree = TokenTree(model, len(runs))
        self._tree.extend(
            pad_rows([(tokens, parents) for tokens, parents, _ in trees]), logits=False
        )
        self._ends = [ends for *_, ends in trees]
        self._read = len(self._tree)
        self._tails = pad_rows(
            [self._prompt_tail(run, ends) for run, ends in zip(runs, self._ends, strict=True)]
        )
        self._targets = torch.tensor(list(self._targets_of(runs)))

    def _prompt_tail(self, run: TokenizedEpisode, ends: list[int]) -> tuple[list[int], list[int]]:
        """The steps' last prompt tokens, then the actions' tokens but for their last."""
        tokens = [prompt[-1] for prompt in run.prompts]
        parents = list(ends)
        for step, actions in enumerate(run.actions):
            for action in actions:
                at = self._read + step
                for token in action[:-1]:
                    parents.append(at)
                    at = self._read + len(tokens)
                    tokens.append(token)
        return tokens, parents

    @staticmethod
    def _targets_of(runs: Sequence[TokenizedEpisode]) -> Iterator[tuple[int, int, int, int, int]]:
        """Row, new node, its next token, and the step and action that this is part of."""
        for row, run in enumerate(runs):
            free = len(run.prompts)
            for step, actions in enumerate(run.actions):
                for number, action in enumerate(actions):
                    at = step
                    for token in action[:-1]:
                        yield row, at, token, step, number
                        at, free = free, free + 1
                    yield row, at, action[-1], step, number

    def states(self, layers: Sequence[int]) -> tuple[Tensor, Tensor]:
        """The unsteered model at the last prompt tokens.

        Returns:
            Log-probabilities as of `logprobs`, and the residual stream behind each layer, float32,
            shape (steps, layers, hidden), of all rows one after another.
        """
        with capture_stream(self._model, layers) as streams:
            logprobs = self.logprobs(PLAIN)
        found = [
            torch.stack([streams[layer][row, : len(run.prompts)] for layer in layers], 1)
            for row, run in enumerate(self.runs)
        ]
        return logprobs, torch.cat(found)

    def logprobs(self, condition: Condition) -> Tensor:
        """Joint log-probability of every action, shape (steps, actions).

        Steps of all rows one after another; -inf fills up those with fewer actions.
        """
        return self.sweep([condition])[:, 0]

    def sweep(self, conditions: Sequence[Condition]) -> Tensor:
        """`logprobs` under many conditions, shape (steps, conditions, actions)."""
        at_once = max(1, _TAIL_TOKENS // self._tails.tokens.numel())
        parts = [conditions[at : at + at_once] for at in range(0, len(conditions), at_once)]
        return torch.cat([self._sweep(part) for part in parts], 1)

    def _sweep(self, conditions: Sequence[Condition]) -> Tensor:
        logits = self._tail_logits(conditions)
        found = [
            self._action_logprobs(one, condition.temperature)
            for one, condition in zip(logits, conditions, strict=True)
        ]
        return torch.stack(found, 1)

    def _action_logprobs(self, logits: Tensor, temperature: float) -> Tensor:
        row, node, token, step, action = self._targets.unbind(1)
        chosen = (logits / temperature).log_softmax(-1)[row, node, token]
        steps = torch.tensor([len(run.prompts) for run in self.runs])
        flat = (steps.cumsum(0) - steps)[row] + step
        shape = int(steps.sum()), int(action.max()) + 1
        sums = torch.zeros(shape).index_put_((flat, action), chosen, accumulate=True)
        counts = torch.zeros(shape).index_put_((flat, action), torch.ones(len(flat)), True)
        return sums.masked_fill(counts == 0, -torch.inf)

    def logits(self, condition: Condition) -> Tensor:
        """Behind the last prompt tokens, then the actions', shape (rows, tokens, vocabulary)."""
        return self._tail_logits([condition])[0]

    def _tail_logits(self, conditions: Sequence[Condition]) -> Tensor:
        """Shape (conditions, rows, tokens, vocabulary); the conditions stand side by side."""
        tokens, parents = self._tails
        rows, width = tokens.shape
        copies = len(conditions)
        shift = torch.arange(copies).repeat_interleave(width) * width
        parents = parents.repeat(1, copies)
        parents = torch.where(parents >= self._read, parents + shift, parents)
        with add_to_stream(self._model, _stack_offsets(conditions, width)):
            logits = self._tree.extend(Nodes(tokens.repeat(1, copies), parents))
        self._tree.crop(self._read)
        return logits.view(rows, copies, width, -1).transpose(0, 1)

    def sample(
        self, condition: Condition, completions: int, tokens: int, chance: torch.Generator, end: int
    ) -> list[list[list[int]]]:
        """Draw answers.

        Args:
            condition: How to steer; a temperature of 0 takes the likeliest token.
            completions: Of each step.
            tokens: Longest one.
            chance: What decides.
            end: The token that ends an answer.

        Returns:
            The tokens of every completion of every step, all rows one after another.
        """
        at_once = max(1, _BRANCHES // (completions * len(self.runs)))
        most = max(len(run.prompts) for run in self.runs)
        drawn: list[list[list[list[int]]]] = [[] for _ in self.runs]
        for first in range(0, most, at_once):
            steps = range(first, min(first + at_once, most))
            part = self._sample_branches(steps, condition, completions, tokens, chance)
            for row, run in enumerate(self.runs):
                for place, _ in enumerate(step for step in steps if step < len(run.prompts)):
                    drawn[row].append([_cut_at_end(one, end) for one in part[row, place].tolist()])
        return [step for row in drawn for step in row]

    def _sample_branches(
        self, steps: range, condition: Condition, completions: int, tokens: int, chance: Any
    ) -> Tensor:
        """Tokens drawn behind some steps, shape (rows, steps, completions, tokens)."""
        known = [[min(step, len(run.prompts) - 1) for step in steps] for run in self.runs]
        last = [
            ([run.prompts[step][-1] for step in mine], [ends[step] for step in mine])
            for run, ends, mine in zip(self.runs, self._ends, known, strict=True)
        ]
        drawn = list[Tensor]()
        with add_to_stream(self._model, condition.moves):
            logits = self._tree.extend(pad_rows(last)).repeat_interleave(completions, 1)
            parents = torch.arange(len(steps)).repeat_interleave(completions) + self._read
            while True:
                drawn.append(_sample_token(logits, condition.temperature, chance))
                if len(drawn) == tokens:
                    break
                nodes = Nodes(drawn[-1], parents.expand_as(drawn[-1]))
                parents = torch.arange(len(parents)) + len(self._tree)
                logits = self._tree.extend(nodes)
        self._tree.crop(self._read)
        return torch.stack(drawn, -1).view(len(self.runs), len(steps), completions, -1)


def _stack_offsets(conditions: Sequence[Condition], width: int) -> dict[int, Tensor]:
    """What is added behind each layer, shape (conditions x width, hidden)."""
    moves = [condition.moves for condition in conditions]
    found = dict[int, Tensor]()
    for layer in {layer for move in moves for layer in move}:
        still = torch.zeros_like(next(move[layer] for move in moves if layer in move))
        rows = torch.stack([move.get(layer, still) for move in moves])
        found[layer] = rows.repeat_interleave(width, 0)
    return found


def _sample_token(logits: Tensor, temperature: float, chance: torch.Generator) -> Tensor:
    """One token behind every node, shape (rows, nodes)."""
    if temperature == 0:
        return logits.argmax(-1)
    shares = (logits / temperature).softmax(-1)
    return torch.multinomial(shares.flatten(0, 1), 1, generator=chance).view(shares.shape[:2])


def _cut_at_end(tokens: list[int], end: int) -> list[int]:
    return tokens[: tokens.index(end)] if end in tokens else tokens


def end_token(tokenizer: Any) -> int:
    """The token that ends an answer; -1 where the model has none."""
    return -1 if tokenizer.eos_token_id is None else int(tokenizer.eos_token_id)


def named_action(text: str, actions: Sequence[str]) -> int | None:
    """The action that the first sentence of an answer names; None for none or several."""
    sentence = re.split(r"[.!?\n]", text.strip(), maxsplit=1)[0]
    found = [
        number
        for number, action in enumerate(actions)
        if re.search(rf"(?<!\w){re.escape(action.strip())}(?!\w)", sentence, re.IGNORECASE)
    ]
    return found[0] if len(found) == 1 else None


def count_actions(
    reader: EpisodeReader, drawn: Sequence[Sequence[list[int]]], tokenizer: Any
) -> Tensor:
    """How often answers name each action, shape (steps, actions).

    What names none or several is left out.

    Args:
        reader: That the answers were drawn from.
        drawn: Tokens of the answers of every step.
        tokenizer: Of the model.
    """
    names = [actions for run in reader.runs for actions in run.names]
    width = max(map(len, names))
    return torch.stack(
        [
            _count_named(tokenizer.batch_decode(answers), actions, width)
            for answers, actions in zip(drawn, names, strict=True)
        ]
    )


def _count_named(texts: Sequence[str], actions: Sequence[str], width: int) -> Tensor:
    named = [named_action(text, actions) for text in texts]
    return torch.bincount(
        torch.tensor([one for one in named if one is not None], dtype=torch.long), minlength=width
    )


def divergence(base: Tensor, other: Tensor, counted: Tensor) -> float:
    """Mean of KL(base || other) over tokens, nats.

    Args:
        base: Logits, shape (..., vocabulary).
        other: Likewise.
        counted: Which tokens, bool, shape (...).
    """
    p, q = base.log_softmax(-1), other.log_softmax(-1)
    return float((p.exp() * (p - q)).sum(-1)[counted].mean())
