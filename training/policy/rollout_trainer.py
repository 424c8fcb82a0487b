"""TRL's trainer with a rollout source, measurements of the rollout, and shaped advantages."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import LogitsProcessorList

from probes.laws import HapoStatistics, TemperatureLaw
from training.objectives.compose import Objectives
from training.objectives.core.batch import MicroBatch, RolloutBatch
from training.objectives.core.controller import Actuator, EntropyController
from training.objectives.core.distributed import Ranks
from training.objectives.core.requirements import RequiredTensor
from training.objectives.groups.arbitrary_entropy import Aepo
from training.objectives.hapo import HapoObjective
from training.policy.grading import final_text
from training.policy.loss import ROLLOUT_LOGITS, ScoredTokens, ratio_limits, score_logits
from training.policy.rollouts.branch import BranchSource, replace_samples
from training.policy.rollouts.law import LawSource
from training.policy.rollouts.sampler import Sampler
from training.policy.rollouts.served import ServedPolicy, ServedSource
from training.policy.rollouts.settings import BranchConfig, ServedConfig
from training.policy.rollouts.source import RolloutSource
from training.policy.text_features import CompletionTexts, TextFeatureReader
from training.policy.trl_import import GRPOTrainer

_OLD_POLICY = frozenset({RequiredTensor.OLD_LOGPROBS, RequiredTensor.OLD_ENTROPY}) | ROLLOUT_LOGITS
_READ = frozenset(
    {
        RequiredTensor.CORRECT,
        RequiredTensor.ANSWERS,
        RequiredTensor.STEPS,
        RequiredTensor.PLANNING,
        RequiredTensor.PHASES,
        RequiredTensor.BELIEFS,
    }
)
STATISTICS = "statistics/"
"""Prefix of the columns of a batch that hold an objective's statistics of the rollout."""
Grader = Callable[[Mapping[str, Any], str], bool]
"""Maps a row of the data set and an answer to whether the answer is right."""


class GradedTexts(NamedTuple):
    """Texts and rewards of a generation batch, kept until the objectives shape the advantages."""

    rows: list[dict[str, Any]]
    texts: list[str]
    rewards: Tensor
    """(N of all processes,); NaN where no reward function returned a score."""


class RolloutTrainer(GRPOTrainer):
    """TRL's trainer with measured rollouts; `EntropyGRPOTrainer` builds it."""

    objectives: Objectives
    controller: EntropyController | None
    epsilon_low: Any
    epsilon_high: Any
    _ranks: Ranks
    _own_rollouts = False
    """Whether `rollout_func` draws the completions."""
    _source: RolloutSource | None = None
    """Source of the completions; None uses TRL's generation."""
    _served_step = -1
    """Optimizer step of the adapter that is loaded on the server."""
    _reader: TextFeatureReader
    _generated: GradedTexts | None = None
    _old: tuple[Tensor, Tensor] | None = None
    """Log-probabilities and entropies under the sampling policy."""
    _loss_mask: list[list[int]] | None = None
    """1 at the trained tokens of the current rollout."""
    _awaits_old = False
    """Whether the next scoring pass is TRL's pass over the rollouts."""

    @property
    def _corrects_sampling(self) -> bool:
        """Whether some tokens are drawn from a distribution other than the trained policy."""
        drawn = self._source is not None and self._source.is_off_policy
        given = self._own_rollouts and not self._trl_corrects_sampling
        return drawn or given or "aepo" in self.objectives.members

    @property
    def _trl_corrects_sampling(self) -> bool:
        """Whether TRL applies importance weights for the sampling log-probabilities."""
        return bool(self.use_vllm and self.vllm_importance_sampling_correction)

    def _is_actuator(self, actuator: Actuator) -> bool:
        return self.controller is not None and self.controller.config.actuator is actuator

    def _build_source(
        self, law: TemperatureLaw | None, branch: BranchConfig | None, served: ServedConfig | None
    ) -> RolloutSource | None:
        """Build the rollout source; at most one of the settings is given."""
        if served is not None:
            policy = ServedPolicy(served, Path(self.args.output_dir) / "served")
            policy.connect()
            limits = {"max_tokens": self.max_completion_length, "temperature": self.temperature}
            return ServedSource(policy, self._publish_adapter, **limits)
        if branch is not None:
            size = self.num_generations
            return BranchSource(branch, self.temperature, size, self._token_texts)
        if law is None and not self._is_actuator(Actuator.TEMPERATURE):
            return None
        return LawSource(
            law, self.temperature, shift=self._temperature_shift, statistics=self._hapo_statistics
        )

    def _temperature_shift(self) -> float:
        drives = self.controller is not None and self._is_actuator(Actuator.TEMPERATURE)
        return self.controller.output if drives and self.controller is not None else 0.0

    def _hapo_statistics(self) -> HapoStatistics | None:
        hapo = self.objectives.members.get("hapo")
        return hapo.statistics if isinstance(hapo, HapoObjective) else None

    def _publish_adapter(self, served: ServedPolicy) -> int:
        """Publish the adapter on the server if the policy has changed; returns its step."""
        step = int(self.state.global_step)
        if step != self._served_step:
            state = self.accelerator.get_state_dict(self.model)
            if self.accelerator.is_main_process:
                served.publish(self.accelerator.unwrap_model(self.model), state, step)
            self._served_step = step
        self.accelerator.wait_for_everyone()
        return step

    def _generate_single_turn(
        self, prompt_ids: list[list[int]], images: Any, *args: Any, **kwargs: Any
    ) -> tuple[list[list[int]], Any]:
        """Generate with TRL, or with the rollout source in training."""
        plain = super()._generate_single_turn
        self._loss_mask = None
        if self._source is None or not self.model.training:
            result: tuple[list[list[int]], Any] = plain(prompt_ids, images, *args, **kwargs)
            return result

        def generate(prompts: list[list[int]], sampler: Sampler | None = None) -> list[list[int]]:
            with _use_sampler(self.accelerator.unwrap_model(self.model_wrapped), sampler):
                completions: list[list[int]] = plain(prompts, images, *args, **kwargs)[0]
            return completions

        drawn = self._source.draw(prompt_ids, generate)
        self._loss_mask = drawn.loss_mask
        if drawn.temperature is not None:
            self._metrics["train"]["sampling/temperature"].append(drawn.temperature)
        return drawn.token_ids, drawn.logprobs

    def _token_texts(self, tokens: list[int]) -> list[str]:
        texts: list[str] = self._tokenizer.batch_decode(
            [[token] for token in tokens], skip_special_tokens=True
        )
        return texts

    def _generate(self, prompts: list[Any]) -> Any:
        """Generate with TRL and apply the loss mask of the rollout source."""
        result = list(super()._generate(prompts))
        if self._loss_mask is not None:
            result[2], self._loss_mask = self._loss_mask, None
        return tuple(result)

    def _calculate_rewards(
        self, inputs: Any, prompts: Any, completions: Any, completion_ids_list: Any
    ) -> Tensor:
        """Calculate rewards with TRL and keep texts and rewards for the objectives."""
        rewards: Tensor = super()._calculate_rewards(
            inputs, prompts, completions, completion_ids_list
        )
        total = (rewards * self.reward_weights.to(rewards)).nansum(1)
        total[rewards.isnan().all(1)] = torch.nan
        texts = [final_text(completion) for completion in completions]
        self._generated = GradedTexts([*inputs], texts, total)
        return rewards

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        """Generate and score with TRL, then let objectives shape rewards and advantages."""
        training = self.model.training
        self._old, self._awaits_old = None, training and self._scores_old_policy
        output: dict[str, Any] = super()._generate_and_score_completions(inputs)
        self._awaits_old = False
        if not training:
            return output
        measured = self._measure(output)
        if self.objectives.acts_on_groups:
            output["advantages"] = self._shape_advantages(output, measured)
        aepo = self.objectives.members.get("aepo")
        if isinstance(aepo, Aepo):
            return self._add_extra_samples(aepo, inputs, output)
        passed_on = {need: values for need, values in measured.items() if need in ROLLOUT_LOGITS}
        statistics = self._statistics(output, measured)
        return output | {str(need): values for need, values in passed_on.items()} | statistics

    def _statistics(
        self, output: Mapping[str, Any], measured: Mapping[RequiredTensor, Tensor]
    ) -> dict[str, Tensor]:
        """Statistics of the objectives over the rollout batch, one row per sequence."""
        if not self.objectives.shares_statistics:
            return {}
        tokens = MicroBatch(
            logprobs=measured[RequiredTensor.OLD_LOGPROBS],
            entropy=measured[RequiredTensor.OLD_ENTROPY],
            old_logprobs=measured[RequiredTensor.OLD_LOGPROBS],
            mask=(output["completion_mask"] * output.get("tool_mask", 1)).bool(),
            ranks=self._ranks,
        )
        limits = ratio_limits(self.loss_type, self.epsilon_low, self.epsilon_high)
        found = self.objectives.rollout_statistics(tokens, output["advantages"], *limits)
        return {f"{STATISTICS}{name}": values for name, values in found.items()}

    def _add_extra_samples(
        self, aepo: Aepo, inputs: list[dict[str, Any]], output: dict[str, Any]
    ) -> dict[str, Any]:
        """Replace some sequences with rewarded ones drawn at another temperature."""
        size = self.num_generations
        count = aepo.num_prompts(len(inputs) // size) * size
        # TRL logs metrics of every rollout; those of the extra rollouts are discarded.
        kept_metrics = {name: [*values] for name, values in self._metrics["train"].items()}
        shift = aepo.temperature - self.temperature
        self._source = LawSource(None, self.temperature, shift=lambda: shift)
        try:
            extra = super()._generate_and_score_completions(inputs[:count])
        finally:
            self._source = None
            self._metrics["train"].clear()
            self._metrics["train"].update(kept_metrics)
        kept = aepo.select_extra(extra["advantages"], len(inputs))
        self._metrics["train"]["objective/aepo_replaced"].append(len(kept))
        self._metrics["train"]["objective/aepo_temperature"].append(aepo.temperature)
        result = replace_samples(output, extra, kept, self._tokenizer.pad_token_id)
        mask = result["completion_mask"] * result.get("tool_mask", 1)
        result["num_items_in_batch"] = self.accelerator.gather(mask.sum()).sum()
        return result

    @property
    def _scores_old_policy(self) -> bool:
        """Whether TRL scores rollouts under the sampling policy."""
        every = self.args.steps_per_generation * self.num_iterations
        return self.args.gradient_accumulation_steps % every != 0 or self._trl_corrects_sampling

    def _measure(self, output: Mapping[str, Any]) -> dict[RequiredTensor, Tensor]:
        """Measure the required tensors for the completions of this process."""
        needs = self.objectives.needs
        ids = output["completion_ids"]
        mask = (output["completion_mask"] * output.get("tool_mask", 1)).bool()
        measured: dict[RequiredTensor, Tensor] = {}
        if needs & _OLD_POLICY:
            measured |= self._score_old_policy(output, needs & ROLLOUT_LOGITS)
        assert self._generated is not None
        agent = "tool_mask" in output and not isinstance(self._source, BranchSource)
        answers = CompletionTexts(
            self._generated.rows, self._generated.texts, ids, mask, is_agent=agent
        )
        for need in needs & _READ:
            measured[need] = self._reader.read(need, answers).to(ids.device)
        return measured

    @torch.no_grad()
    def _score_old_policy(
        self, output: Mapping[str, Any], logits: frozenset[RequiredTensor]
    ) -> dict[RequiredTensor, Tensor]:
        """Score the completions under the sampling policy, unless TRL already did."""
        ids = torch.cat([output["prompt_ids"], output["completion_ids"]], 1)
        attention = torch.cat([output["prompt_mask"], output["completion_mask"]], 1)
        keep, size = output["completion_ids"].shape[1], self.args.per_device_train_batch_size
        if logits:
            parts = [
                self._score_with_logits(self.model, one, other, keep, logits)
                for one, other in zip(
                    torch.split(ids, size), torch.split(attention, size), strict=True
                )
            ]
            measured = {need: torch.cat([part.measured[need] for part in parts]) for need in logits}
            logprobs = torch.cat([part.logprobs for part in parts])
            entropy = torch.cat([part.entropy for part in parts])
            return {
                RequiredTensor.OLD_LOGPROBS: logprobs,
                RequiredTensor.OLD_ENTROPY: entropy,
                **measured,
            }
        if self._old is None:
            logprobs, entropy, _ = super()._get_per_token_logps_and_entropies(
                self.model, ids, attention, keep, batch_size=size, compute_entropy=True
            )
            self._old = logprobs, entropy
        return {RequiredTensor.OLD_LOGPROBS: self._old[0], RequiredTensor.OLD_ENTROPY: self._old[1]}

    def _score_with_logits(
        self,
        model: Any,
        ids: Tensor,
        attention: Tensor,
        keep: int,
        wanted: frozenset[RequiredTensor],
    ) -> ScoredTokens:
        """Score completions with a forward pass that keeps the logits, (B, T, vocab), in memory."""
        router = {"output_router_logits": True} if self.aux_loss_enabled else {}
        with self.accelerator.autocast():
            output = model(
                input_ids=ids,
                attention_mask=attention,
                logits_to_keep=keep + 1,
                use_cache=False,
                **router,
            )
        logits = output.logits[:, :-1].float() / self.temperature
        scored = score_logits(logits, ids[:, -keep:], self.objectives, wanted)
        return scored._replace(aux_loss=output.aux_loss if router else None)

    def _shape_advantages(
        self, output: Mapping[str, Any], measured: Mapping[RequiredTensor, Tensor]
    ) -> Tensor:
        """Shape the advantages of all processes and return those of this process."""
        assert self._generated is not None
        mask = output["completion_mask"] * output.get("tool_mask", 1)
        advantages = output["advantages"]
        if advantages.dim() == 1:
            advantages = advantages[:, None].expand(mask.shape)
        rollout = RolloutBatch(
            rewards=self._generated.rewards,
            advantages=self._gather_rows(advantages),
            mask=self._gather_rows(mask).bool(),
            num_generations=self.num_generations,
            scale_rewards=self.scale_rewards,
            measured={need: self._gather_rows(values) for need, values in measured.items()},
        )
        shaped = self.objectives.shape(rollout)
        if shaped.rewards is not rollout.rewards:
            self._metrics["train"]["reward_shaped"].append(shaped.rewards.nanmean().item())
        start = self.accelerator.process_index * len(mask)
        return shaped.advantages[start : start + len(mask), : mask.shape[1]].to(torch.float32)

    def _gather_rows(self, values: Tensor) -> Tensor:
        """Gather the rows of all processes, padded to the longest completion."""
        if values.dim() > 1:
            values = self.accelerator.pad_across_processes(values.contiguous(), dim=1)
        gathered: Tensor = self.accelerator.gather(values.contiguous())
        return gathered


@contextmanager
def _use_sampler(model: Any, sampler: Sampler | None) -> Iterator[None]:
    """Pass a sampler to every `generate` call of the model while the block runs."""
    if sampler is None:
        yield
        return
    plain = model.generate

    def generate(*args: Any, **kwargs: Any) -> Any:
        return plain(*args, logits_processor=LogitsProcessorList([sampler]), **kwargs)

    model.generate = generate
    try:
        yield
    finally:
        del model.generate
