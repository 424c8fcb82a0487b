"""`vllm serve` with the plugin enabled by flags: adapters, and prompts in small chunks."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from openai import OpenAI
from safetensors.torch import save_file

from clients.scrape import scrape
from probes.artifact import Artifact
from probes.difficulty.probe import Head, predicted_class
from probes.difficulty.strategies import Difficulty
from tests.conftest import (
    FLAGS,
    MODEL,
    ONE_PROCESS,
    PLAIN_PROBE,
    UNCOMPILED,
    offline_probe,
    run_server,
    save_probes,
)
from tests.integration.support import PROMPTS, ask, law, report, together
from tests.long import is_long

RANK = 8


def save_adapter(checkpoint: Path, folder: Path) -> None:
    """Save a LoRA adapter with random weights, large enough to change the tokens."""
    config = json.loads((checkpoint / "config.json").read_text())
    width, layers = config["hidden_size"], config["num_hidden_layers"]
    torch.manual_seed(0)
    tensors = {}
    for layer in range(layers):
        name = f"base_model.model.model.layers.{layer}.self_attn.q_proj"
        tensors[f"{name}.lora_A.weight"] = torch.randn(RANK, width) / width**0.5
        tensors[f"{name}.lora_B.weight"] = torch.randn(width, RANK)
    save_file(tensors, folder / "adapter_model.safetensors")
    adapter = {
        "peft_type": "LORA",
        "base_model_name_or_path": MODEL,
        "r": RANK,
        "lora_alpha": RANK,
        "target_modules": ["q_proj"],
        "bias": "none",
        "task_type": "CAUSAL_LM",
    }
    (folder / "adapter_config.json").write_text(json.dumps(adapter))


@pytest.fixture(scope="module")
def client(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenAI]:
    folder = tmp_path_factory.mktemp("lora")
    save_adapter(checkpoint, folder)
    command = [
        *(sys.executable, "-m", "vllm.entrypoints.openai.api_server"),
        *("--model", str(checkpoint), "--served-model-name", MODEL, *FLAGS),
        *("--logits-processors", "server.engine.runner_v1:EntropyProcessorV1"),
        *("--additional-config", '{"entrostat": {}}'),
        *("--enable-lora", "--max-lora-rank", str(RANK), "--lora-modules", f"tuned={folder}"),
        *("--max-loras", "2"),  # vLLM's CPU kernels give rows without an adapter the last slot
        *("--max-num-batched-tokens", "64"),  # longer prompts are chunked
    ]
    save_probes(folder / "artifacts", checkpoint)
    env = {
        "VLLM_PLUGINS": "entrostat",
        "VLLM_USE_V2_MODEL_RUNNER": "0",
        "ENTROSTAT_ARTIFACTS": str(folder / "artifacts"),
        "ENTROSTAT_BASELINE_SHARE": "0.5",  # of requests whose strategy would be applied
        **ONE_PROCESS,
        **UNCOMPILED,
    }
    with run_server(command, folder / "server.log", env=env) as server:
        yield server.client


def test_an_adapter_and_the_base_model_share_a_batch_with_their_controls(client: OpenAI) -> None:
    def job(model: str, prompt: str) -> Any:
        return ask(client, prompt, law("entropy_target", entropy_target=1.0), model=model, seed=1)

    models = (MODEL, "tuned", f"{MODEL}@steady", "tuned@steady")
    answers = together([lambda m=m, p=p: job(m, p) for m in models for p in PROMPTS[:3]])
    texts = [answer.choices[0].message.content for answer in answers]
    assert texts[:3] != texts[3:6], "the adapter changes nothing"
    assert texts[:3] == texts[6:9]
    assert texts[3:6] == texts[9:]
    for answer in answers:
        body = report(answer)
        assert body["fallback"] is None
        assert len(body["tokens"]) == body["num_tokens"] == answer.usage.completion_tokens
        assert len({round(token["temperature"], 3) for token in body["tokens"]}) > 3


def test_a_difficulty_control_on_an_adapter_is_refused(client: OpenAI) -> None:
    from openai import BadRequestError

    with pytest.raises(BadRequestError) as refused:
        ask(client, PROMPTS[0], {"difficulty": {}}, model="tuned")
    body: Any = refused.value.body
    assert body["param"].startswith("entropy.difficulty")


def test_half_of_the_answers_are_left_alone_and_counted_apart(client: OpenAI) -> None:
    """Their budget is the request's own; the others end at that of their class."""

    def lengths() -> dict[str, tuple[float, float]]:
        with httpx.Client() as http:
            now = scrape(http, str(client.base_url))
        name = "entrostat_difficulty_answer_tokens"
        return {
            arm: (now.total(f"{name}_count", arm=arm), now.total(f"{name}_sum", arm=arm))
            for arm in ("baseline", "strategy")
        }

    before, control = lengths(), {"difficulty": {"probe": PLAIN_PROBE}}
    jobs = [
        lambda n=n: ask(client, PROMPTS[n % 10], control, max_tokens=16, seed=n) for n in range(64)
    ]
    found: dict[str, list[int]] = {"baseline": [], "strategy": []}
    for answer in together(jobs):
        difficulty = report(answer)["difficulty"]
        arm = "baseline" if difficulty["baseline"] else "strategy"
        assert difficulty["mode"] == ("shadow" if arm == "baseline" else "act")
        found[arm].append(answer.usage.completion_tokens)
        if arm == "strategy":
            assert found[arm][-1] <= difficulty["strategy"]["max_tokens"]
    assert 16 <= len(found["baseline"]) <= 48  # four standard deviations
    assert sum(found["baseline"]) / len(found["baseline"]) > sum(found["strategy"]) / len(
        found["strategy"]
    )
    moved = {arm: (len(tokens), sum(tokens)) for arm, tokens in found.items()}
    after = lengths()
    assert {
        arm: (after[arm][0] - before[arm][0], after[arm][1] - before[arm][1]) for arm in found
    } == moved


def test_mixed_probes_classify_prompts_as_transformers_does(
    client: OpenAI, checkpoint: Path
) -> None:
    from server.artifacts import shipped_artifacts
    from training.common.hidden_states import hidden_states
    from training.datasets.loaders import load_problems

    shipped = Artifact.load(shipped_artifacts() / MODEL / "difficulty")
    heads = {
        shipped.id: Head.from_tensors(shipped.tensors, 576),
        PLAIN_PROBE: offline_probe(checkpoint).head,
    }
    size = 40 if is_long() else 20
    short = [problem.prompt for problem in load_problems(("facts",), 4 * size, 3)]
    stories = [problem.prompt for problem in load_problems(("words",), size, 3)]  # over 64 tokens
    prompts = short + stories
    states, lengths = hidden_states(checkpoint, prompts, lambda _: None)
    assert int((lengths > 64).sum()) >= 10
    names = [list(heads)[index % 2] for index in range(len(prompts))]
    expected = torch.stack([heads[name].probabilities(states)[i] for i, name in enumerate(names)])

    def job(prompt: str, probe: str) -> Any:
        control = {"difficulty": {"probe": probe, "mode": "shadow"}}
        return report(ask(client, prompt, control, max_tokens=1))["difficulty"]

    for _ in range(2):  # the second time every prefix is cached
        jobs = [lambda p=p, n=n: job(p, n) for p, n in zip(prompts, names, strict=True)]
        reported = together(jobs)
        got = torch.tensor([list(one["probabilities"].values()) for one in reported])
        assert (got - expected).abs().max() < 0.02
        labels = [Difficulty(label).word for label in predicted_class(expected).tolist()]
        same = [one["label"] == label for one, label in zip(reported, labels, strict=True)]
        assert sum(same) >= 0.99 * len(prompts)
