"""Laws by phase over HTTP, on a tiny random model whose tokenizer has marks of thinking."""

import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

from probes.entropy import entropy_from_logits
from probes.law_functions import apply_laws
from probes.laws import DynatempLaw, law_row
from tests.conftest import UNCOMPILED, Server, entrostat, run_server, runner_environment
from tests.integration.support import PROMPTS, together
from tests.long import is_long
from tests.unit.server.engine.support import thinks
from tests.unit.server.engine.tiny import build

VOCAB, BASE, COLD, TOKENS = 49152, 0.8, 0.6, 40
UNUSED = {"<file_sep>": "<think>", "<filename>": "</think>"}
"""Special tokens of the default model that get another name."""
OFTEN = math.log(0.1 * VOCAB)
"""Bias that makes a token of the random model about one in ten."""
WARM = DynatempLaw(range=0.5)
FLAGS = [
    *("--dtype", "float32", "--enforce-eager", "--max-model-len", "128", "--max-num-seqs", "8"),
    *("--max-num-batched-tokens", "32", "--kv-cache-memory-bytes", str(16 << 20)),
    *("--served-model-name", "tiny", "--reasoning-parser", "deepseek_r1"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, checkpoint: Path) -> Path:
    model = build(tmp_path_factory.mktemp("phases"), "tiny", "llama", vocab_size=VOCAB)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        if (checkpoint / name).exists():
            shutil.copy(checkpoint / name, model)
    for file in (model / "tokenizer.json", model / "tokenizer_config.json"):
        text = file.read_text()
        for old, new in UNUSED.items():
            text = text.replace(f'"{old}"', f'"{new}"')
        file.write_text(text)
    return model


@pytest.fixture(scope="module")
def marks(folder: Path) -> tuple[int, int]:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    start, end = (tokenizer.convert_tokens_to_ids(text) for text in UNUSED.values())
    return start, end


@pytest.fixture(
    scope="module",
    params=[
        "v1",
        pytest.param("v2", marks=pytest.mark.skipif(not is_long(), reason="LONG_TESTS=1")),
    ],
)
def thinker(
    request: pytest.FixtureRequest, folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    command = entrostat("serve", str(folder), *FLAGS, "--model-runner", request.param)
    log = tmp_path_factory.mktemp(request.param) / "server.log"
    env = {**runner_environment(request.param), **UNCOMPILED}
    with run_server(command, log, env=env) as running:
        yield running


def ask(server: Server, marks: tuple[int, int], index: int, laws: Any, inside: bool) -> Any:
    body = {
        "model": "tiny",
        "prompt": PROMPTS[index] + ("<think>" if inside else ""),
        "max_tokens": TOKENS,
        "n": 2,
        "seed": index,
        "temperature": BASE,
        "ignore_eos": True,
        "logit_bias": {str(mark): OFTEN for mark in marks},
        "return_token_ids": True,
        "entropy": {"temperature": laws, "trace": "tokens"},
    }
    answer = httpx.post(f"{server.url}/v1/completions", json=body, timeout=300)
    assert answer.status_code == 200, answer.text
    return answer.json()["choices"]


@pytest.mark.timeout(900)
def test_every_token_follows_the_law_of_its_phase(
    thinker: Server, folder: Path, marks: tuple[int, int]
) -> None:
    from transformers import AutoModelForCausalLM

    reference = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    laws = {"thinking": WARM.model_dump(), "answer": {"type": "fixed", "temperature": COLD}}
    jobs = [lambda i=i: ask(thinker, marks, i, laws, inside=bool(i % 2)) for i in range(6)]
    changes = 0
    for index, choices in enumerate(together(jobs)):
        for choice in choices:
            prompt, tokens = choices[0]["prompt_token_ids"], choice["token_ids"]
            assert (prompt[-1] == marks[0]) == bool(index % 2)
            with torch.inference_mode():
                logits = reference(torch.tensor([prompt + tokens])).logits[0, len(prompt) - 1 : -1]
                logits[:, list(marks)] += OFTEN
            report = choice["entropy"]
            entropy, applied = (
                torch.tensor([token[name] for token in report["tokens"]])
                for name in ("entropy", "temperature")
            )
            assert (entropy - entropy_from_logits(logits)).abs().max() < 1e-3
            tag, row = law_row(WARM)
            warm = apply_laws(
                entropy,
                torch.full((TOKENS,), BASE),
                torch.full((TOKENS,), float(tag)),
                torch.tensor([row] * TOKENS),
                math.log(VOCAB),
            )
            inside = torch.tensor(thinks(tokens, marks, bool(index % 2)))
            assert (applied - torch.where(inside, warm, COLD)).abs().max() < 1e-4
            assert report["law"] == "phases"
            for name, own in (("thinking", inside), ("answer", ~inside)):
                phase = report["phases"][name]
                assert phase["num_tokens"] == int(own.sum())
                if own.any():
                    assert phase["temperature_mean"] == pytest.approx(
                        applied[own].mean().item(), abs=1e-4
                    )
            changes += int((inside[1:] != inside[:-1]).sum())
    assert changes > 12, "the phases must really change"


@pytest.mark.timeout(900)
def test_equal_laws_are_one_law(thinker: Server, marks: tuple[int, int]) -> None:
    law = WARM.model_dump()
    both = {"thinking": law, "answer": law}
    for index in range(2):
        one, two = (ask(thinker, marks, index, laws, inside=bool(index)) for laws in (law, both))
        for plain, phased in zip(one, two, strict=True):
            assert plain["token_ids"] == phased["token_ids"]
            assert plain["entropy"]["tokens"] == phased["entropy"]["tokens"]
            assert plain["entropy"]["phases"] is None
            named = [phased["entropy"]["phases"][name]["law"] for name in both]
            assert named == ["dynatemp", "dynatemp"]
