"""The trainer, compared with TRL's trainer on a tiny random model."""

from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter
from torch import Tensor
from trl import GRPOTrainer

from probes.laws import FixedLaw
from tests.unit.training.policy import tiny_policy as tiny
from training.objectives.catalog import ObjectiveList
from training.objectives.compose import Objectives
from training.objectives.core.controller import Actuator, ControllerConfig
from training.objectives.core.interface import Objective
from training.objectives.registry import OBJECTIVES
from training.policy.rollouts.settings import BranchConfig
from training.policy.trainer import EntropyGRPOTrainer

LOSS_TYPES = ("grpo", "dapo", "dr_grpo", "bnpo", "cispo", "sapo", "luspo", "vespo")
REUSE = {"num_iterations": 2, "max_steps": 4}


def objectives(*names: str | dict[str, Any]) -> Any:
    return TypeAdapter(ObjectiveList).validate_python(list(names))


class Steps:
    """Gradients and losses of every optimizer step of a run."""

    def __init__(self, kind: type[GRPOTrainer], folder: Path, settings: Any, **own: Any) -> None:
        self.gradients: list[Tensor] = []
        outer = self

        class Recording(kind):  # type: ignore[misc]
            def _clip_grad_norm(self, model: Any) -> Any:
                rows = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
                outer.gradients.append(torch.cat(rows).clone())
                return super()._clip_grad_norm(model)

        own.setdefault("train_dataset", tiny.dataset())
        self.trainer = Recording(
            tiny.model(),
            tiny.reward,
            tiny.settings(folder, **settings),
            processing_class=tiny.tokenizer(),
            **own,
        )
        self.trainer.train()
        self.logs = [row for row in self.trainer.state.log_history if "grad_norm" in row]
        self.losses = [row["loss"] for row in self.logs]


def ours(folder: Path, *names: Any, **options: Any) -> Steps:
    settings = {k: options.pop(k) for k in list(options) if k not in OWN}
    return Steps(
        EntropyGRPOTrainer,
        folder,
        settings,
        objectives=objectives(*(names or ("none",))),
        grader=tiny.has_e,
        **options,
    )


OWN = ("controller", "law", "importance_cap", "train_dataset")


@pytest.mark.parametrize("extra", [{}, REUSE], ids=["on policy", "reused"])
@pytest.mark.parametrize("loss_type", LOSS_TYPES)
def test_none_equals_the_stock_trainer(
    loss_type: str, extra: dict[str, Any], tmp_path: Path
) -> None:
    level = "sequence" if loss_type == "luspo" else "token"
    settings = {"loss_type": loss_type, "importance_sampling_level": level, **extra}
    settings |= {"epsilon_high": 5.0} if loss_type == "cispo" else {}
    stock = Steps(GRPOTrainer, tmp_path, settings)
    own = ours(tmp_path, **settings)
    assert own.losses == pytest.approx(stock.losses, abs=1e-6)
    assert len(own.gradients) == len(stock.gradients) == (4 if extra else 2)
    assert all(gradient.abs().max() > 1e-3 for gradient in stock.gradients[:1])
    for mine, theirs in zip(own.gradients, stock.gradients, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-6, rtol=1e-6)


class Neutral(Objective[Any]):
    """Overrides `on_tokens` without changing the plan."""

    def on_tokens(self, tokens: Any, plan: Any) -> Any:
        return plan.with_weight(torch.ones_like(plan.weight)).with_terms(
            policy=0 * tokens.logprobs, mean=0 * tokens.entropy, scalar=0 * tokens.entropy.sum()
        )


@pytest.mark.parametrize("loss_type", ["grpo", "dapo", "dr_grpo", "bnpo"])
def test_an_unmodified_plan_equals_the_stock_trainer(
    loss_type: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"loss_type": loss_type, **REUSE}
    stock = Steps(GRPOTrainer, tmp_path, settings)
    monkeypatch.setitem(OBJECTIVES, "none", Neutral)
    own = ours(tmp_path, **settings)
    assert own.trainer.objectives.acts_on_tokens
    for mine, theirs in zip(own.gradients, stock.gradients, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-6, rtol=1e-6)


# One step is enough for an effect, except for objectives that need a previous step or ratios.
ON_POLICY = [
    *("entropy_bonus", "target_entropy", "high_entropy_mask", "entropy_advantage"),
    *("hardness_weight", "steer", "epo", "hapo", "dcpo", "canon", "empg", "ares"),
    *({"type": "clip_cov", "share": 0.3, "covariance_min": 0.01},),
    *({"type": "lp_reg", "share": 0.9}, {"type": "seed_grpo", "alpha": 0.5}),
    *({"type": "siren", "entropy_coef": 1.0}, "tea_rl"),
    *({"type": "adaptive_entropy", "entropy_coef": 0.1, "entropy_target": 9.0},),
]
OFF_POLICY = [{"type": "kl_cov", "share": 0.5}, "soft_clip_high_entropy"]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Steps:
    """Two steps without objectives."""
    return ours(tmp_path_factory.mktemp("plain"))


@pytest.mark.filterwarnings('ignore:"seed_grpo" is published')
@pytest.mark.parametrize("objective", ON_POLICY, ids=str)
def test_an_objective_changes_the_gradient(objective: Any, plain: Steps, tmp_path: Path) -> None:
    own = ours(tmp_path, objective)
    assert len(own.gradients) == 2
    assert all(gradient.isfinite().all() for gradient in own.gradients)
    gaps = [(a - b).abs().max() for a, b in zip(plain.gradients, own.gradients, strict=True)]
    assert max(gaps) > 1e-5


@pytest.mark.parametrize("objective", OFF_POLICY, ids=str)
def test_an_objective_on_ratios_changes_the_gradient_of_reused_rollouts(
    objective: Any, tmp_path: Path
) -> None:
    settings = {**REUSE, "epsilon": 0.01}
    plain, own = ours(tmp_path, **settings), ours(tmp_path, objective, **settings)
    torch.testing.assert_close(plain.gradients[0], own.gradients[0], atol=1e-6, rtol=1e-6)
    assert (plain.gradients[1] - own.gradients[1]).abs().max() > 1e-5


@pytest.mark.parametrize("loss_type", ["grpo", "dapo", "dr_grpo", "bnpo"])
def test_policy_terms_are_normalized_like_the_loss(
    loss_type: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The term -A pi / pi_old equals the unclipped loss, so it doubles the gradient."""

    class Twice(Objective[Any]):
        def on_tokens(self, tokens: Any, plan: Any) -> Any:
            ratio = (tokens.logprobs - tokens.logprobs.detach()).exp()
            return plan.with_terms(policy=-plan.advantages * ratio)

    settings = {"loss_type": loss_type, "max_steps": 1}
    plain = ours(tmp_path, **settings)
    monkeypatch.setitem(OBJECTIVES, "none", Twice)
    own = ours(tmp_path, **settings)
    torch.testing.assert_close(own.gradients[0], 2 * plain.gradients[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("loss_type", ["grpo", "dapo", "cispo"])
def test_the_entropy_bonus_equals_that_of_trl(loss_type: str, tmp_path: Path) -> None:
    """With one micro-batch per step, the mean over its tokens is the mean over the step."""
    shape = {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 1}
    settings = {"loss_type": loss_type, "epsilon_high": 5.0, **shape}
    stock = Steps(GRPOTrainer, tmp_path, {**settings, "entropy_coef": 0.05})
    own = ours(tmp_path, {"type": "entropy_bonus", "entropy_coef": 0.05}, **settings)
    for mine, theirs in zip(own.gradients, stock.gradients, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-6, rtol=1e-5)


def test_the_high_entropy_mask_equals_that_of_trl(tmp_path: Path) -> None:
    shape = {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 1}
    stock = Steps(GRPOTrainer, tmp_path, {"top_entropy_quantile": 0.3, **shape})
    own = ours(tmp_path, {"type": "high_entropy_mask", "top_entropy_quantile": 0.3}, **shape)
    for mine, theirs in zip(own.gradients, stock.gradients, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(
    "objective",
    [
        *("entropy_bonus", "target_entropy", "entropy_advantage", "high_entropy_mask", "steer"),
        {"type": "clip_cov", "share": 1.0, "covariance_min": 0.01},
        {"type": "lp_reg", "share": 0.9},
    ],
    ids=str,
)
def test_accumulation_changes_nothing(objective: str, tmp_path: Path) -> None:
    shapes = [(8, 1), (4, 2), (2, 4)]
    runs = [
        ours(
            tmp_path,
            objective,
            max_steps=1,
            per_device_train_batch_size=size,
            gradient_accumulation_steps=steps,
        )
        for size, steps in shapes
    ]
    for run in runs[1:]:
        torch.testing.assert_close(run.gradients[0], runs[0].gradients[0], atol=1e-5, rtol=1e-4)


def test_there_is_one_forward_pass_per_micro_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    scoring = GRPOTrainer._get_per_token_logps_and_entropies

    def counted(self: Any, *args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        return scoring(self, *args, **kwargs)

    monkeypatch.setattr(GRPOTrainer, "_get_per_token_logps_and_entropies", counted)
    ours(tmp_path, "target_entropy")
    assert len(calls) == 4  # two steps of two micro-batches
    calls.clear()
    ours(tmp_path, "steer")
    assert len(calls) == 4 + 2  # plus one pass over each rollout for its statistics
    calls.clear()
    ours(tmp_path, "steer", per_device_train_batch_size=8, gradient_accumulation_steps=1)
    assert len(calls) == 2  # the micro-batch is the rollout
    calls.clear()
    ours(tmp_path, "canon", **REUSE)
    assert len(calls) == 8 + 2  # plus TRL's pass over each rollout


def test_the_controller_drives_the_coefficient(tmp_path: Path) -> None:
    controller = ControllerConfig(entropy_target=9.0, proportional=0.01, integral=0.0, limit=1.0)
    run = ours(tmp_path, "target_entropy", controller=controller, max_steps=3)
    entropies = [row["step_entropy"] for row in run.logs]
    assert run.logs[0]["controller/output"] == pytest.approx(0.01 * (9 - entropies[0]))
    assert run.trainer.objectives.members["target_entropy"].controller_output > 0.04
    assert run.logs[1]["objective/entropy_coef"] == pytest.approx(
        run.logs[0]["controller/output"]
        - 0.001  # the entropy is above the target of target_entropy
    )


def test_the_controller_drives_the_clip_range(tmp_path: Path) -> None:
    controller = ControllerConfig(
        entropy_target=9.0, actuator=Actuator.CLIP_HIGH, proportional=0.05, limit=0.15
    )
    run = ours(tmp_path, controller=controller, **REUSE)
    assert run.trainer.epsilon_high == pytest.approx(0.2 + run.logs[-1]["controller/output"])
    assert run.logs[-1]["controller/output"] > 0.1


def test_the_controller_drives_the_temperature(tmp_path: Path) -> None:
    controller = ControllerConfig(
        entropy_target=9.0, actuator=Actuator.TEMPERATURE, proportional=0.1, limit=0.4
    )
    run = ours(tmp_path, controller=controller)
    assert [row["sampling/temperature"] for row in run.logs] == pytest.approx(
        [1.0, 1.0 + run.logs[0]["controller/output"]]
    )


def test_the_controller_holds_the_entropy_that_plain_training_loses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reward favors some letters, so plain training lowers the entropy."""

    def letters(completions: list[str], **columns: Any) -> list[float]:
        return [sum(letter in "abcdefghijklm" for letter in text) / 8 for text in completions]

    monkeypatch.setattr(tiny, "reward", letters)
    settings = {"max_steps": 60, "learning_rate": 3e-3, "per_device_train_batch_size": 16}
    settings |= {"gradient_accumulation_steps": 1, "num_generations": 8}
    controller = ControllerConfig(
        entropy_target=2.5, proportional=0.4, integral=0.02, limit=0.5, smoothing=0.0
    )
    target = {"type": "target_entropy", "entropy_target": 2.5, "entropy_coef": 0.0}
    plain = ours(tmp_path, **settings)
    held = ours(tmp_path, target, controller=controller, **settings)

    def late(run: Steps, key: str) -> float:
        return float(sum(row[key] for row in run.logs[30:]) / 30)

    assert plain.logs[0]["step_entropy"] > 4
    assert late(plain, "step_entropy") < 0.5
    assert late(held, "step_entropy") == pytest.approx(2.5, rel=0.15)
    assert min(late(plain, "reward"), late(held, "reward")) > 0.7


def test_recorded_logprobs_give_weights_of_mean_one_and_change_the_gradient(
    tmp_path: Path,
) -> None:
    """The weights of a hotter rollout average to 1; without them, the gradient differs."""
    law = {"law": FixedLaw(temperature=1.3), "max_steps": 1, "num_generations": 64}
    law |= {"per_device_train_batch_size": 256, "gradient_accumulation_steps": 1}
    law |= {"max_completion_length": 16}
    corrected = ours(tmp_path, importance_cap=100.0, **law)
    assert corrected.logs[0]["sampling/behavior_ratio"] == pytest.approx(1.0, abs=0.02)
    naive = ours(tmp_path, importance_cap=None, **law)
    gap = (corrected.gradients[0] - naive.gradients[0]).norm()
    assert gap > 0.1 * corrected.gradients[0].norm()


def test_a_resumed_run_continues_from_the_checkpoint(tmp_path: Path) -> None:
    names = ("steer", {"type": "target_entropy", "entropy_coef": 0.05}, "hapo_like")[:2]
    controller = ControllerConfig(entropy_target=3.0, proportional=0.1, limit=1.0)
    settings = {"save_strategy": "steps", "save_steps": 2, "max_steps": 4}
    whole = ours(tmp_path, *names, controller=controller, **settings)
    resumed = EntropyGRPOTrainer(
        tiny.model(1),
        tiny.reward,
        tiny.settings(tmp_path, **settings),
        processing_class=tiny.tokenizer(),
        train_dataset=tiny.dataset(),
        objectives=objectives(*names),
        controller=controller,
    )
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    logs = [row for row in resumed.state.log_history if "grad_norm" in row][2:]
    for mine, theirs in zip(logs, whole.logs[2:], strict=True):
        for key in ("loss", "grad_norm", "reward", "entropy", "controller/output", "covariance"):
            assert mine[key] == theirs[key], key


def test_a_checkpoint_of_other_objectives_is_refused(tmp_path: Path) -> None:
    ours(tmp_path, "steer", save_strategy="steps", save_steps=1, max_steps=1)
    other = EntropyGRPOTrainer(
        tiny.model(),
        tiny.reward,
        tiny.settings(tmp_path),
        processing_class=tiny.tokenizer(),
        train_dataset=tiny.dataset(),
    )
    with pytest.raises(ValueError, match="written with objectives"):
        other.train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))


def test_the_state_of_objectives_is_json_serializable(tmp_path: Path) -> None:
    run = ours(tmp_path, "hapo", "epo")
    state = run.trainer.entropy_state()
    fresh = Objectives(objectives("hapo", "epo"))
    fresh.load_state_dict(state["objectives"])
    assert fresh.state_dict() == state["objectives"]


def test_aepo_replaces_samples_with_rewarded_ones_of_another_temperature(
    plain: Steps, tmp_path: Path
) -> None:
    aepo = {"type": "aepo", "share_prompts": 1.0, "temperature_high": 1.5}
    own = ours(tmp_path, aepo)
    assert own.logs[0]["objective/aepo_replaced"] > 0
    # The surprisal starts at 0, below every target; the first step measures one above it.
    assert [row["objective/aepo_temperature"] for row in own.logs] == [1.5, 0.8]
    assert own.logs[0]["reward"] == plain.logs[0]["reward"]
    assert (own.gradients[0] - plain.gradients[0]).abs().max() > 1e-4


def test_only_the_new_tokens_of_forked_completions_are_trained_on(tmp_path: Path) -> None:
    seen: list[dict[str, Any]] = []

    class Watching(EntropyGRPOTrainer):
        def _generate_and_score_completions(self, inputs: Any) -> Any:
            seen.append(super()._generate_and_score_completions(inputs))
            return seen[-1]

        def _token_texts(self, tokens: list[int]) -> list[str]:
            return ["word"] * len(tokens)

    run = Steps(Watching, tmp_path, {"max_steps": 1}, branch=BranchConfig(roots=1))
    (batch,) = seen
    budget = (batch["completion_mask"] * batch["tool_mask"]).sum(-1)
    assert budget.max() == 8  # a forked completion has a new budget
    ids, new = batch["completion_ids"].view(2, 4, -1), batch["tool_mask"].view(2, 4, -1).bool()
    assert new[:, 0].all()
    for group, marks in zip(ids, new, strict=True):
        for row, mark in zip(group[1:], marks[1:], strict=True):
            taken = int((~mark).sum())
            assert taken == int((~marks[1]).sum())  # one fork point per root
            assert taken >= 1
            assert row[:taken].tolist() == group[0][:taken].tolist()
    kept = (batch["completion_mask"] * batch["tool_mask"]).sum()
    assert batch["num_items_in_batch"] == kept
    assert run.gradients[0].abs().max() > 0


def test_scoring_with_full_logits_gives_the_same_gradient(plain: Steps, tmp_path: Path) -> None:
    own = ours(tmp_path, {"type": "siren", "entropy_coef": 0.0})
    for mine, theirs in zip(own.gradients, plain.gradients, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-4)
