"""The shipped vector `explore`, on the real model by transformers."""

import math
from pathlib import Path

import pytest
import torch

from probes.artifact import Artifact
from probes.steering import action_entropy, shuffled, tensor_name
from server.artifacts import shipped_artifacts
from server.profiles import Profiles
from tests.engine.support import MODEL
from training.steering_fit import Vector
from training.steering_model import Loaded, load_model
from training.steering_reads import Condition, Reader, tokenised
from training.steering_tasks import BANDITS, bandit_runs

RUNS = bandit_runs(BANDITS["fruits"], 4, runs=3, steps=4, seed=1234)


@pytest.fixture(scope="module")
def loaded(checkpoint: Path) -> Loaded:
    return load_model(checkpoint)


@pytest.fixture(scope="module")
def reader(loaded: Loaded) -> Reader:
    return Reader(loaded.model, [tokenised(loaded.tokenizer, run) for run in RUNS])


@pytest.fixture(scope="module")
def vector() -> Vector:
    artifact = Artifact.load(shipped_artifacts() / MODEL / "explore")
    assert artifact.manifest.steering is not None
    ((layer, norm),) = artifact.manifest.steering.norms.items()
    return Vector(layer, artifact.tensors[tensor_name(layer)].double(), norm)


def strength() -> float:
    """Of the profile, in multiples of the stream's norm."""
    ((steer,),) = [Profiles()["explore"].steering]
    assert steer.strength_relative is not None
    return steer.strength_relative


def test_the_profile_raises_the_entropy_and_chance_does_not(reader: Reader, vector: Vector) -> None:
    """On histories that training never saw."""

    def entropy(one: Vector, times: float) -> float:
        return float(action_entropy(reader.logprobs(Condition(one.move(times)))).entropy.mean())

    plain, moved = entropy(vector, 0.0), entropy(vector, strength())
    others = [
        entropy(vector.along(shuffled(vector.direction, seed)), strength()) for seed in range(5)
    ]
    assert moved > plain + 0.1
    assert moved > max(others) + 0.05
    assert entropy(vector, -strength()) < plain - 0.1


def test_what_the_manifest_claims_is_an_effect() -> None:
    metrics = Artifact.load(shipped_artifacts() / MODEL / "explore").manifest.metrics
    lead = metrics["entropy_steered"] - metrics["shuffled_mean"]
    assert lead > 2 * metrics["shuffled_sd"]
    assert metrics["spearman"] >= 0.95
    assert metrics["mass_steered"] >= 0.8 * metrics["mass_unsteered"]
    assert not math.isnan(torch.tensor(list(metrics.values())).sum())
