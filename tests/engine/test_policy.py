"""What `train-policy` makes of the default model is served as it is."""

from pathlib import Path

import httpx
import pytest
from openai import BadRequestError, NotFoundError
from rich.console import Console

from tests.conftest import FLAGS, PLAIN_PROBE, Server, entrostat, run_server, save_probes

SMALL = [
    *("rollout.prompts_per_step=1", "rollout.num_generations=4", "rollout.max_tokens=6"),
    *("optimiser.steps=1", "optimiser.micro_batch=4", "optimiser.save_every=1"),
    *("task.held_out=4", "evaluation.samples=1"),
]
QUESTION = [{"role": "user", "content": "What is 2 + 3? Reply with the number only."}]


def trained(folder: Path, checkpoint: Path, *changes: str) -> Path:
    """What one step of training leaves to serve."""
    from training.policy_config import load_config
    from training.train_policy import train_policy

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


def test_a_tuned_checkpoint_answers_and_refuses_the_probe_of_its_base(
    checkpoint: Path, tmp_path: Path
) -> None:
    target = trained(tmp_path / "run", checkpoint, "optimiser.learning_rate=1e-4")
    save_probes(tmp_path / "artifacts", checkpoint)
    command = entrostat("serve", str(target), "--served-model-name", "tuned", *FLAGS)
    command += ["--artifacts", str(tmp_path / "artifacts")]
    with run_server(command, tmp_path / "server.log") as server:
        assert ask(server, "tuned")
        with pytest.raises((BadRequestError, NotFoundError)) as refusal:
            ask(server, "tuned", difficulty={"probe": PLAIN_PROBE})
        assert refusal.value.param == "entropy.difficulty.probe"
        cards = httpx.get(f"{server.url}/v1/entropy/artifacts").json()["data"]
    (reason,) = [card["reason"] for card in cards if card["id"] == PLAIN_PROBE]
    assert reason == "made for another model: weights_hash differs"


def test_a_trained_adapter_is_served_beside_its_base(checkpoint: Path, tmp_path: Path) -> None:
    # The bonus has a gradient even where all answers earn the same, so that one step tells.
    bonus = 'objectives=["entropy_bonus"]'
    lora = ("lora={rank=8}", "optimiser.learning_rate=1e-2", bonus)
    target = trained(tmp_path / "run", checkpoint, *lora)
    adapter = ("--enable-lora", "--max-lora-rank", "8", "--lora-modules", f"tuned={target}")
    command = entrostat("serve", str(checkpoint), "--served-model-name", "base", *FLAGS, *adapter)
    with run_server([*command, "--max-loras", "2"], tmp_path / "server.log") as server:
        assert ask(server, "tuned") != ask(server, "base")
