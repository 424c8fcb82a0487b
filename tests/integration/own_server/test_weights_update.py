"""After an update of the weights at run time, artifacts of the old weights are refused."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from safetensors.torch import save

from probes.artifact import Artifact
from server.artifacts import STALE, shipped_artifacts
from tests.conftest import FLAGS, MODEL, ONE_PROCESS, UNCOMPILED, Server, entrostat, run_server

FOREIGN = "foreign"


def save_foreign(root: Path) -> None:
    """Artifacts that nothing of ours wrote."""
    shipped = Artifact.load(shipped_artifacts() / MODEL / "explore")
    manifest = json.loads(shipped.manifest.model_dump_json())
    (tensor,) = shipped.tensors.values()
    for name, layer in (("layer", "999"), ("half", "1.5"), ("nulls", "23")):
        folder = root / FOREIGN / name
        folder.mkdir(parents=True)
        spec = {**manifest["steering"], "norms": {layer: 1.0}}
        own = {**manifest, "steering": spec, "tensors_hash": None}
        if name == "nulls":
            own["identity"] = dict.fromkeys(manifest["identity"])
        (folder / "manifest.json").write_text(json.dumps(own))
        (folder / "weights.safetensors").write_bytes(save({f"layer_{layer}": tensor}))
    (root / FOREIGN / "damaged").mkdir()
    (root / FOREIGN / "damaged" / "manifest.json").write_bytes(b"\xff{")


@pytest.fixture(scope="module")
def updatable(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("update")
    save_foreign(folder / "artifacts")
    command = entrostat("serve", *FLAGS, "--artifacts", str(folder / "artifacts"))
    env = {"VLLM_SERVER_DEV_MODE": "1", **ONE_PROCESS, **UNCOMPILED}
    with run_server(command, folder / "server.log", env=env) as running:
        yield running


def cards(server: Server) -> dict[str, dict[str, Any]]:
    listed = httpx.get(f"{server.url}/v1/entropy/artifacts").json()["data"]
    return {card["id"]: card for card in listed}


def ask(server: Server, entropy: dict[str, Any] | None) -> httpx.Response:
    body: dict[str, Any] = {
        "model": MODEL,
        "messages": [{"role": "user", "content": "Hi"}],
        "max_tokens": 3,
    }
    if entropy is not None:
        body["entropy"] = entropy
    return httpx.post(f"{server.url}/v1/chat/completions", json=body, timeout=120)


CONTROLS: list[dict[str, Any]] = [
    {"temperature": {"type": "hapo"}},
    {"difficulty": {}},
    {"steering": [{"vector": f"{MODEL}/explore", "strength_relative": 0.1}]},
]


def test_an_update_of_the_weights_makes_artifacts_stale(updatable: Server) -> None:
    before = cards(updatable)
    assert {name: card["usable"] for name, card in before.items()} == {
        **{f"{MODEL}/{one}": True for one in ("animals", "difficulty", "entropy", "explore")},
        f"{MODEL}/triage": True,
        **{f"{FOREIGN}/{one}": False for one in ("damaged", "half", "layer", "nulls")},
    }
    for control in CONTROLS:
        answer = ask(updatable, control)
        assert answer.json()["choices"][0]["entropy"]["fallback"] is None
    call = {"method": "reload_weights"}
    updated = httpx.post(f"{updatable.url}/collective_rpc", json=call, timeout=240)
    assert updated.status_code == 200, updated.text
    after = cards(updatable)
    assert {card["reason"] for name, card in after.items() if before[name]["usable"]} == {STALE}
    assert not any(card["usable"] for card in after.values())
    for control in CONTROLS:
        answer = ask(updatable, control)
        assert answer.status_code == 400
        assert "weights of the model were updated" in answer.json()["error"]["message"]
    assert ask(updatable, {"temperature": {"type": "dynatemp"}}).status_code == 200
    assert ask(updatable, None).status_code == 200
    assert httpx.get(f"{updatable.url}/ready", timeout=60).json()["ready"]
    metrics = httpx.get(f"{updatable.url}/metrics").text
    (line,) = (one for one in metrics.splitlines() if one.startswith("entrostat_weight_updates "))
    assert float(line.split()[1]) >= 1
    assert 'entrostat_worker_failures{cause="control"} 0.0' in metrics
