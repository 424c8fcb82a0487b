"""What the tests of the server share: artifacts on disk and traces as frames."""

from pathlib import Path

import numpy as np
import torch

from probes.artifact import Artifact, Manifest, ModelIdentity
from probes.temperature import HapoStatistics
from server.artifacts import Artifacts
from server.trace import TOKEN, write_frame

SERVED = ModelIdentity(
    config_hash="c", weights_hash="w", tokenizer_hash="t", chat_template_hash="j"
)
HIDDEN_SIZE = 8
STATISTICS = HapoStatistics(-0.5, 1.25, 0.5, -0.25)


def save_statistics(
    root: Path, name: str, statistics: HapoStatistics = STATISTICS, **identity: str
) -> Path:
    """Entropy statistics on disk, made for the served model unless `identity` says otherwise."""
    manifest = Manifest(
        kind="entropy-statistics",
        model=name.split("/")[0],
        identity=SERVED.model_copy(update=identity),
        data_hash="d",
        seed=0,
    )
    tensors = {"hapo": torch.tensor(statistics, dtype=torch.float64)}
    return Artifact(id=name, manifest=manifest, tensors=tensors).save(root)


def artifacts(*roots: Path) -> Artifacts:
    """What a server of the tests' model would use of these folders."""
    return Artifacts(list(roots), SERVED, HIDDEN_SIZE)


def frame(*records: tuple[int, int, int, float, float]) -> bytes:
    """Records (trace, choice, index, entropy, temperature) as the worker sends them."""
    return write_frame(np.array(list(records), dtype=TOKEN))
