"""Effect of vectors and their controls on the entropy over an agent's actions."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from probes.steering import action_entropy
from training.common.metrics import Interval, interval, resample_weights
from training.steering.cache import BatchCache
from training.steering.config import SteeringConfig
from training.steering.fit import (
    TRIALS,
    Candidate,
    Choice,
    Floats,
    StrengthCurve,
    Vector,
    candidates,
    shuffled_trials,
)
from training.steering.reader import Condition, EpisodeReader, TokenizedEpisode
from training.steering.results import ControlResult, Effect, TaskResult

TEMPERATURES = (1.5, 2.0, 3.0)


def steered_logprobs(
    readings: BatchCache,
    name: str,
    texts: Sequence[TokenizedEpisode],
    conditions: Sequence[Condition],
) -> Tensor:
    """Log-probabilities of the actions, shape (conditions, steps, actions)."""

    def read(reader: EpisodeReader, _: int) -> dict[str, Tensor]:
        return {"logprobs": reader.sweep(conditions)}

    return readings.map_batches(name, texts, read)["logprobs"].transpose(0, 1)


def strength_curves(
    job: SteeringConfig,
    readings: BatchCache,
    texts: Sequence[TokenizedEpisode],
    vectors: dict[int, Vector],
) -> dict[int, StrengthCurve]:
    """Of every layer, on the validation runs."""
    conditions = [
        Condition(vector.offsets(strength))
        for vector in vectors.values()
        for strength in job.strengths
    ]
    found = steered_logprobs(readings, "choosing a layer", texts, conditions)
    parts = torch.split(found, len(job.strengths))
    return {
        layer: StrengthCurve.from_logprobs(job.strengths, part)
        for layer, part in zip(vectors, parts, strict=True)
    }


def compare_candidates(
    job: SteeringConfig,
    readings: BatchCache,
    texts: Sequence[TokenizedEpisode],
    vectors: dict[int, Vector],
    curves: dict[int, StrengthCurve],
) -> list[Candidate]:
    """Candidates and shuffled vectors, on the validation episodes."""
    found = candidates(curves, job.valid_share)
    conditions = [
        Condition(trial.offsets(one.choice.strength))
        for one in found
        for trial in shuffled_trials(vectors[one.choice.layer])
    ]
    if not conditions:
        return []
    logprobs = steered_logprobs(readings, "comparing with shuffled vectors", texts, conditions)
    entropy = action_entropy(logprobs).entropy.mean(1).view(len(found), TRIALS)
    return [
        one._replace(shuffled=tuple(mine))
        for one, mine in zip(found, entropy.tolist(), strict=True)
    ]


def measure_vector(
    readings: BatchCache,
    task: str,
    texts: Sequence[TokenizedEpisode],
    vector: Vector,
    choice: Choice,
    controls: dict[str, list[Vector]],
    strengths: Sequence[float],
    labels: Sequence[str],
    seed: int = 0,
) -> TaskResult:
    """Effect of the chosen vector and its controls on test episodes.

    Args:
        readings: Of the run.
        task: Name of the test.
        texts: Its episodes.
        vector: What was chosen.
        choice: Its layer and strength.
        controls: Groups of vectors, used at the same strength.
        strengths: The vector's, ascending, with both signs of the chosen one and 0.
        labels: What the episodes are grouped by on the page; empty for none.
        seed: Of the resamples.
    """
    others = [control.offsets(choice.strength) for group in controls.values() for control in group]
    conditions = [
        *(Condition(vector.offsets(strength)) for strength in strengths),
        *(Condition(move) for move in others),
        *(Condition(temperature=temperature) for temperature in TEMPERATURES),
    ]
    found = steered_logprobs(readings, f"testing {Path(task).name}", texts, conditions)
    curve = StrengthCurve.from_logprobs(strengths, found[: len(strengths)])
    rest = action_entropy(found[len(strengths) :])
    entropy, action_probability_mass = (
        rest.entropy.mean(1).tolist(),
        rest.action_probability_mass.mean(1).tolist(),
    )
    groups, spans, at = dict[str, ControlResult](), dict[str, slice](), 0
    for name, group in controls.items():
        spans[name] = slice(at, at + len(group))
        mine = entropy[spans[name]], action_probability_mass[spans[name]]
        groups[name], at = ControlResult(*map(tuple, mine)), at + len(group)
    warm = {
        one: (entropy[at + i], action_probability_mass[at + i])
        for i, one in enumerate(TEMPERATURES)
    }
    by_episode = _by_episode(action_entropy(found).entropy, texts)
    places = [strengths.index(one) for one in (choice.strength, 0.0, -choice.strength)]
    steered, plain, negated = by_episode[places]
    means = {
        name: by_episode[len(strengths) :][spans[name]].mean(0) for name in ("shuffled", "Gaussian")
    }
    weights = resample_weights(len(texts), seed)

    def gain(over: Floats, of: Floats = steered) -> Interval:
        return interval(float((of - over).mean()), weights @ (of - over))

    effect = Effect(
        change=gain(plain),
        negated=gain(plain, negated),
        above_shuffled=gain(means["shuffled"]),
        above_gaussian=gain(means["Gaussian"]),
    )
    most = max(len(run.actions[0]) for run in texts)
    by_label = _by_label(labels, np.stack([plain, steered, means["shuffled"]]))
    return TaskResult(len(found[0]), len(texts), most, curve, groups, warm, effect, by_label)


def _by_episode(entropy: Tensor, texts: Sequence[TokenizedEpisode]) -> Floats:
    """Mean over the steps of every episode, shape (conditions, episodes)."""
    parts = torch.split(entropy.double(), [len(run.prompts) for run in texts], 1)
    return np.stack([part.mean(1).numpy() for part in parts], 1)


def _by_label(labels: Sequence[str], figures: Floats) -> dict[str, tuple[float, float, float]]:
    """Unsteered, steered and shuffled entropy, mean over the episodes of every label."""
    found = dict[str, tuple[float, float, float]]()
    for label in dict.fromkeys(labels):
        plain, steered, shuffled = figures[:, np.array(labels) == label].mean(1).tolist()
        found[label] = plain, steered, shuffled
    return {} if set(found) <= {""} else found
