"""Artifacts are added, replaced and removed while the server starts and while it answers."""

import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

from probes.artifact import Artifact, Manifest, ModelIdentity
from probes.steering import SteeringSpec, tensor_name
from tests.conftest import FLAGS, MODEL, UNCOMPILED, Server, entrostat, run_server
from tests.integration.support import PROMPTS, together


def save(root: Path, checkpoint: Path, name: str, seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    manifest = Manifest(
        kind="steering-vector",
        model=MODEL,
        identity=ModelIdentity.from_checkpoint(checkpoint),
        data_hash="none",
        seed=seed,
        steering=SteeringSpec(features=576, norms={20: 20.0}),
    )
    tensors = {tensor_name(20): torch.randn(576, generator=draw)}
    Artifact(id=f"{MODEL}/{name}", manifest=manifest, tensors=tensors).save(root)


@contextmanager
def changing(root: Path, checkpoint: Path) -> Iterator[None]:
    """Add, replace and remove vectors until the block ends."""
    stop = threading.Event()

    def change() -> None:
        for step in count(1):
            save(root, checkpoint, f"added-{step % 50}", seed=step)
            save(root, checkpoint, "replaced", seed=step)
            if step % 2:
                save(root, checkpoint, "flickers", seed=1)
            else:
                shutil.rmtree(root / MODEL / "flickers", ignore_errors=True)
            if stop.wait(0.1):
                return

    thread = threading.Thread(target=change)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("changing")


@pytest.fixture(scope="module")
def changing_server(folder: Path, checkpoint: Path) -> Iterator[Server]:
    save(folder / "artifacts", checkpoint, "kept", seed=0)
    command = entrostat("serve", *FLAGS, "--artifacts", str(folder / "artifacts"))
    with changing(folder / "artifacts", checkpoint):
        started = run_server(command, folder / "server.log", env=UNCOMPILED)
        running = started.__enter__()
    try:
        yield running
    finally:
        started.__exit__(None, None, None)


def cards(server: Server) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = httpx.get(f"{server.url}/v1/entropy/artifacts").json()["data"]
    return [card for card in found if card["kind"] in ("steering-vector", "unknown")]


def steer(server: Server, name: str, number: int = 0) -> httpx.Response:
    body = {
        "model": MODEL,
        "messages": [{"role": "user", "content": PROMPTS[number % 10]}],
        "max_tokens": 6,
        "entropy": {"steering": [{"vector": name, "strength": 1.0}]},
    }
    return httpx.post(f"{server.url}/v1/chat/completions", json=body, timeout=120)


def test_what_is_offered_steers_and_what_is_not_is_refused_by_name(changing_server: Server) -> None:
    found = cards(changing_server)
    assert any(card["usable"] and card["id"] == f"{MODEL}/kept" for card in found)
    for card in found:
        answer = steer(changing_server, card["id"])
        assert answer.status_code == (200 if card["usable"] else 400), card
        if card["usable"]:
            assert answer.json()["choices"][0]["entropy"]["fallback"] is None
        else:
            assert card["reason"] in answer.json()["error"]["message"]
    assert httpx.get(f"{changing_server.url}/ready", timeout=60).json()["ready"]


def test_changes_under_load_change_no_answer(
    changing_server: Server, folder: Path, checkpoint: Path
) -> None:
    """A running server keeps what it has read."""
    usable = [card["id"] for card in cards(changing_server) if card["usable"]]
    with changing(folder / "artifacts", checkpoint):
        jobs = [lambda n=n: steer(changing_server, usable[n % len(usable)], n) for n in range(48)]
        answers = together(jobs, workers=24)
    assert {answer.status_code for answer in answers} == {200}
    fallbacks = [answer.json()["choices"][0]["entropy"]["fallback"] for answer in answers]
    assert set(fallbacks) == {None}
    assert httpx.get(f"{changing_server.url}/ready", timeout=60).json()["ready"]
