"""Helpers of the server tests: artifacts on disk and telemetry frames."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from probes.artifact import Artifact, Manifest, ModelIdentity
from probes.difficulty.probe import Head
from probes.difficulty.strategies import Outcomes, ProbeSpec, Strategies
from probes.inquiry.artifact import InquirySpec
from probes.inquiry.task import Task
from probes.inquiry.words import Predictor
from probes.laws import HapoStatistics
from probes.steering import SteeringSpec, tensor_name
from server.artifacts import Artifacts
from server.served_model import ModelFacts
from server.worker.records import TOKEN, write_frame

SERVED = ModelIdentity(
    config_hash="c", weights_hash="w", tokenizer_hash="t", chat_template_hash="j"
)
HIDDEN_SIZE = 8
STATISTICS = HapoStatistics(-0.5, 1.25, 0.5, -0.25)


def save_statistics(
    root: Path, name: str, statistics: HapoStatistics = STATISTICS, **identity: str
) -> Path:
    """Save entropy statistics for the served model, or for another `identity`."""
    manifest = Manifest(
        kind="entropy-statistics",
        model=name.split("/")[0],
        identity=SERVED.model_copy(update=identity),
        data_hash="d",
        seed=0,
    )
    tensors = {"hapo": torch.tensor(statistics, dtype=torch.float64)}
    return Artifact(id=name, manifest=manifest, tensors=tensors).save(root)


def save_probe(root: Path, name: str, spec: Mapping[str, Any] = {}, **identity: str) -> Path:
    """Save a difficulty probe for the served model, with the given fields replaced."""
    fitting = ProbeSpec(
        layer="final",
        normalized=True,
        position="last_prompt_token",
        features=HIDDEN_SIZE,
        labels=Outcomes(),
        strategies=Strategies(),
    )
    manifest = Manifest(
        kind="difficulty-probe",
        model=name.split("/")[0],
        identity=SERVED.model_copy(update=identity),
        data_hash="d",
        seed=0,
        probe=fitting.model_copy(update=spec),
    )
    head = Head(
        mean=torch.zeros(HIDDEN_SIZE),
        scale=torch.ones(HIDDEN_SIZE),
        weight=torch.zeros(3, HIDDEN_SIZE),
        bias=torch.zeros(3),
        temperature=torch.tensor(1.0),
    )
    if spec.get("router") is not None:
        head = head._replace(
            router_weight=torch.zeros(6, HIDDEN_SIZE),
            router_bias=torch.ones(6),
            router_kept=torch.ones(3),
        )
    return Artifact(id=name, manifest=manifest, tensors=head.tensors()).save(root)


def save_vector(
    root: Path, name: str, layers: tuple[int, ...] = (1, 2), seed: int = 0, scale: float = 1.0
) -> Path:
    """Save a steering vector for the served model."""
    draw = torch.Generator().manual_seed(seed)
    manifest = Manifest(
        kind="steering-vector",
        model="m",
        identity=SERVED,
        data_hash="d",
        seed=seed,
        steering=SteeringSpec(features=HIDDEN_SIZE, norms=dict.fromkeys(layers, 8.0)),
    )
    tensors = {
        tensor_name(layer): scale * torch.randn(HIDDEN_SIZE, generator=draw) for layer in layers
    }
    return Artifact(id=name, manifest=manifest, tensors=tensors).save(root)


def save_inquiry(
    root: Path, name: str = "m/pets", num_samples: int = 99, *, direct: bool = False
) -> Path:
    """Save a task of three pets and three questions with unambiguous statements."""
    task = Task.model_validate(
        {
            "name": "pets",
            "subject": "pet",
            "labels": [{"name": one, "phrase": f"A {one}"} for one in ("cat", "dog", "fish")],
            "queries": [
                {"question": "Does it bark?", "property": "barks.", "yes": ["dog"]},
                {"question": "Can it swim?", "property": "swims.", "yes": ["dog", "fish"]},
                {"question": "Is it nice?", "property": "is nice.", "yes": ["cat", "dog", "fish"]},
            ],
        }
    )
    predictors: tuple[Predictor, ...] = ("likelihood", "direct") if direct else ("likelihood",)
    scores = torch.linspace(-1.0, -0.2, num_samples).repeat(3, 1)
    manifest = Manifest(
        kind="inquiry-calibration",
        model=name.split("/")[0],
        identity=SERVED,
        data_hash="d",
        seed=0,
        inquiry=InquirySpec(task=task, predictors=predictors, score="lac", fitted=("cat",)),
    )
    tensors = {
        "table": torch.tensor([[-9.0, -9.0, -5.0], [-3.0, -3.0, -5.0], [-9.0, -3.0, -5.0]]),
        "slope": torch.ones(3),
        "bias": torch.tensor([0.0, 0.0, 3.0]),
        "pooled": torch.tensor([1.0, 0.0]),
    } | {f"scores.{predictor}": scores.clone() for predictor in predictors}
    return Artifact(id=name, manifest=manifest, tensors=tensors).save(root)


def artifacts(*roots: Path) -> Artifacts:
    """Load the artifacts of these folders for the model of the tests."""
    return Artifacts(list(roots), SERVED, ModelFacts(HIDDEN_SIZE))


async def nothing_uploaded() -> None:
    """`ServerState.sync_artifacts` where the operator uploaded nothing."""


def frame(*records: tuple[int, int, int, float, float]) -> bytes:
    """Pack records (trace, choice, index, entropy, temperature) like the worker.

    The entropy that is sampled from is half the entropy; a token's log-probability is minus the
    entropy, the varentropy twice it.
    """
    rows = [
        (*record, record[3] / 2, -record[3], 2 * record[3], 3 * record[3], 0.5)
        for record in records
    ]
    return write_frame(np.array(rows, dtype=TOKEN))
