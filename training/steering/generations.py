"""What steering does to a model's words: drift on neutral text, and answers to read."""

from collections.abc import Sequence
from typing import Any

import torch
from pydantic import BaseModel
from torch import Tensor

from probes.steering import sampled_entropy
from training.common.prompts import load_prompts
from training.steering.cache import Readings
from training.steering.fit import Choice, Vector
from training.steering.reader import (
    PLAIN,
    Condition,
    Reader,
    Texts,
    count_actions,
    divergence,
    end_token,
    tokenised,
)
from training.steering.tasks import Run, neutral_step

_PROMPTS, _TOKENS = 16, 24
_SAID, _SAID_TOKENS = 2, 40
DRAWN_RUNS = 1
"""Held-out runs at whose steps completions are drawn."""


class Drawn(BaseModel):
    """Completions drawn behind held-out steps."""

    entropy: float | None
    """Of the actions they name, plug-in estimate, nats, mean over steps; None if none does."""
    valid: float
    """Share that names exactly one."""


class Speech(BaseModel):
    """By strength, in multiples of the stream's norm."""

    divergence: dict[float, float]
    """Mean KL from the unsteered model's next token, on its answers to neutral prompts, nats."""
    prompts: list[str]
    said: dict[float, list[str]]
    """Likeliest answers to the prompts."""
    drawn: dict[float, Drawn]


def speak(
    readings: Readings,
    tokenizer: Any,
    runs: Sequence[Run],
    vector: Vector,
    choice: Choice,
    strengths: Sequence[float],
    *,
    completions: int,
    tokens: int,
    seed: int,
) -> Speech:
    """Listen to the model at several strengths, or read what was heard before a kill.

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
    file = readings.folder / "speech.json"
    if file.is_file():
        return Speech.model_validate_json(file.read_bytes())
    heard = (-choice.strength, 0.0, choice.strength / 2, choice.strength, 2 * choice.strength)
    ends = end_token(tokenizer)

    neutral = [neutral_step(prompt) for prompt in load_prompts(None)[:_PROMPTS]]
    texts = [tokenised(tokenizer, [step]) for step in neutral]
    with readings.status("listening"):
        drift = _drift(readings.model, texts, vector, strengths, ends)
        asked = [*neutral[:_SAID], runs[0][-1], runs[0][-1].model_copy(update={"begin": ""})]
        reader = Reader(readings.model, [tokenised(tokenizer, [step]) for step in asked])
        said = {
            strength: [
                step.begin + tokenizer.decode(drawn[0])
                for step, drawn in zip(
                    asked,
                    reader.sample(
                        Condition(vector.move(strength), 0.0), 1, _SAID_TOKENS, _chance(seed), ends
                    ),
                    strict=True,
                )
            ]
            for strength in heard
        }
        drawn = {
            strength: _draw(
                readings.model,
                tokenizer,
                runs[:DRAWN_RUNS],
                vector.move(strength),
                completions,
                tokens,
                _chance(seed),
            )
            for strength in heard
        }
    questions = [step.messages[-1]["content"] for step in asked]
    speech = Speech(divergence=drift, prompts=questions, said=said, drawn=drawn)
    staging = file.with_suffix(".part")
    staging.write_text(speech.model_dump_json(indent=2))
    staging.rename(file)
    return speech


def _chance(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _drift(
    model: Any, texts: Sequence[Texts], vector: Vector, strengths: Sequence[float], end: int
) -> dict[float, float]:
    """Along the answers that the unsteered model holds likeliest."""
    likeliest = Condition(temperature=0.0)
    drawn = Reader(model, texts).sample(likeliest, 1, _TOKENS, _chance(0), end)
    answered = [
        Texts(text.prompts, [[[*answer, 0]]])  # an action's last token is never read
        for text, (answer,) in zip(texts, drawn, strict=True)
    ]
    reader = Reader(model, answered)
    # Behind the last prompt token and every token of the answer; rows are filled up on the right.
    lengths = torch.tensor([len(text.actions[0][0]) for text in answered])
    base = reader.logits(PLAIN)
    counted = torch.arange(base.shape[1]) < lengths.unsqueeze(1)
    return {
        strength: divergence(base, reader.logits(Condition(vector.move(strength))), counted)
        for strength in strengths
    }


def _draw(
    model: Any,
    tokenizer: Any,
    runs: Sequence[Run],
    move: dict[int, Tensor],
    completions: int,
    tokens: int,
    chance: torch.Generator,
) -> Drawn:
    reader = Reader(model, [tokenised(tokenizer, run) for run in runs])
    drawn = reader.sample(Condition(move), completions, tokens, chance, end_token(tokenizer))
    counts = count_actions(reader, drawn, tokenizer)
    entropy = sampled_entropy(counts)
    valid = float(counts.sum()) / (len(counts) * completions)
    known = entropy[entropy.isfinite()]
    return Drawn(entropy=float(known.mean()) if len(known) else None, valid=valid)
