"""Checkpoints and adapters of `train-policy` can be served."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from openai import BadRequestError, NotFoundError
from rich.console import Console

from tests.conftest import (
    FLAGS,
    ONE_PROCESS,
    PLAIN_PROBE,
    UNCOMPILED,
    Server,
    entrostat,
    run_server,
    save_probes,
)

SMALL = [
    *("rollout.prompts_per_step=1", "rollout.num_generations=4", "rollout.max_tokens=6"),
    *("optimizer.steps=1", "optimizer.micro_batch=4", "optimizer.save_every=1"),
    *("task.held_out=4", "evaluation.samples=1"),
]
QUESTION = [{"role": "user", "content": "What is 2 + 3? Reply with the number only."}]


def trained(folder: Path, checkpoint: Path, *changes: str) -> Path:
    """Train for one step and return the checkpoint."""
    from training.policy.config import load_config
    from training.policy.job import train_policy

    config = load_config("plain", [*SMALL, f"run={folder}", f"model={checkpoint}", *changes])
    return train_policy(config, Console(quiet=True))


def ask(server: Server, model: str, **entropy: object) -> str | None:
    answer = server.client.chat.completions.create(
        model=model,
        messages=QUESTION,  # type: ignore[arg-type]
        max_tokens=8,
        seed=1,
        extra_body={"entropy": {"trace": "summary", **entropy}},
    )
    report = answer.choices[0].model_dump()["entropy"]
    assert report["entropy_mean"] > 0
    return answer.choices[0].message.content


def test_a_tuned_checkpoint_is_served_and_refuses_the_probe_of_its_base(
    checkpoint: Path, tmp_path: Path
) -> None:
    target = trained(tmp_path / "run", checkpoint, "optimizer.learning_rate=1e-4")
    save_probes(tmp_path / "artifacts", checkpoint)
    command = entrostat("serve", str(target), "--served-model-name", "tuned", *FLAGS)
    command += ["--artifacts", str(tmp_path / "artifacts")]
    with run_server(command, tmp_path / "server.log", env=ONE_PROCESS | UNCOMPILED) as server:
        assert ask(server, "tuned")
        with pytest.raises((BadRequestError, NotFoundError)) as refusal:
            ask(server, "tuned", difficulty={"probe": PLAIN_PROBE})
        assert refusal.value.param == "entropy.difficulty.probe"
        cards = httpx.get(f"{server.url}/v1/entropy/artifacts").json()["data"]
    (reason,) = [card["reason"] for card in cards if card["id"] == PLAIN_PROBE]
    assert reason == "made for another model: weights_hash differs"


RANK = 8


@pytest.fixture(scope="module")
def base(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The base model with a trained adapter and a slot for a changing one."""
    folder = tmp_path_factory.mktemp("adapters")
    # The bonus has a gradient even if all rewards are equal, so that one step has an effect.
    bonus = 'objectives=["entropy_bonus"]'
    lora = (f"lora={{rank={RANK}}}", "optimizer.learning_rate=1e-2", bonus)
    target = trained(folder / "run", checkpoint, *lora)
    adapter = ("--enable-lora", "--max-lora-rank", str(RANK), "--lora-modules", f"tuned={target}")
    slots = ("--max-loras", "3")  # vLLM's CPU kernels give rows without an adapter the last one
    command = entrostat("serve", str(checkpoint), "--served-model-name", "base", *FLAGS, *adapter)
    command += [*slots, "--logprobs-mode", "processed_logprobs"]
    env = {"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1", **ONE_PROCESS, **UNCOMPILED}
    with run_server(command, folder / "server.log", env=env) as server:
        yield server


def test_a_trained_adapter_is_served_beside_its_base(base: Server) -> None:
    assert ask(base, "tuned") != ask(base, "base")


class Rollouts:
    """A LoRA run with rollouts from a server; records the inputs that each step scores."""

    def __init__(self, server: Server, checkpoint: Path, run: Path, *changes: str) -> None:
        from training.policy.config import load_config
        from training.policy.job import build_trainer
        from training.policy.preparation import split_problems

        small = ["rollout.prompts_per_step=1", "rollout.max_tokens=8", "optimizer.micro_batch=8"]
        drawn = ["rollout.backend=entrostat", f"rollout.server={server.url}"]
        fast = [f"lora.rank={RANK}", "optimizer.learning_rate=2e-2"]
        where = [f"run={run}", f"model={checkpoint}"]
        config = load_config("lora", [*small, *drawn, *fast, *where, *changes])
        self.trainer = build_trainer(config, checkpoint, split_problems(config).train, [])
        self.scored: list[tuple[Any, dict[str, Any]]] = []
        importance = self.trainer.importance_weights

        def watched(tokens: Any, inputs: dict[str, Any]) -> Any:
            self.scored.append((tokens, inputs))
            return importance(tokens, inputs)

        self.trainer.importance_weights = watched
        self.trainer.train()

    def behavior(self, step: int) -> torch.Tensor:
        """Log-probabilities reported by the server for the completion tokens."""
        tokens, inputs = self.scored[step]
        behavior: torch.Tensor = inputs["sampling_per_token_logps"][tokens.mask]
        return behavior

    @torch.no_grad()
    def logits(self, step: int) -> torch.Tensor:
        """Logits of the current policy at the same positions."""
        tokens, inputs = self.scored[step]
        ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], 1)
        attention = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], 1)
        keep = inputs["completion_ids"].shape[1] + 1
        model = self.trainer.model
        found = model(input_ids=ids, attention_mask=attention, logits_to_keep=keep).logits
        kept: torch.Tensor = found[:, :-1].float()[tokens.mask]
        return kept

    def chosen(self, step: int, logits: torch.Tensor) -> torch.Tensor:
        """Log-probabilities of the sampled tokens."""
        tokens, inputs = self.scored[step]
        ids = inputs["completion_ids"][tokens.mask]
        return torch.log_softmax(logits, -1).gather(-1, ids[:, None])[:, 0]


def test_the_server_samples_rollouts_with_the_adapter_of_each_step(
    base: Server, checkpoint: Path, tmp_path: Path
) -> None:
    bonus = 'objectives=["entropy_bonus"]'
    run = Rollouts(base, checkpoint, tmp_path, "optimizer.steps=3", bonus)
    for step in range(3):
        tokens, _ = run.scored[step]
        gap = tokens.old_logprobs[tokens.mask] - run.behavior(step)
        assert gap.abs().max() < 0.02
    with run.trainer.model.disable_adapter():  # the base model is a different policy
        assert (run.chosen(2, run.logits(2)) - run.behavior(2)).abs().max() > 0.2
    served = {model.id for model in base.client.models.list() if "@" not in model.id}
    assert served == {"base", "tuned", f"{tmp_path.name}-2"}  # earlier adapters are unloaded


def test_the_server_reports_the_logprobs_that_tokens_were_sampled_with_under_a_law(
    base: Server, checkpoint: Path, tmp_path: Path
) -> None:
    from probes.entropy_target import temperature_for_entropy

    control = "{temperature={type='entropy_target', entropy_target=1.5, side='both'}}"
    changes = (f"rollout.controls={control}", "optimizer.steps=1", "optimizer.learning_rate=1e-12")
    run = Rollouts(base, checkpoint, tmp_path, *changes)
    logits = run.logits(0)
    temperature = temperature_for_entropy(logits, 1.5)[:, None]
    assert (run.chosen(0, logits / temperature) - run.behavior(0)).abs().max() < 0.02
    assert (run.chosen(0, logits) - run.behavior(0)).abs().max() > 0.2
