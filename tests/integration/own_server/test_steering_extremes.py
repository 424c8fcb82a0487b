"""No valid request of one client affects the answers of the others.

The KV cache is small, so that the blocks of a steered answer are soon those of the next request.
"""

from collections.abc import Iterator
from itertools import cycle, islice, product
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

from probes.artifact import Artifact, Manifest, ModelIdentity
from probes.steering import SteeringSpec, tensor_name
from tests.conftest import MODEL, ONE_PROCESS, UNCOMPILED, Server, entrostat, run_server
from tests.integration.support import PROMPTS
from tests.long import is_long

VECTORS = {"unit": (0.04, 300.0), "long": (60.0, 6e4), "largest": (6e4, 1.0), "huge": (1e37, 1.0)}
"""Value of each vector entry, and the residual-stream norm in the manifest."""
AMOUNTS: list[dict[str, Any]] = [
    *({"strength": value} for value in (-1000.0, 1.0)),
    *({"strength_relative": value} for value in (-10.0, 1.0)),
    *({"clamp": band} for band in ([1e6, 1e6], [6e4, 6e4], [-6e4, -6e4])),
]
TOKENS, FIRST = 12, 2
"""Tokens of an answer before and after all extremes, and those that are asked for after each: one
reads the prompt's blocks while they are written, one after it."""
HTTP = httpx.Client(timeout=120)
"""One connection: to make a client takes 40 ms, for a thousand requests."""
STOCK = [f"{prompt} {tail}".strip() for prompt in PROMPTS for tail in ("", "Be exact.")]


def save(root: Path, checkpoint: Path) -> None:
    draw = torch.Generator().manual_seed(2)
    for name, (entry, norm) in VECTORS.items():
        manifest = Manifest(
            kind="steering-vector",
            model=MODEL,
            identity=ModelIdentity.from_checkpoint(checkpoint),
            data_hash="none",
            seed=2,
            steering=SteeringSpec(features=576, norms={4: norm, 20: norm}),
        )
        signs = torch.randn(2, 576, generator=draw).sign() * entry
        tensors = {tensor_name(layer): row for layer, row in zip((4, 20), signs, strict=True)}
        Artifact(id=f"{MODEL}/{name}", manifest=manifest, tensors=tensors).save(root)


@pytest.fixture(scope="module", params=["float16", "bfloat16"])
def small(
    request: Any, tmp_path_factory: pytest.TempPathFactory, checkpoint: Path
) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp(request.param)
    save(folder / "artifacts", checkpoint)
    command = entrostat(
        *("serve", "--dtype", request.param, "--enforce-eager", "--block-size", "32"),
        *("--num-gpu-blocks-override", "5", "--max-model-len", "128", "--max-num-seqs", "4"),
        *("--no-enable-prefix-caching", "--artifacts", str(folder / "artifacts")),
    )
    with run_server(command, folder / "server.log", env=ONE_PROCESS | UNCOMPILED) as running:
        yield running


def complete(server: Server, prompt: str, **more: Any) -> httpx.Response:
    body = {
        "model": MODEL,
        "messages": [{"role": "user", "content": prompt}],
        "temperature": 0,
        "max_tokens": FIRST,
        "return_token_ids": True,
        **more,
    }
    return HTTP.post(f"{server.url}/v1/chat/completions", json=body)


def tokens(server: Server, prompt: str, count: int) -> list[int]:
    """Of an unsteered answer."""
    answer = complete(server, prompt, max_tokens=count).json()
    assert answer["usage"]["prompt_tokens"] > 32, "one prompt must use half of the cache"
    found: list[int] = answer["choices"][0]["token_ids"]
    return found


@pytest.mark.timeout(3600)  # with LONG_TESTS=1 a thousand requests, 10 to 15 minutes
def test_stock_answers_are_the_same_after_every_extreme(small: Server) -> None:
    """After each, two stock prompts use every block of the cache; all 20 come round several times.

    With LONG_TESTS=1, all 20 follow every extreme. On the code before, in float16, clamp [1e6, 1e6]
    left NaN in the blocks and the next answer was empty.
    """
    before = {prompt: tokens(small, prompt, TOKENS) for prompt in STOCK}
    assert all(len(found) > 2 for found in before.values())
    statuses: dict[int, int] = {200: 0, 400: 0}
    prompts = cycle(STOCK)
    cards = HTTP.get(f"{small.url}/v1/entropy/artifacts").json()["data"]
    usable = [card["id"] for card in cards if card["usable"] and card["kind"] == "steering-vector"]
    assert f"{MODEL}/largest" in usable
    for name, amount, positions in product(usable, AMOUNTS, ("answer", "all")):
        repeats = 8 if "strength" in amount else 1
        steers = [{"vector": name, "positions": positions, **amount}] * repeats
        answer = complete(small, STOCK[0], max_tokens=3, entropy={"steering": steers})
        statuses[answer.status_code] += 1
        if answer.status_code == 400:
            assert answer.json()["error"]["param"].startswith("entropy.steering.")
            continue
        for prompt in islice(prompts, len(STOCK) if is_long() else 2):
            found = tokens(small, prompt, FIRST)
            assert found == before[prompt][:FIRST], (name, amount, positions)
    assert min(statuses.values()) > 0, statuses
    assert {prompt: tokens(small, prompt, TOKENS) for prompt in STOCK} == before
    assert HTTP.get(f"{small.url}/ready").json()["ready"]
