"""Artifacts of the controls `confidence` and `abstain`, on disk."""

from pathlib import Path
from typing import Any

import torch

from probes.artifact import Artifact, Manifest, ModelIdentity
from probes.selective.abstention import Abstention, AbstentionSpec
from probes.selective.confidence import ConfidenceProbe, ConfidenceSpec
from probes.selective.state import StateReader, StateSpec

CONFIDENCE, DECLINES, ANSWERS, STATE = (
    f"smollm2-135m/{name}"
    for name in ("test-confidence", "test-declines", "test-answers", "test-state")
)
"""Of the shared server: a probe, calibrations that decline nearly all and hardly any, and a probe
that reads the state at the end of the prompt."""
HIDDEN_SIZE = 576
"""Of the model of the shared server."""


def save_selective(root: Path, identity: ModelIdentity) -> None:
    """Save them for a model."""
    folder = save_confidence(root, CONFIDENCE, identity)
    digest = Artifact.load(folder).manifest.fingerprint
    save_state(root, STATE, identity, state_reader(HIDDEN_SIZE), predicts="high_entropy")
    save_abstention(root, DECLINES, identity, scale=1e-9)
    save_abstention(root, ANSWERS, identity, score="probability", probe_hash=digest, shift=0.0)


def save_abstention(
    root: Path,
    name: str,
    identity: ModelIdentity,
    *,
    scale: float = 1.0,
    shift: float = 1.0,
    **spec: Any,
) -> Path:
    """100 answers with uncertainties 0.01 to 1, wrong from 0.51 on; for the mean entropy.

    Args:
        root: Folder of artifacts.
        name: Id.
        identity: Of the model.
        scale: Of the uncertainties.
        shift: 0 makes the uncertainties those of a probability: -0.99 to 0.
        **spec: Fields of the spec.
    """
    rows = [(scale * (k / 100 - (1 - shift)), k > 50) for k in range(1, 101)]
    found = AbstentionSpec(**{"score": "entropy_mean", "rows": len(rows), **spec})
    contents = Abstention(found, [u for u, _ in rows], [w for _, w in rows])
    return _save(root, name, identity, contents.tensors(), kind="abstention", abstention=found)


def save_confidence(root: Path, name: str, identity: ModelIdentity, **spec: Any) -> Path:
    """Probability 1 / (1 + e^(H - 4)), H the mean entropy from 0 to 2."""
    found = ConfidenceSpec(
        **{"features": ("entropy_mean",), "calibrator": "platt", "rows": 9, **spec}
    )
    contents = ConfidenceProbe(found, [4.0], [1.0], [-1.0], [1.0, 0.0], [0.0], [2.0])
    return _save(root, name, identity, contents.tensors(), kind="confidence", confidence=found)


def state_reader(size: int, axes: int = 3) -> StateReader:
    """A reader of states with this many numbers."""
    draw = torch.Generator().manual_seed(0)
    directions = torch.randn(size, axes, generator=draw, dtype=torch.float64)
    parts = (torch.ones(size), torch.full((size,), 2.0), torch.linalg.qr(directions).Q.T)
    rest = (torch.arange(1.0, axes + 1), torch.tensor(0.5), torch.arange(1.0, axes + 1) / 10)
    return StateReader(*(part.double() for part in (*parts, *rest)))


def save_state(
    root: Path, name: str, identity: ModelIdentity, reader: StateReader, **spec: Any
) -> Path:
    """Probability 1 / (1 + e^-s), s the score of the state; out of distribution from .1 on."""
    axes, size = reader.axes.shape
    state = StateSpec(features=size, axes=axes, threshold=0.1, quantile=0.99, questions=9)
    found = ConfidenceSpec(
        **{"features": (), "calibrator": "platt", "rows": 9, "state": state, **spec}
    )
    contents = ConfidenceProbe(found, [], [], [], [1.0, 0.0], [], [], reader)
    return _save(root, name, identity, contents.tensors(), kind="confidence", confidence=found)


def _save(root: Path, name: str, identity: ModelIdentity, tensors: Any, **fields: Any) -> Path:
    manifest = Manifest(
        model=name.split("/")[0], identity=identity, data_hash="d", seed=0, **fields
    )
    return Artifact(id=name, manifest=manifest, tensors=tensors).save(root)
