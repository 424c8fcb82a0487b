"""Whether training reads the states that a server steers: `python -m benchmarks.steering.states`.

The residual stream behind every decoder layer at the last prompt token, in vLLM and as
`train-steering` reads it with transformers.
"""

import os
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor

from benchmarks import machine
from server.commands.default_model import DEFAULT_MODEL, default_model
from server.settings import settings
from training.steering.model import load_model
from training.steering.reader import EpisodeReader, TokenizedEpisode, tokenize_episode
from training.steering.wordings import BANDITS, bandit_episodes

_METHOD = """\
Cosine of the residual stream behind each decoder layer (from 0) at the last prompt token, between
vLLM and transformers as `train-steering` reads it in float32: {steps} prompts of the bandit
`fruits`, which training reads as trees with shared beginnings. In bfloat16 a server rounds, and
states differ by that."""


def main(
    runs: Annotated[int, typer.Option(help="Runs of four prompts each.")] = 6,
    output: Annotated[Path, typer.Option(help="Folder of the result.")] = Path(
        "benchmarks/results"
    ),
) -> None:
    """Compare and write steering-states.md."""
    facts = machine.describe("benchmarks.steering.states")
    loaded = load_model(default_model(settings().cache))
    texts = [
        tokenize_episode(loaded.tokenizer, run)
        for run in bandit_episodes(BANDITS["fruits"], 4, runs, 4, seed=11)
    ]
    layers = range(loaded.model.config.num_hidden_layers)
    _, read = EpisodeReader(loaded.model, texts).states(layers)
    cosines = {
        dtype: torch.cosine_similarity(read, served(loaded.folder, texts, dtype), dim=-1)
        for dtype in ("float32", "bfloat16")
    }
    lines = ["# Whether training reads what a server steers", "", *machine.markdown(facts)]
    lines += [f"- model: {DEFAULT_MODEL}", "", _METHOD.format(steps=len(read)), ""]
    lines += ["| layer | " + " | ".join(f"{dtype}: least | mean" for dtype in cosines) + " |"]
    lines += ["|---|" + "---|---|" * len(cosines)]
    for layer in layers:
        cells = [
            f"{one[:, layer].min():.6f} | {one[:, layer].mean():.6f}" for one in cosines.values()
        ]
        lines.append(f"| {layer} | {' | '.join(cells)} |")
    print("\n".join(lines))
    output.mkdir(parents=True, exist_ok=True)
    (output / "steering-states.md").write_text("\n".join(lines) + "\n")


def served(checkpoint: Path, texts: list[TokenizedEpisode], dtype: str) -> Tensor:
    """The streams in vLLM, float32, shape (prompts, layers, hidden)."""
    os.environ |= {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_USE_V2_MODEL_RUNNER": "0"}
    from vllm import LLM, SamplingParams

    llm = LLM(
        str(checkpoint),
        dtype=dtype,
        enforce_eager=True,
        max_model_len=1024,
        max_num_seqs=1,
        enable_prefix_caching=False,
        kv_cache_memory_bytes=64 << 20,
        distributed_executor_backend="uni",
    )
    model: Any = llm.llm_engine.model_executor.driver_worker.worker.model_runner.model
    last = dict[int, Tensor]()

    def keep(layer: int) -> Any:
        def hook(_: Any, __: Any, output: Any) -> None:
            hidden, residual = output
            if len(hidden) > 1:  # a prompt, and not the token behind it
                last[layer] = (hidden[-1].float() + residual[-1].float()).clone()

        return hook

    for layer, module in enumerate(model.model.layers):
        module.register_forward_hook(keep(layer))
    found = list[Tensor]()
    for prompt in [prompt for run in texts for prompt in run.prompts]:
        llm.generate({"prompt_token_ids": prompt}, SamplingParams(max_tokens=1), use_tqdm=False)
        found.append(torch.stack([last[layer] for layer in sorted(last)]))
    return torch.stack(found)


if __name__ == "__main__":
    typer.run(main)
