"""Effect of steering on text: drift on neutral prompts, and sample answers."""

from collections.abc import Sequence
from typing import Any

import torch
from pydantic import BaseModel
from torch import Tensor

from probes.steering import sampled_entropy
from training.common.files import read_record, write_text
from training.common.prompts import load_prompts
from training.steering.cache import BatchCache
from training.steering.fit import Choice, Vector
from training.steering.reader import (
    PLAIN,
    Condition,
    EpisodeReader,
    TokenizedEpisode,
    count_actions,
    divergence,
    end_token,
    tokenize_episode,
)
from training.steering.tasks import AgentStep, Episode, neutral_step

_PROMPTS, _TOKENS = 16, 24
_SAID, _SAID_TOKENS = 2, 40
DRAWN_RUNS = 1
"""Held-out runs at whose steps completions are drawn."""


class SampledActions(BaseModel):
    """Completions at held-out steps."""

    entropy: float | None
    """Of the actions they name, plug-in estimate, nats, mean over steps; None if none does."""
    valid: float
    """Share that names exactly one."""


class SteeredGenerations(BaseModel):
    """By strength, in multiples of the stream's norm."""

    divergence: dict[float, float]
    """Mean KL from the unsteered model's next token, on its answers to neutral prompts, nats."""
    prompts: list[str]
    completions: dict[float, list[str]]
    """Greedy answers to the prompts."""
    sampled: dict[float, SampledActions]


def generate_steered(
    readings: BatchCache,
    tokenizer: Any,
    runs: Sequence[Episode],
    vector: Vector,
    choice: Choice,
    strengths: Sequence[float],
    *,
    completions: int,
    tokens: int,
    seed: int,
) -> SteeredGenerations:
    """Generate at several strengths, or read the generations that the run folder already has.

    Args:
        readings: Of the run folder.
        tokenizer: Of the model.
        runs: Held-out ones.
        vector: The chosen one.
        choice: Where and how strongly.
        strengths: At which the drift is measured.
        completions: To draw at each step.
        tokens: Longest of them.
        seed: Of the draws.
    """
    file = readings.folder / "generations.json"
    if file.is_file():
        return read_record(file, SteeredGenerations)
    neutral = [neutral_step(prompt) for prompt in load_prompts(None)[:_PROMPTS]]
    asked = [*neutral[:_SAID], runs[0][-1], runs[0][-1].model_copy(update={"answer_prefix": ""})]
    shown = (-choice.strength, 0.0, choice.strength / 2, choice.strength, 2 * choice.strength)
    moves = {strength: vector.offsets(strength) for strength in shown}
    with readings.show_status("generating steered completions"):
        texts = [tokenize_episode(tokenizer, [step]) for step in neutral]
        generations = SteeredGenerations(
            divergence=_drift(readings.model, texts, vector, strengths, end_token(tokenizer)),
            prompts=[step.messages[-1]["content"] for step in asked],
            completions=_greedy_completions(readings.model, tokenizer, asked, moves),
            sampled={
                strength: _draw(
                    readings.model,
                    tokenizer,
                    runs[:DRAWN_RUNS],
                    move,
                    completions,
                    tokens,
                    _generator(seed),
                )
                for strength, move in moves.items()
            },
        )
    write_text(file, generations.model_dump_json(indent=2))
    return generations


def _greedy_completions(
    model: Any, tokenizer: Any, steps: Sequence[AgentStep], moves: dict[float, dict[int, Tensor]]
) -> dict[float, list[str]]:
    """Greedy completions of every step at every strength."""
    reader = EpisodeReader(model, [tokenize_episode(tokenizer, [step]) for step in steps])
    found = dict[float, list[str]]()
    for strength, move in moves.items():
        greedy = Condition(move, temperature=0.0)
        drawn = reader.sample(greedy, 1, _SAID_TOKENS, _generator(0), end_token(tokenizer))
        texts = [tokenizer.decode(tokens) for (tokens,) in drawn]
        found[strength] = [
            step.answer_prefix + text for step, text in zip(steps, texts, strict=True)
        ]
    return found


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _drift(
    model: Any,
    texts: Sequence[TokenizedEpisode],
    vector: Vector,
    strengths: Sequence[float],
    end: int,
) -> dict[float, float]:
    """KL along the greedy answers of the unsteered model."""
    likeliest = Condition(temperature=0.0)
    drawn = EpisodeReader(model, texts).sample(likeliest, 1, _TOKENS, _generator(0), end)
    answered = [
        TokenizedEpisode(text.prompts, [[[*answer, 0]]])  # an action's last token is never read
        for text, (answer,) in zip(texts, drawn, strict=True)
    ]
    reader = EpisodeReader(model, answered)
    # Behind the last prompt token and every token of the answer; rows are filled up on the right.
    lengths = torch.tensor([len(text.actions[0][0]) for text in answered])
    base = reader.logits(PLAIN)
    counted = torch.arange(base.shape[1]) < lengths.unsqueeze(1)
    return {
        strength: divergence(base, reader.logits(Condition(vector.offsets(strength))), counted)
        for strength in strengths
    }


def _draw(
    model: Any,
    tokenizer: Any,
    runs: Sequence[Episode],
    move: dict[int, Tensor],
    completions: int,
    tokens: int,
    chance: torch.Generator,
) -> SampledActions:
    reader = EpisodeReader(model, [tokenize_episode(tokenizer, run) for run in runs])
    drawn = reader.sample(Condition(move), completions, tokens, chance, end_token(tokenizer))
    counts = count_actions(reader, drawn, tokenizer)
    entropy = sampled_entropy(counts)
    valid = float(counts.sum()) / (len(counts) * completions)
    known = entropy[entropy.isfinite()]
    return SampledActions(entropy=float(known.mean()) if len(known) else None, valid=valid)
