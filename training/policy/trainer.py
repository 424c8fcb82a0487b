"""GRPO with entropy objectives, on TRL's trainer.

TRL has no hook for a loss per token, and a copy of its loss would diverge from later versions.
Therefore, TRL's own `_compute_loss` runs on advantages and clip ranges that the objectives have
modified, which covers weights, masks and shaped advantages. Other loss terms are added to its
result. The objectives run after TRL has scored a micro-batch and before it reads the advantages, so
there is one forward pass per micro-batch.
"""

import json
import math
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from probes.laws import TemperatureLaw
from training.objectives.catalog import ObjectiveConfig
from training.objectives.compose import Objectives
from training.objectives.configs import PlainConfig
from training.objectives.core.batch import LossPlan, MicroBatch
from training.objectives.core.controller import Actuator, ControllerConfig, EntropyController
from training.objectives.core.requirements import RequiredTensor
from training.policy.distributed import ranks_of
from training.policy.loss import (
    ROLLOUT_LOGITS,
    TRAINING_LOGITS,
    importance_weight,
    policy_mean,
    ratio_limits,
)
from training.policy.rollout_trainer import STATISTICS, Grader, RolloutTrainer
from training.policy.rollouts.settings import BranchConfig, ServedConfig
from training.policy.run_folder import STATE_FILE
from training.policy.text_features import TextFeatureReader
from training.policy.trl_import import GRPOConfig
from training.policy.validation import CLIPPED, TrlSettings, refuse_settings, warnings_for


class _Loss:
    """State of the loss computation of the current micro-batch."""

    def __init__(self, inputs: Mapping[str, Any]) -> None:
        self.inputs = dict(inputs)
        self.plan: LossPlan | None = None
        mask = self.inputs["completion_mask"]
        self.mask = (mask * self.inputs.get("tool_mask", 1)).bool()


class EntropyGRPOTrainer(RolloutTrainer):
    """TRL's GRPO trainer with entropy objectives, a controller and custom rollouts."""

    def __init__(
        self,
        model: Any,
        reward_funcs: Any,
        args: GRPOConfig,
        *,
        objectives: Sequence[ObjectiveConfig] = (PlainConfig(),),
        controller: ControllerConfig | None = None,
        law: TemperatureLaw | None = None,
        branch: BranchConfig | None = None,
        served: ServedConfig | None = None,
        importance_cap: float | None = 3.0,
        grader: Grader | None = None,
        **kwargs: Any,
    ) -> None:
        """Build the trainer.

        Args:
            model: As for `GRPOTrainer`.
            reward_funcs: As for `GRPOTrainer`.
            args: As for `GRPOTrainer`.
            objectives: Objectives that change rewards, advantages and loss, applied in this order.
            controller: Holds the entropy at a target; None disables it.
            law: Sets the temperature of each token of a rollout; None uses `args.temperature`.
            branch: Forks completions at tokens of high entropy; None disables forks.
            served: A running server that draws the rollouts of a LoRA adapter; None draws them in
                this process.
            importance_cap: Largest importance weight that corrects for controlled sampling; None
                disables the correction, which biases the gradient.
            grader: Maps a data set row and a text to whether the answer is right, for objectives
                that need it.
            **kwargs: As for `GRPOTrainer`.

        Raises:
            ValueError: An objective cannot act under these settings.
        """
        settings = trl_settings(args)._replace(
            served=served is not None,
            own_rollouts=kwargs.get("rollout_func") is not None,
            corrects=importance_cap is not None,
            uses_tools=bool(kwargs.get("tools") or kwargs.get("environment_factory")),
        )
        refuse_settings(objectives, settings, controller, law, branch)
        for sentence in warnings_for(objectives, settings):
            warnings.warn(sentence, stacklevel=2)
        self.objectives = Objectives(
            objectives,
            controller.actuator if controller else None,
            accumulates=settings.accumulates,
        )
        if "info_gain" in self.objectives.members:
            refuse_equal_beliefs(kwargs.get("train_dataset"))
        self.controller = EntropyController(controller) if controller else None
        if RequiredTensor.CORRECT in self.objectives.needs and grader is None:
            raise ValueError(
                f"{[*self.objectives.members]} need to know which answers are right: pass grader"
            )
        self._own_rollouts = settings.own_rollouts
        self._importance_cap = importance_cap
        self._loss: _Loss | None = None
        self._entropy_before: float | None = None
        super().__init__(model, reward_funcs, args, **kwargs)
        if self._is_vlm and self._scores_text_only:
            raise ValueError(
                f"{[*self.objectives.members]} need a second scoring pass, which does not support "
                "images: use a text model, or objectives without such a pass"
            )
        self._ranks = ranks_of(self.accelerator)
        self._reader = TextFeatureReader(self._tokenizer, grader)
        self._base_epsilon_high = self.epsilon_high
        self._source = self._build_source(law, branch, served)

    # The loss ---------------------------------------------------------------------------------

    def _get_per_token_logps_and_entropies(
        self,
        model: Any,
        input_ids: Tensor,
        attention_mask: Tensor,
        logits_to_keep: int,
        batch_size: int | None = None,
        compute_entropy: bool = False,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Score with TRL; in a training forward pass, the objectives then plan the loss."""
        loss = self._loss
        wanted = self.objectives.needs & TRAINING_LOGITS
        if loss is not None and wanted:
            scored = self._score_with_logits(
                model, input_ids, attention_mask, logits_to_keep, wanted
            )
            self._plan(loss, scored.logprobs, scored.entropy, scored.measured)
            return scored.logprobs, scored.entropy, scored.aux_loss
        awaits_old, self._awaits_old = self._awaits_old, False
        result: tuple[Tensor, Tensor | None, Tensor | None]
        result = super()._get_per_token_logps_and_entropies(
            model,
            input_ids,
            attention_mask,
            logits_to_keep,
            batch_size=batch_size,
            compute_entropy=compute_entropy or awaits_old,
            **kwargs,
        )
        logprobs, entropy, _ = result
        if awaits_old and entropy is not None:
            self._old = logprobs, entropy
        elif loss is not None and entropy is not None:
            self._plan(loss, logprobs, entropy, {})
        return result

    def _plan(
        self,
        loss: _Loss,
        logprobs: Tensor,
        entropy: Tensor,
        measured: Mapping[RequiredTensor, Tensor],
    ) -> None:
        """Let the objectives plan the loss, and write the plan to the inputs of TRL's loss."""
        inputs = loss.inputs
        old = inputs.get("old_per_token_logps")
        tokens = MicroBatch(
            logprobs=logprobs,
            entropy=entropy,
            old_logprobs=logprobs.detach() if old is None else old,
            mask=loss.mask,
            measured={n: inputs[n] for n in ROLLOUT_LOGITS if str(n) in inputs} | {**measured},
            statistics={
                key.removeprefix(STATISTICS): values
                for key, values in inputs.items()
                if key.startswith(STATISTICS)
            },
            ranks=self._ranks,
        )
        plan = self.objectives.plan(
            tokens,
            inputs["advantages"],
            *ratio_limits(self.loss_type, self.epsilon_low, self.epsilon_high),
        )
        weight = self.importance_weights(tokens, inputs)
        if weight is not None:
            plan = plan.with_weight(weight)
        if weight is not None or self.objectives.acts_on_tokens:
            inputs["advantages"] = (plan.advantages * plan.weight).detach()
            if self.loss_type in CLIPPED:
                # `torch.clamp` requires two numbers or two tensors.
                low, high = plan.epsilon_low, plan.epsilon_high
                if isinstance(low, Tensor) or isinstance(high, Tensor):
                    low, high = (torch.as_tensor(limit).to(logprobs) for limit in (low, high))
                self.epsilon_low, self.epsilon_high = low, high
        loss.plan = plan

    def importance_weights(self, tokens: MicroBatch, inputs: Mapping[str, Any]) -> Tensor | None:
        """Importance weights for controlled sampling; None if sampling was not controlled."""
        behavior = inputs.get("sampling_per_token_logps")
        if behavior is None or not self._corrects_sampling or self._importance_cap is None:
            return None
        raw = importance_weight(tokens.old_logprobs, behavior, tokens.mask, float("inf"))
        self._metrics["train"]["sampling/behavior_ratio"].append(raw[tokens.mask].mean().item())
        return raw.clamp_max(self._importance_cap)

    def _compute_loss(self, model: Any, inputs: Mapping[str, Any]) -> Tensor:
        """Compute TRL's loss with the plan of the objectives, plus the additional terms."""
        if not self.model.training:
            plain: Tensor = super()._compute_loss(model, inputs)
            return plain
        loss = self._loss = _Loss(inputs)
        limits = self.epsilon_low, self.epsilon_high
        try:
            value: Tensor = super()._compute_loss(model, loss.inputs)
        finally:
            self._loss = None
            self.epsilon_low, self.epsilon_high = limits
        assert loss.plan is not None
        for name, number in loss.plan.metrics.items():
            self._metrics["train"][f"objective/{name}"].append(number.item())
        return self._add_terms(value, loss, loss.plan)

    def _add_terms(self, value: Tensor, loss: _Loss, plan: LossPlan) -> Tensor:
        """Add the loss terms other than the policy gradient."""
        steps = self.current_gradient_accumulation_steps
        share = steps / self.args.steps_per_generation
        # Tokens of an optimizer step per process: exact if a rollout serves one step, otherwise the
        # average over the rollout.
        items = float(loss.inputs["num_items_in_batch"]) / self.accelerator.num_processes * share
        items = max(items, 1.0)
        if plan.policy_terms is not None:
            mean = policy_mean(
                plan.policy_terms,
                loss.mask,
                loss_type=self.loss_type,
                num_items=items / steps,
                max_length=self.max_completion_length,
            )
            value = value + mean / steps
        if plan.mean_terms is not None:
            value = value + plan.mean_terms.masked_fill(~loss.mask, 0.0).sum() / items
        if plan.scalar is not None:
            value = value + plan.scalar / steps
        return value

    @property
    def _scores_text_only(self) -> bool:
        """Whether there is an additional scoring pass, which supports token ids only."""
        needs = self.objectives.needs
        if needs & (ROLLOUT_LOGITS | TRAINING_LOGITS):
            return True
        old = {RequiredTensor.OLD_LOGPROBS, RequiredTensor.OLD_ENTROPY}
        return bool(needs & old) and not self._scores_old_policy

    # Optimizer steps and checkpoints ------------------------------------------------------------

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
        """Run TRL's step; after the last micro-batch, update objectives and controller."""
        self.objectives.set_total_steps(self.state.max_steps)
        loss: Tensor = super().training_step(model, inputs, num_items_in_batch)
        if self.accelerator.sync_gradients:
            self._end_step()
        return loss

    def _end_step(self) -> None:
        step = self.objectives.end_step(self._ranks)
        measured = {"covariance": step.covariance, "predicted_change": -step.predicted_change}
        measured["step_entropy"] = step.entropy
        if self._entropy_before is not None:
            measured["entropy_change"] = step.entropy - self._entropy_before
        if step.num_tokens:
            self._entropy_before = step.entropy
        if self.controller is not None:
            output = self.controller.update(step.entropy)
            self.objectives.set_controller_output(output)
            if self._is_actuator(Actuator.CLIP_HIGH):
                self.epsilon_high = self._base_epsilon_high + output
            measured |= {"controller/output": output}
            measured |= {"controller/entropy": self.controller.average or 0.0}
        for name, value in measured.items():
            if math.isfinite(value):  # a step without tokens measures nothing
                self._metrics["train"][name].append(value)

    def entropy_state(self) -> dict[str, Any]:
        """State of objectives and controller for a checkpoint, JSON-serializable."""
        return {
            "objectives": self.objectives.state_dict(),
            "controller": self.controller.state_dict() if self.controller else None,
            "entropy": self._entropy_before,
        }

    def load_entropy_state(self, state: Mapping[str, Any]) -> None:
        """Load what `entropy_state` returned.

        Raises:
            ValueError: The state belongs to a run with other objectives, or only one of both has a
                controller.
        """
        if (state["controller"] is None) != (self.controller is None):
            raise ValueError("only one of the checkpoint and the run has a controller")
        self.objectives.load_state_dict(state["objectives"])
        self._entropy_before = state["entropy"]
        if self.controller is not None:
            self.controller.load_state_dict(state["controller"])
            self.objectives.set_controller_output(self.controller.output)
            if self._is_actuator(Actuator.CLIP_HIGH):
                self.epsilon_high = self._base_epsilon_high + self.controller.output

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        if self.args.should_save:
            folder = (
                Path(self._get_output_dir(trial=trial)) / f"checkpoint-{self.state.global_step}"
            )
            staging = folder / f".{STATE_FILE}"
            staging.write_text(json.dumps(self.entropy_state(), indent=2))
            os.replace(staging, folder / STATE_FILE)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None:
            path = Path(checkpoint) / STATE_FILE
            try:
                self.load_entropy_state(json.loads(path.read_text()))
            except (KeyError, TypeError) as error:
                raise ValueError(f"{path} is not the state of a run: {error!r}") from error


def refuse_equal_beliefs(dataset: Any) -> None:
    """Refuse a data set with `beliefs`, which would be equal for all completions of a prompt.

    Raises:
        ValueError: The data set has this column.
    """
    if "beliefs" in (getattr(dataset, "column_names", None) or ()):
        raise ValueError(
            '"info_gain" compares completions of a group, but a row of the data set has the same '
            "beliefs for all of them: return `beliefs` of each completion from rollout_func instead"
        )


def trl_settings(args: GRPOConfig) -> TrlSettings:
    """Extract the settings that decide which objectives are supported from TRL's config."""
    every = args.steps_per_generation * args.num_iterations
    plain = args.top_p == 1.0 and not args.top_k and args.min_p is None
    return TrlSettings(
        loss_type=args.loss_type,
        importance_sampling_level=args.importance_sampling_level,
        delta=args.delta,
        epsilon_high=args.epsilon if args.epsilon_high is None else args.epsilon_high,
        has_epsilon_high=args.epsilon_high is not None,
        scale_rewards=args.scale_rewards,
        accumulates=args.gradient_accumulation_steps > 1,
        step_sequences=args.per_device_train_batch_size
        * args.gradient_accumulation_steps
        * args.world_size,
        reuses_rollouts=args.gradient_accumulation_steps % every != 0,
        own_entropy_term=args.entropy_coef != 0.0 or args.use_adaptive_entropy,
        top_entropy_quantile=args.top_entropy_quantile,
        normalizes_each_reward=args.multi_objective_aggregation == "normalize_then_sum",
        truncated_sampling=not plain or args.repetition_penalty != 1.0,
        num_generations=args.num_generations,
        splits_groups=args.per_device_train_batch_size
        * args.steps_per_generation
        % args.num_generations
        != 0,
        samples_itself=not (args.use_vllm or args.use_transformers_continuous_batching),
    )
