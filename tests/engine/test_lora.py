"""vLLM's own command with our plugin named by hand, and an adapter beside controls."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from openai import OpenAI
from safetensors.torch import save_file

from tests.conftest import FLAGS, MODEL, run_server
from tests.engine.support import PROMPTS, ask, law, report, together

RANK = 8


def save_adapter(checkpoint: Path, folder: Path) -> None:
    """A LoRA adapter with random weights, large enough to change what is said."""
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
        *("--logits-processors", "server.engine.logits_v1:EntropyLogitsProcessor"),
        *("--additional-config", '{"entrostat": {}}'),
        *("--enable-lora", "--max-lora-rank", str(RANK), "--lora-modules", f"tuned={folder}"),
    ]
    env = {"VLLM_PLUGINS": "entrostat", "VLLM_USE_V2_MODEL_RUNNER": "0"}
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


def test_the_question_of_an_adapter_is_not_read_by_the_base_models_probe(client: OpenAI) -> None:
    from openai import BadRequestError

    with pytest.raises(BadRequestError) as refused:
        ask(client, PROMPTS[0], {"difficulty": {}}, model="tuned")
    assert refused.value.body["param"].startswith("entropy.difficulty")
