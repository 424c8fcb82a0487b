"""What a running worker takes of an uploaded artifact, and what it refuses without harm."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from probes.artifact import FILES
from server.artifacts import STALE
from server.engine.difficulty import DifficultySlots
from server.engine.states import StateSlots
from server.engine.uploads import MAX_HELD, load_uploaded
from tests.selective_artifacts import save_state, state_reader
from tests.unit.server.admin.test_uploads import vector
from tests.unit.server.support import HIDDEN_SIZE, SERVED, artifacts, save_probe, save_statistics

CPU = torch.device("cpu")
HOOKED = [1]


class Steered:
    """The vectors of the steering tables."""

    def __init__(self) -> None:
        self.vectors: dict[str, Any] = {}

    def add_vector(self, name: str, layers: Any) -> None:
        self.vectors[name] = layers


@pytest.fixture
def processor() -> Any:
    controller = SimpleNamespace(
        artifacts={},
        difficulty=DifficultySlots(2, CPU, {}),
        readers=[StateSlots(2, CPU, {})],
        steering=Steered(),
        weight_updates=0,
    )
    return SimpleNamespace(controller=controller, examine=artifacts().examine, uploaded=set())


def load(processor: Any, folder: Path) -> Any:
    return load_uploaded(processor, str(folder), HOOKED)


def difficulty(name: str) -> Any:
    table = {"temperatures": (1.0,) * 3, "budgets": (0,) * 3, "stop": 2}
    return {"difficulty": {"probe": name, "trace": 1, "price": -1.0, **table}}


def test_a_probe_serves_the_next_request(processor: Any, tmp_path: Path) -> None:
    slots = processor.controller.difficulty
    with pytest.raises(LookupError):
        slots.add(0, difficulty("m/probe"))
    found = load(processor, save_probe(tmp_path, "m/probe"))
    assert found["reason"] is None
    assert processor.controller.artifacts == {"m/probe": found}
    slots.add(0, difficulty("m/probe"))
    assert slots.is_active(np.array([0]))


def test_a_probe_that_reads_the_state_serves_the_next_request(
    processor: Any, tmp_path: Path
) -> None:
    folder = save_state(tmp_path, "m/state", SERVED, state_reader(HIDDEN_SIZE, 2))
    assert load(processor, folder)["reason"] is None
    (slots,) = processor.controller.readers
    slots.add(1, {"state": "m/state"})
    assert slots.is_active(np.array([1]))


def test_a_vector_of_hooked_layers_is_taken_and_no_other(processor: Any, tmp_path: Path) -> None:
    folder = vector(tmp_path)
    for steered in ([0, 2], None):
        found: Any = load_uploaded(processor, str(folder), steered)
        assert found["reason"].startswith("layer 1 was not hooked at the start")
    assert load(processor, folder) == {**load(processor, folder), "layers": [1], "reason": None}
    assert list(processor.controller.steering.vectors) == ["m/push"]
    assert processor.uploaded == {"m/push"}


def test_a_name_keeps_its_contents(processor: Any, tmp_path: Path) -> None:
    first = load(processor, vector(tmp_path / "one", seed=1))
    other = load(processor, vector(tmp_path / "two", seed=2))
    assert other["reason"].startswith("the engine has other contents of this name")
    assert processor.controller.artifacts["m/push"] == first


@pytest.mark.parametrize("missing", ["difficulty", "steering", "readers"])
def test_what_the_start_did_not_prepare_is_refused(
    processor: Any, tmp_path: Path, missing: str
) -> None:
    setattr(processor.controller, missing, [] if missing == "readers" else None)
    folder = {
        "difficulty": lambda: save_probe(tmp_path, "m/x"),
        "steering": lambda: vector(tmp_path, name="m/x"),
        "readers": lambda: save_state(tmp_path, "m/x", SERVED, state_reader(HIDDEN_SIZE, 2)),
    }[missing]()
    assert load(processor, folder)["reason"].endswith(
        "put it into the folder of --artifacts and restart"
    )
    assert processor.controller.artifacts == {}


def test_nothing_that_is_wrong_with_it_reaches_the_engine(processor: Any, tmp_path: Path) -> None:
    folder = save_probe(tmp_path, "m/probe")
    (folder / FILES[1]).write_bytes(b"damaged")
    assert "damaged" in load(processor, folder)["reason"]
    assert "missing" in load(processor, tmp_path / "m" / "nowhere")["reason"]
    assert load(processor, save_statistics(tmp_path, "m/hapo"))["reason"]
    assert load_uploaded(None, str(folder), None) is None
    processor.controller.weight_updates = 1
    assert load(processor, save_probe(tmp_path, "m/late"))["reason"] == STALE
    processor.controller.weight_updates = 0
    del processor.controller.difficulty
    assert load(processor, save_probe(tmp_path, "m/late"))["reason"].startswith("AttributeError")
    processor.uploaded = {str(number) for number in range(MAX_HELD)}
    assert load(processor, vector(tmp_path))["reason"].startswith(f"the engine took {MAX_HELD}")
    assert processor.controller.artifacts == {}
