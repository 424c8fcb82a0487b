"""Laws by phase and limits of the thinking over HTTP, on a random model with marks of thinking."""

import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

from probes.artifact import Artifact, Manifest, ModelIdentity
from probes.difficulty.probe import Head
from probes.difficulty.strategies import Outcomes, ProbeSpec, Strategies
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
STRATEGIES = {
    "easy": {"temperature": 0.8, "budget": 1.0, "thinking": False},
    "normal": {"temperature": 0.8, "budget": 1.0, "thinking": 0.05},
    "hard": {"temperature": 0.8, "budget": 1.0, "thinking": True},
}
EFFORTS = {"easy": "low", "normal": "medium", "hard": "high"}
LONG = 88
"""Tokens of an answer of which a strategy keeps 64 back."""


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
    artifacts = tmp_path_factory.mktemp("artifacts")
    save_random_probe(artifacts, folder)
    command = entrostat("serve", str(folder), *FLAGS, "--model-runner", request.param)
    command += ["--artifacts", str(artifacts)]
    log = tmp_path_factory.mktemp(request.param) / "server.log"
    env = {**runner_environment(request.param), **UNCOMPILED}
    with run_server(command, log, env=env) as running:
        yield running._replace(runner=request.param)


def save_random_probe(root: Path, model: Path) -> None:
    size = int(json.loads((model / "config.json").read_text())["hidden_size"])
    manifest = Manifest(
        kind="difficulty-probe",
        model="tiny",
        identity=ModelIdentity.from_checkpoint(model),
        data_hash="none",
        seed=0,
        probe=ProbeSpec(
            layer="final",
            normalized=True,
            position="last_prompt_token",
            features=size,
            labels=Outcomes(),
            strategies=Strategies(),
        ),
    )
    head = Head(
        mean=torch.zeros(size),
        scale=torch.ones(size),
        weight=torch.zeros(3, size),
        bias=torch.tensor([0.0, 9.0, 0.0]),
        temperature=torch.tensor(1.0),
    )
    Artifact(id="tiny/probe", manifest=manifest, tensors=head.tensors()).save(root)


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


def think(server: Server, marks: tuple[int, int], seed: int, **fields: Any) -> Any:
    start, end = marks
    body = {
        "model": "tiny",
        "messages": [{"role": "user", "content": "Why?"}],
        "max_tokens": LONG,
        "seed": seed,
        "temperature": 0.8,
        "ignore_eos": True,
        "logit_bias": {str(start): OFTEN, str(end): OFTEN / 2},
        "return_token_ids": True,
        **fields,
    }
    answer = httpx.post(f"{server.url}/v1/chat/completions", json=body, timeout=300)
    assert answer.status_code == 200, answer.text
    (choice,) = answer.json()["choices"]
    return choice


def thoughts(tokens: list[int], marks: tuple[int, int], *, restarts: bool) -> list[int]:
    """Length of every piece of thinking, the last one included even if it does not end.

    Args:
        tokens: Of an answer.
        marks: Tokens that start and end the thinking.
        restarts: Whether a start inside the thinking begins the piece again.
    """
    start, end = marks
    found, length = list[int](), -1
    for token in tokens:
        if length >= 0 and token == end:
            found.append(length)
            length = -1
        elif token == start and (restarts or length < 0):
            length = 0
        elif length >= 0:
            length += 1
    return [*found, length] if length >= 0 else found


@pytest.mark.timeout(900)
def test_a_strategy_ends_the_thinking_in_time(thinker: Server, marks: tuple[int, int]) -> None:
    jobs: dict[str, list[Any]] = {}
    for word, effort in EFFORTS.items():
        control = {"difficulty": {"effort": True, "strategies": STRATEGIES}}
        fields = {"entropy": control, "reasoning_effort": effort}
        jobs[word] = [
            lambda i=i, fields=fields: think(thinker, marks, i, **fields) for i in range(4)
        ]
    jobs["probe"] = [
        lambda i=i: think(thinker, marks, i, entropy={"difficulty": {"strategies": STRATEGIES}})
        for i in range(4)
    ]
    jobs["plain"] = [lambda i=i: think(thinker, marks, i) for i in range(4)]
    drawn = together([job for group in jobs.values() for job in group])
    longest = {"easy": 0, "normal": 4, "hard": 23, "probe": 4}
    for at, word in enumerate(jobs):
        choices = drawn[4 * at : 4 * at + 4]
        # A limit of vLLM's V2 counts from the last start of the thinking, one of V1 from the first.
        restarts = thinker.runner == "v2" and word != "plain"
        lengths = [
            one
            for choice in choices
            for one in thoughts(choice["token_ids"], marks, restarts=restarts)
        ]
        assert len(lengths) >= 4, "the model must think"
        if word == "plain":
            assert max(lengths) > longest["hard"], "without a limit it thinks longer"
            continue
        assert max(lengths) <= longest[word]
        for choice in choices:
            applied = choice["entropy"]["difficulty"]["strategy"]
            assert applied["thinking_tokens"] == longest[word]


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
