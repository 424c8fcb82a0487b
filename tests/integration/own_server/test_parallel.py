"""Controls on two ranks: tensor and data parallel, on both runners.

A tiny random model with the tokenizer of the default model, of whose nine heads two ranks have no
equal share.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

from probes.artifact import Artifact, Manifest, ModelIdentity
from probes.entropy import entropy_from_logits
from probes.steering import SteeringSpec, tensor_name
from tests.conftest import UNCOMPILED, Server, entrostat, run_server, runner_environment
from tests.integration.support import PROMPTS, hooked, together
from tests.long import is_long
from tests.unit.server.engine.tiny import build

VOCAB, HIDDEN, LAYER = 49152, 64, 1
VECTOR, STRENGTH = "tiny/push", 0.7
FLAGS = [
    *("--dtype", "float32", "--enforce-eager", "--max-model-len", "128", "--max-num-seqs", "8"),
    *("--max-num-batched-tokens", "32", "--kv-cache-memory-bytes", str(16 << 20)),
    *("--served-model-name", "tiny"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, checkpoint: Path) -> Path:
    """A checkpoint, and a steering vector for it."""
    root = tmp_path_factory.mktemp("parallel")
    model = build(root, "tiny", "llama", vocab_size=VOCAB)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        if (checkpoint / name).exists():
            shutil.copy(checkpoint / name, model)
    vector = torch.randn(HIDDEN, generator=torch.Generator().manual_seed(3))
    manifest = Manifest(
        kind="steering-vector",
        model="tiny",
        identity=ModelIdentity.from_checkpoint(model),
        data_hash="none",
        seed=3,
        steering=SteeringSpec(features=HIDDEN, norms={LAYER: 1.0}),
    )
    artifacts = root / "own"
    Artifact(id=VECTOR, manifest=manifest, tensors={tensor_name(LAYER): vector}).save(artifacts)
    return model


CASES = [("v1", "tensor"), ("v2", "tensor"), ("v2", "data")]
"""Data parallel on V1 is in test_scale.py; pipeline parallel is refused."""


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(
            case,
            id="-".join(case),
            marks=()
            if case == CASES[0]
            else pytest.mark.skipif(not is_long(), reason="LONG_TESTS=1"),
        )
        for case in CASES
    ],
)
def ranks(
    request: pytest.FixtureRequest, folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    runner, kind = request.param
    own = ("--model-runner", runner, f"--{kind}-parallel-size", "2")
    where = ("--artifacts", str(folder.parent / "own"))
    command = entrostat("serve", str(folder), *FLAGS, *own, *where)
    log = tmp_path_factory.mktemp("-".join(request.param)) / "server.log"
    env = {**runner_environment(runner), **UNCOMPILED}
    with run_server(command, log, env=env) as running:
        yield running


@pytest.mark.timeout(900)
def test_every_report_is_that_of_transformers(ranks: Server, folder: Path) -> None:
    """Laws, steered and plain requests in one batch, whichever rank has them."""
    from transformers import AutoModelForCausalLM

    reference = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    vector = Artifact.load(folder.parent / "own" / VECTOR).tensors[tensor_name(LAYER)]
    steer = {"steering": [{"vector": VECTOR, "strength": STRENGTH}]}
    dynatemp = {"temperature": {"type": "dynatemp", "range": 0.4}}

    def job(index: int) -> Any:
        body = {
            "model": "tiny",
            "prompt": PROMPTS[index],
            "max_tokens": 8,
            "seed": index,
            "temperature": 0.8,
            "ignore_eos": True,
            "return_token_ids": True,
            "entropy": {**(steer if index % 2 else dynatemp), "trace": "tokens"},
        }
        return httpx.post(f"{ranks.url}/v1/completions", json=body, timeout=300).json()

    for index, answer in enumerate(together([lambda i=i: job(i) for i in range(8)])):
        (choice,) = answer["choices"]
        prompt, tokens = choice["prompt_token_ids"], choice["token_ids"]
        move = {LAYER: lambda stream: stream + vector * STRENGTH} if index % 2 else {}
        with torch.inference_mode(), hooked(reference, move, len(prompt) - 1):
            logits = reference(torch.tensor([prompt + tokens])).logits[0, len(prompt) - 1 : -1]
        reported = choice["entropy"]["tokens"]
        measured = torch.tensor([token["entropy"] for token in reported])
        assert choice["entropy"]["fallback"] is None
        assert (measured - entropy_from_logits(logits)).abs().max() < 1e-3
        temperatures = {round(token["temperature"], 4) for token in reported}
        assert temperatures == {0.8} if index % 2 else len(temperatures) > 1
    ready = httpx.get(f"{ranks.url}/ready", timeout=60).json()
    assert ready["ready"]
    assert ready["steps"] > 0
