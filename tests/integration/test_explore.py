"""The built-in vector `explore` has the same effect on a server as measured in training."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from openai import OpenAI

from probes.artifact import Artifact
from probes.steering import action_entropy, shuffled, tensor_name
from server.artifacts import shipped_artifacts
from server.profiles import Profiles
from tests.integration.support import MODEL, report
from training.steering.fit import Vector
from training.steering.model import LoadedModel, load_model
from training.steering.reader import PLAIN, Condition, EpisodeReader, tokenize_episode
from training.steering.tasks import AgentStep
from training.steering.wordings import BANDITS, bandit_episodes

RUNS = bandit_episodes(BANDITS["fruits"], 4, runs=3, steps=4, seed=1234)


@pytest.fixture(scope="module")
def loaded(checkpoint: Path) -> LoadedModel:
    return load_model(checkpoint)


@pytest.fixture(scope="module")
def reader(loaded: LoadedModel) -> EpisodeReader:
    return EpisodeReader(loaded.model, [tokenize_episode(loaded.tokenizer, run) for run in RUNS])


@pytest.fixture(scope="module")
def vector() -> Vector:
    artifact = Artifact.load(shipped_artifacts() / MODEL / "explore")
    assert artifact.manifest.steering is not None
    ((layer, norm),) = artifact.manifest.steering.norms.items()
    return Vector(layer, artifact.tensors[tensor_name(layer)].double(), norm)


def strength() -> float:
    """Strength in the profile, in multiples of the residual-stream norm."""
    steering = Profiles()["explore"].steering
    assert steering is not None
    (steer,) = steering
    assert steer.strength_relative is not None
    return steer.strength_relative


def test_the_profile_raises_the_entropy_and_a_random_vector_does_not(
    reader: EpisodeReader, vector: Vector
) -> None:
    """On histories that were not in the training data."""

    def entropy(one: Vector, times: float) -> float:
        return float(action_entropy(reader.logprobs(Condition(one.offsets(times)))).entropy.mean())

    plain, moved = entropy(vector, 0.0), entropy(vector, strength())
    others = [
        entropy(vector.with_direction(shuffled(vector.direction, seed)), strength())
        for seed in range(5)
    ]
    assert moved > plain + 0.1
    assert moved > max(others) + 0.05
    assert entropy(vector, -strength()) < plain - 0.1


def test_a_server_assigns_the_actions_the_same_probabilities_as_training(
    client: OpenAI, loaded: LoadedModel, reader: EpisodeReader, vector: Vector
) -> None:
    plain = reader.logprobs(PLAIN)
    moved = reader.logprobs(Condition(vector.offsets(strength())))
    for number, step in enumerate(RUNS[0]):
        words = [f" {action}" for action in step.actions]
        for expected, control in ((plain, None), (moved, {"profile": "explore"})):
            answer = chosen(client, step.messages, step.answer_prefix, control)
            prompt = tokenize_episode(loaded.tokenizer, [step]).prompts[0]
            assert answer.prompt_token_ids == prompt
            content = answer.choices[0].logprobs.content
            reported = {top.token: top.logprob for top in content[0].top_logprobs}
            seen = [place for place, word in enumerate(words) if word in reported]
            assert len(seen) >= 2
            for place in seen:
                assert reported[words[place]] == pytest.approx(
                    float(expected[number, place]), abs=0.02
                )
            if control is not None:
                assert report(answer)["steering"][0]["layers"] == [vector.layer]


def test_a_server_steers_the_residual_stream_that_training_reads(
    client: OpenAI, reader: EpisodeReader, vector: Vector
) -> None:
    """A clamp to the value that training reads changes nothing; any other clamp does."""
    _, states = reader.states([vector.layer])
    direction = vector.direction.float() / vector.direction.float().norm()
    for number, step in enumerate(RUNS[0][:2]):
        along = float(states[number, 0] @ direction)

        def reported(control: dict[str, Any] | None, step: AgentStep = step) -> float:
            answer = chosen(client, step.messages, step.answer_prefix, control)
            return max(
                float(top.logprob) for top in answer.choices[0].logprobs.content[0].top_logprobs
            )

        def held(at: float) -> dict[str, Any]:
            return {"steering": [{"vector": f"{MODEL}/explore", "clamp": [at, at]}]}

        assert reported(held(along)) == pytest.approx(reported(None), abs=5e-3)
        assert abs(reported(held(along + 0.2 * vector.norm)) - reported(None)) > 0.05


def chosen(
    client: OpenAI, messages: Any, answer_prefix: str, control: dict[str, Any] | None
) -> Any:
    """The next token after a partial answer."""
    extra = {} if control is None else {"entropy": control}
    return client.chat.completions.create(
        model=MODEL,
        messages=[*messages, {"role": "assistant", "content": answer_prefix}],
        max_tokens=1,
        logprobs=True,
        top_logprobs=20,
        extra_body={
            "add_generation_prompt": False,
            "continue_final_message": True,
            "return_token_ids": True,
            **extra,
        },
    )


def test_the_manifest_reports_a_significant_effect() -> None:
    metrics = Artifact.load(shipped_artifacts() / MODEL / "explore").manifest.metrics
    lead = metrics["entropy_steered"] - metrics["shuffled_mean"]
    assert lead > 2 * metrics["shuffled_sd"]
    assert metrics["spearman"] >= 0.95
    assert metrics["mass_steered"] >= 0.8 * metrics["mass_unsteered"]
    assert not math.isnan(torch.tensor(list(metrics.values())).sum())
