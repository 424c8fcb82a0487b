"""Tiny random models in vLLM's `LLM`, steered, beside transformers.

A program of its own, for vLLM wants a process to itself. Prints what it found as JSON: by case, how
far the log-probabilities of each of four requests lie from those of transformers with hooks, and
how far steering moved them.
"""

import gc
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from probes.artifact import Artifact, Manifest, ModelIdentity
from probes.laws import NO_LAW, NO_ROW
from probes.steering import SteeringSpec, tensor_name
from server.artifacts import Artifacts
from server.planning.steering import SteeringPlan, plan_steering
from server.served_model import ModelFacts
from server.wire.request import Steer
from server.worker.message import CONFIG_KEY, KEY, LAYERS_KEY, engine_control
from tests.integration.support import hooked
from tests.long import is_long

HIDDEN, VOCAB, LAYERS = 64, 96, 3
PROMPT = [1, 5, 9, 20, 33, 7] * 4
ANSWER = 8
FAMILIES = {
    "llama": "llama",
    "mistral": "mistral",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "gemma": "gemma",
    "gemma2": "gemma2",
    "gemma3": "gemma3_text",
}
"""transformers' model types."""
_SIZES = {
    "vocab_size": VOCAB,
    "hidden_size": HIDDEN,
    "intermediate_size": 96,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 128,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
Edits = dict[int, Callable[[Tensor], Tensor]]


class Case(NamedTuple):
    """One start of an engine."""

    name: str
    family: str
    layers: list[int]
    """That can be steered; requests use all of them."""
    compiled: bool = False
    ranks: int = 1
    """Of tensor parallelism."""


_LONG = ("mistral", "qwen2", "gemma2")
"""Families whose layers another one shares: tried in long runs."""
CASES = [
    *(
        Case(family, family, [0, 2])
        for family in FAMILIES
        if family != "llama" and (is_long() or family not in _LONG)
    ),
    Case("compiled", "llama", [0], compiled=True),
    Case("compiled, other layers", "llama", [2], compiled=True),  # with the cache of the first
    Case("two ranks", "llama", [0, 2], ranks=2),
]


def build(root: Path, family: str, model_type: str, **sizes: Any) -> Path:
    """A random checkpoint with a vector for every layer, and one to clamp along."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(model_type, **{**_SIZES, **sizes})
    model = AutoModelForCausalLM.from_config(config).float()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.normal_(0, 0.15)
    folder = root / family
    model.save_pretrained(folder)
    draw = torch.Generator().manual_seed(3)
    for layer in range(LAYERS):
        for name in (f"push{layer}", f"hold{layer}"):
            manifest = Manifest(
                kind="steering-vector",
                model=family,
                identity=ModelIdentity.from_checkpoint(folder),
                data_hash="none",
                seed=3,
                steering=SteeringSpec(features=HIDDEN, norms={layer: 1.0}),
            )
            tensors = {tensor_name(layer): torch.randn(HIDDEN, generator=draw)}
            artifact = Artifact(id=f"{family}/{name}", manifest=manifest, tensors=tensors)
            artifact.save(root / "artifacts")
    return folder


def steers(case: Case) -> list[list[Steer]]:
    """What four requests ask for: the answer pushed, nothing, all pushed and held, nothing."""
    push = [Steer(vector=f"{case.family}/push{n}", strength=0.7) for n in case.layers]
    hard = [
        Steer(vector=f"{case.family}/push{n}", strength=-0.5, positions="all") for n in case.layers
    ]
    hold = [
        Steer(vector=f"{case.family}/hold{n}", clamp=(0.3, 0.6), positions="all")
        for n in case.layers
    ]
    return [push, [], [*hard, *hold], []]


def edits(wanted: list[Steer], artifacts: Artifacts) -> Edits:
    """The same for transformers: pushes of a layer first, then what holds it."""
    found: Edits = {}
    for one in wanted:
        ((layer, measured),) = artifacts.steering_vector(one.vector, "").layers.items()
        before = found.get(layer, _unchanged)
        found[layer] = _edit(before, measured.vector, one)
    return found


def _unchanged(x: Tensor) -> Tensor:
    return x


def _edit(before: Callable[[Tensor], Tensor], vector: Tensor, one: Steer) -> Callable[..., Tensor]:
    if one.clamp is not None:
        band = one.clamp
        return lambda x: _held(before(x), vector, band)
    assert one.strength is not None
    added = vector * one.strength
    return lambda x: before(x) + added


def _held(x: Tensor, vector: Tensor, band: tuple[float, float]) -> Tensor:
    unit = vector / vector.norm()
    along = (x @ unit).unsqueeze(-1)
    held: Tensor = x + (along.clamp(*band) - along) * unit
    return held


def run(root: Path, case: Case) -> dict[str, list[float]]:
    """Start an engine, send the requests, compare."""
    from vllm import LLM, SamplingParams
    from vllm.distributed import cleanup_dist_env_and_memory

    if case.ranks > 1:  # processes of their own, where the temperature laws need no compiler either
        os.environ |= {"TORCHDYNAMO_DISABLE": "1", "VLLM_CPU_SIM_MULTI_NUMA": "1"}
    folder = root / case.family
    artifacts = Artifacts(
        [root / "artifacts"], ModelIdentity.from_checkpoint(folder), ModelFacts(HIDDEN)
    )
    llm = LLM(
        model=str(folder),
        skip_tokenizer_init=True,
        dtype="float32",
        enforce_eager=not case.compiled,
        tensor_parallel_size=case.ranks,
        max_model_len=128,
        max_num_seqs=8,
        max_num_batched_tokens=16,  # less than a prompt, which therefore comes in chunks
        max_logprobs=-1,
        kv_cache_memory_bytes=16 << 20,
        logits_processors=["server.engine.runner_v1:EntropyProcessorV1"],
        additional_config={CONFIG_KEY: {LAYERS_KEY: case.layers}},
    )
    wanted = steers(case)
    plans = [plan_steering(one, artifacts) if one else None for one in wanted]
    prompts, params = [], []
    for plan in plans:
        prompt: dict[str, Any] = {"prompt_token_ids": PROMPT}
        prompts.append(prompt if plan is None else plan.add_cache_salt(prompt, "secret"))
        extra = None if plan is None else {KEY: _control(plan)}
        params.append(
            SamplingParams(
                temperature=0,
                max_tokens=ANSWER,
                logprobs=-1,
                ignore_eos=True,
                detokenize=False,
                extra_args=extra,
            )
        )
    answers = [one.outputs[0] for one in llm.generate(prompts, params, use_tqdm=False)]
    del llm
    gc.collect()
    cleanup_dist_env_and_memory()
    reference = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    differences, moved = [], []
    for answer, one in zip(answers, wanted, strict=True):
        rows = [[row[token].logprob for token in range(VOCAB)] for row in answer.logprobs]
        everywhere = any(steer.positions == "all" for steer in one)
        start = 0 if everywhere else len(PROMPT) - 1
        tokens = torch.tensor([PROMPT + list(answer.token_ids)])
        expected = []
        for change in (edits(one, artifacts), {}):
            with torch.inference_mode(), hooked(reference, change, start):
                logits = reference(tokens).logits[0, len(PROMPT) - 1 : -1]
            expected.append(logits.log_softmax(-1))
        differences.append(float((torch.tensor(rows) - expected[0]).abs().max()))
        moved.append(float((expected[0] - expected[1]).abs().max()))
    return {"differences": differences, "moved": moved}


def _control(plan: SteeringPlan) -> dict[str, Any]:
    return engine_control(
        law=NO_LAW,
        parameters=NO_ROW,
        trace=0,
        address="",
        choices=1,
        steering=plan.control,
    )


def refuse(root: Path) -> str:
    """Why a model of another family, which starts, is not steered."""
    from vllm import LLM

    engine = LLM(
        model=str(build(root, "opt", "opt", word_embed_proj_dim=HIDDEN, ffn_dim=96)),
        skip_tokenizer_init=True,
        enforce_eager=True,
        max_model_len=64,
        kv_cache_memory_bytes=16 << 20,
        logits_processors=["server.engine.runner_v1:EntropyProcessorV1"],
        additional_config={CONFIG_KEY: {}},
    )
    (loaded,) = engine.collective_rpc("entrostat_artifacts")
    return "; ".join(str(artifact["reason"]) for artifact in loaded.values())


def main(root: Path) -> dict[str, Any]:
    """Run every case."""
    os.environ |= {
        "ENTROSTAT_ARTIFACTS": str(root / "artifacts"),
        "VLLM_CACHE_ROOT": str(root / "cache"),
        "VLLM_CPU_OMP_THREADS_BIND": "auto",  # vLLM needs it for two ranks
        "VLLM_PLUGINS": "entrostat",
        "VLLM_USE_V2_MODEL_RUNNER": "0",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    }
    from server.engine.kernels import Kernels

    # The temperature laws need not be compiled.
    setattr(Kernels, "warm_up", lambda kernels: kernels.compile_with(lambda f, dynamic: f))  # noqa: B010
    for family, model_type in FAMILIES.items():
        build(root, family, model_type)
    import vllm  # noqa: F401

    gc.freeze()  # vLLM collects garbage several times per start, in a heap full of modules
    found: dict[str, Any] = {case.name: run(root, case) for case in CASES}
    return {**found, "refused": refuse(root)}


if __name__ == "__main__":
    print("\n" + json.dumps(main(Path(sys.argv[1]))))
