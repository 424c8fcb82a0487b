"""What the operator changes in the running server acts on the next request."""

import json
from pathlib import Path

import httpx
import pytest
from openai import BadRequestError, OpenAI

from probes.artifact import Artifact, ModelIdentity
from probes.steering import tensor_name
from tests.conftest import ADMIN_KEY, PUSH, Server
from tests.integration.support import MODEL, ask, report
from tests.selective_artifacts import HIDDEN_SIZE, save_abstention, save_state, state_reader
from tests.tars import packed
from tests.waiting import wait_until


def change(server: Server, method: str, path: str, body: object = None) -> None:
    headers = {"X-Entropy-Admin-Key": ADMIN_KEY}
    url = f"{server.url}/v1/entropy/admin/{path}"
    answer = httpx.request(method, url, json=body, headers=headers, timeout=30)
    assert answer.status_code == 200, answer.text


def upload(server: Server, name: str, folder: Path) -> httpx.Response:
    headers = {"X-Entropy-Admin-Key": ADMIN_KEY}
    url = f"{server.url}/v1/entropy/admin/artifacts/{name}"
    return httpx.put(url, content=packed(folder), headers=headers, timeout=120)


def test_a_control_that_is_switched_off_is_skipped_and_named(
    server: Server, client: OpenAI
) -> None:
    steering = {"steering": [{"vector": PUSH, "strength": 0.2}]}
    change(server, "PUT", "switches/steering", {"on": False})
    try:
        off = report(ask(client, "hi", steering, max_tokens=2))
    finally:
        change(server, "PUT", "switches/steering", {"on": True})
    on = report(ask(client, "hi", steering, max_tokens=2))
    assert (off["fallback"], off["steering"]) == ("steering_skipped", None)
    assert (on["fallback"], on["steering"][0]["vector"]) == (None, PUSH)


def test_an_uploaded_profile_serves_until_it_is_removed(server: Server, client: OpenAI) -> None:
    change(server, "PUT", "profiles/fresh", {"temperature": {"type": "edt"}})
    try:
        names = {model.id for model in client.models.list()}
        answer = ask(client, "hi", None, model=f"{MODEL}@fresh", max_tokens=2, temperature=1.0)
    finally:
        change(server, "DELETE", "profiles/fresh")
    assert f"{MODEL}@fresh" in names
    assert (report(answer)["profile"], report(answer)["law"]) == ("fresh", "edt")
    with pytest.raises(BadRequestError):
        ask(client, "hi", {"profile": "fresh"}, max_tokens=2)

    def actions() -> list[str]:
        lines = map(json.loads, server.decisions.read_text().splitlines())
        return [one["action"] for one in lines if one.get("subject") == "fresh"]

    wait_until(lambda: actions() == ["profile_uploaded", "profile_removed"])


def vector(server: Server, root: Path, name: str, layer: int) -> Path:
    """A copy of a vector of the server, of one layer."""
    shared = Artifact.load(server.log.parent / "artifacts" / PUSH)
    norms = shared.manifest.steering
    assert norms is not None
    spec = norms.model_copy(update={"norms": {layer: 20.0}})
    manifest = shared.manifest.model_copy(update={"steering": spec})
    tensors = {tensor_name(layer): shared.tensors[tensor_name(20)]}
    return Artifact(id=name, manifest=manifest, tensors=tensors).save(root)


def test_an_uploaded_vector_steers_as_one_that_was_there_at_the_start(
    server: Server, client: OpenAI, tmp_path: Path
) -> None:
    """Both have the same layers and contents; a layer that is not hooked is refused."""
    name = f"{MODEL}/uploaded"
    shared = Artifact.load(server.log.parent / "artifacts" / PUSH)
    folder = Artifact(id=name, manifest=shared.manifest, tensors=shared.tensors).save(tmp_path)

    def entropies(vector: str) -> list[float]:
        steer = {"steering": [{"vector": vector, "strength": 0.3}], "trace": "tokens"}
        tokens = report(ask(client, "hi", steer, max_tokens=6, temperature=0))["tokens"]
        return [one["entropy"] for one in tokens]

    with pytest.raises(BadRequestError, match="unknown artifact"):
        entropies(name)
    answer = upload(server, name, folder)
    assert answer.status_code == 200, answer.text
    assert name in answer.json()["uploaded_artifacts"]
    assert entropies(name) == pytest.approx(entropies(PUSH), abs=1e-3)
    change(server, "DELETE", f"artifacts/{name}")
    with pytest.raises(BadRequestError, match="unknown artifact"):
        entropies(name)
    refused = upload(server, f"{MODEL}/layer5", vector(server, tmp_path, f"{MODEL}/layer5", 5))
    assert refused.status_code == 400
    assert "layer 5 was not hooked at the start" in refused.json()["error"]["message"]
    other = upload(server, name, vector(server, tmp_path, name, 20))
    assert "the engine has other contents of this name" in other.json()["error"]["message"]
    assert httpx.get(f"{server.url}/ready", timeout=60).json()["ready"]


def test_uploaded_probes_and_calibrations_serve_until_they_are_removed(
    server: Server, client: OpenAI, checkpoint: Path, tmp_path: Path
) -> None:
    identity = ModelIdentity.from_checkpoint(checkpoint)
    state, declines = f"{MODEL}/late-state", f"{MODEL}/late-declines"
    reader = state_reader(HIDDEN_SIZE)
    folders = {
        state: save_state(tmp_path, state, identity, reader, predicts="high_entropy"),
        declines: save_abstention(tmp_path, declines, identity, scale=1e-9),
    }
    for name, folder in folders.items():
        answer = upload(server, name, folder)
        assert answer.status_code == 200, answer.text
    found = report(ask(client, "hi", {"confidence": {"probe": state}}, max_tokens=2))
    assert (found["fallback"], found["confidence"]["out_of_distribution"]) == (None, True)
    abstain = {"abstain": {"calibration": declines, "promise": "joint", "alpha": 0.1}}
    assert report(ask(client, "hi", abstain, max_tokens=2))["abstain"]["abstained"]
    for name in folders:
        change(server, "DELETE", f"artifacts/{name}")
    with pytest.raises(BadRequestError, match="unknown artifact"):
        ask(client, "hi", abstain, max_tokens=2)
