"""Rollouts of a user-defined function, and settings that it does not support."""

from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter
from transformers import MixtralConfig, MixtralForCausalLM

from probes.laws import FixedLaw
from tests.unit.training.policy import tiny_policy as tiny
from training.objectives.catalog import ObjectiveList
from training.policy.trainer import EntropyGRPOTrainer


@pytest.fixture(autouse=True)
def _accept_the_experimental_feature(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")


def trainer(folder: Path, *names: Any, model: Any = None, **own: Any) -> EntropyGRPOTrainer:
    settings = own.pop("settings", {})
    own.setdefault("train_dataset", tiny.dataset())
    return EntropyGRPOTrainer(
        model or tiny.model(),
        tiny.reward,
        tiny.settings(folder, max_steps=1, **settings),
        processing_class=tiny.tokenizer(),
        objectives=TypeAdapter(ObjectiveList).validate_python(list(names) or ["none"]),
        grader=tiny.has_e,
        **own,
    )


def hot(temperature: float, beliefs: bool = False) -> Any:
    """Draws at another temperature and returns the sampling log-probabilities."""

    def rollout(prompts: list[str], running: Any) -> dict[str, Any]:
        ids = [tiny.tokenizer()(prompt)["input_ids"] for prompt in prompts]
        generator = torch.Generator().manual_seed(0)
        completions, logprobs = [], []
        for prompt in ids:
            row, kept = [*prompt], []
            for _ in range(6):
                with torch.no_grad():
                    logits = running.model(input_ids=torch.tensor([row])).logits[0, -1]
                drawn = torch.log_softmax(logits.float() / temperature, -1)
                token = int(torch.multinomial(drawn.exp(), 1, generator=generator))
                row.append(token)
                kept.append(float(drawn[token]))
            completions.append(row[len(prompt) :])
            logprobs.append(kept)
        found = {"prompt_ids": ids, "completion_ids": completions, "logprobs": logprobs}
        if beliefs:
            sure = [[[0.5, 0.5], [1.0, 0.0] if i % 2 else [0.5, 0.5]] for i in range(len(ids))]
            found["beliefs"] = sure
        return found

    return rollout


def gradient_of(run: EntropyGRPOTrainer) -> torch.Tensor:
    found = []
    plain = run._clip_grad_norm

    def clip(model: Any) -> Any:
        rows = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
        found.append(torch.cat(rows).clone())
        return plain(model)

    run._clip_grad_norm = clip
    run.train()
    return found[0]


def test_importance_weights_apply_to_rollouts_of_a_rollout_function(tmp_path: Path) -> None:
    function = {"rollout_func": hot(1.5)}
    weighed = trainer(tmp_path, importance_cap=3.0, **function)
    gradient = gradient_of(weighed)
    logs = [row for row in weighed.state.log_history if "grad_norm" in row]
    assert "sampling/behavior_ratio" in logs[0]
    naive = gradient_of(trainer(tmp_path, importance_cap=None, **function))
    assert (gradient - naive).abs().max() > 1e-4


def test_sampling_settings_are_refused_with_a_rollout_function(
    tmp_path: Path,
) -> None:
    with pytest.raises(ValueError, match="would ignore law"):
        trainer(tmp_path, rollout_func=hot(1.0), law=FixedLaw(temperature=1.2))


def test_beliefs_of_each_completion_change_the_gradient(tmp_path: Path) -> None:
    plain = gradient_of(trainer(tmp_path, rollout_func=hot(1.0, beliefs=True)))
    gain = {"type": "info_gain", "weight": 5.0}
    shaped = gradient_of(trainer(tmp_path, gain, rollout_func=hot(1.0, beliefs=True)))
    assert (plain - shaped).abs().max() > 1e-4


def test_beliefs_of_a_data_set_are_refused(tmp_path: Path) -> None:
    """A row is equal for its whole group, so its gain cancels in the advantage."""
    rows = tiny.dataset().map(lambda row: {"beliefs": [[0.5, 0.5], [1.0, 0.0]]})
    with pytest.raises(ValueError, match="the same beliefs"):
        trainer(tmp_path, "info_gain", train_dataset=rows)


def test_cispo_without_epsilon_high_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"epsilon_high = 5\.0"):
        trainer(tmp_path, settings={"loss_type": "cispo"})


def test_seed_grpo_with_scaled_rewards_warns(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="without division by the standard deviation"):
        trainer(tmp_path, "seed_grpo")
    trainer(tmp_path, "seed_grpo", settings={"scale_rewards": "none"})


def test_siren_keeps_the_balancing_loss_of_a_mixture_of_experts(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = MixtralConfig(
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        num_local_experts=4,
        vocab_size=tiny.VOCABULARY,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=1,
        router_aux_loss_coef=0.1,
    )
    model = MixtralForCausalLM(config)
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    stock = gradient_of(trainer(tmp_path, model=model))
    again = MixtralForCausalLM(config)
    again.load_state_dict(weights)
    inert = {"type": "siren", "entropy_coef": 0.0}
    found = gradient_of(trainer(tmp_path, inert, model=again))
    torch.testing.assert_close(found, stock, atol=1e-5, rtol=1e-4)
