"""The half of the trainer that sees a generation batch with its groups together.

Completions are drawn, perhaps at controlled temperatures; what objectives need to know about them
is measured; rewards and advantages are shaped.
"""

import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import LogitsProcessorList

from probes.laws import HapoLaw, TemperatureLaw
from training.objectives.batch import MicroBatch, RolloutBatch
from training.objectives.compose import Objectives
from training.objectives.controller import Actuator, EntropyController
from training.objectives.distributed import Ranks
from training.objectives.groups.arbitrary_entropy import Aepo
from training.objectives.hapo import HapoObjective
from training.objectives.requirements import RequiredTensor
from training.policy.grading import final_text
from training.policy.loss import ROLLOUT_LOGITS, ScoredTokens, ratio_limits, score_logits
from training.policy.rollouts.branch import forks, is_root, with_replaced
from training.policy.rollouts.sampler import Sampler
from training.policy.rollouts.served import ServedPolicy
from training.policy.rollouts.settings import BranchConfig
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
"""A row of the data set and an answer to right or wrong."""


class GradedTexts(NamedTuple):
    """What a generation batch said, kept between TRL's rewards and our advantages."""

    rows: list[dict[str, Any]]
    texts: list[str]
    rewards: Tensor
    """(N of all processes,); NaN where no reward function scored."""


class RolloutTrainer(GRPOTrainer):
    """TRL's trainer with measured rollouts; `EntropyGRPOTrainer` builds it."""

    objectives: Objectives
    controller: EntropyController | None
    epsilon_low: Any
    epsilon_high: Any
    _ranks: Ranks
    _own_rollouts = False
    """Whether `rollout_func` draws."""
    _law: TemperatureLaw | None
    _served: ServedPolicy | None = None
    """The server that draws; None draws in this process."""
    _served_step = -1
    """Whose adapter it has."""
    _reader: TextFeatureReader
    _generated: GradedTexts | None = None
    _old: tuple[Tensor, Tensor] | None = None
    """Log-probabilities and entropies under the policy that sampled."""
    _branch: BranchConfig | None = None
    _branch_mask: list[list[int]] | None = None
    """1 at the new tokens of forked completions."""
    _extra_temperature: float | None = None
    """Of the extra rollouts that are being drawn."""
    _awaits_old = False
    """Whether the next scoring pass is TRL's own over the rollouts."""

    @property
    def samples_off_policy(self) -> bool:
        """Whether rollouts are drawn at another temperature than is trained at."""
        return self._law is not None or self._drives(Actuator.TEMPERATURE)

    @property
    def _corrects(self) -> bool:
        """Whether some tokens are drawn from another distribution than is trained."""
        elsewhere = self._served is not None or (self._own_rollouts and not self._trl_corrects)
        return elsewhere or self.samples_off_policy or "aepo" in self.objectives.members

    @property
    def _trl_corrects(self) -> bool:
        """Whether TRL itself weighs tokens by the log-probabilities they were drawn with."""
        return bool(self.use_vllm and self.vllm_importance_sampling_correction)

    def _drives(self, actuator: Actuator) -> bool:
        return self.controller is not None and self.controller.config.actuator is actuator

    def _generate_single_turn(
        self, prompt_ids: Any, images: Any, *args: Any, **kwargs: Any
    ) -> tuple[list[list[int]], Any]:
        """TRL's, with a sampler in the list of logits processors if temperatures are controlled."""
        self._branch_mask = None
        branches = self._branch is not None and self.model.training
        hot = self._extra_temperature is not None
        controlled = (self.samples_off_policy or hot) and self.model.training
        if self._served is not None and self.model.training:
            return self._generate_on_server(self._served, prompt_ids)
        if branches and self._branch is not None:
            return self._generate_branches(self._branch, prompt_ids, images, *args, **kwargs)
        if not controlled:
            plain: tuple[list[list[int]], Any]
            plain = super()._generate_single_turn(prompt_ids, images, *args, **kwargs)
            return plain
        sampler = self._sampler()
        completions = self._drawn(sampler, prompt_ids, images, *args, **kwargs)
        mean = torch.stack(sampler.temperatures).mean().item()
        self._metrics["train"]["sampling/temperature"].append(mean)
        return completions, sampler.logprobs(completions)

    def _generate_on_server(
        self, served: ServedPolicy, prompt_ids: list[list[int]]
    ) -> tuple[list[list[int]], list[list[float]]]:
        """Hand the adapter over if it is another one than last time, and let the server draw."""
        step = self.state.global_step
        if step != self._served_step:
            state = self.accelerator.get_state_dict(self.model)
            if self.accelerator.is_main_process:
                served.publish(self.accelerator.unwrap_model(self.model), state, step)
            self._served_step = step
        self.accelerator.wait_for_everyone()
        drawn = served.draw(
            prompt_ids,
            step=step,
            max_tokens=self.max_completion_length,
            temperature=self.temperature,
            seed=int(torch.randint(2**31, ())),
        )
        return [one.token_ids for one in drawn], [one.logprobs for one in drawn]

    def _drawn(self, sampler: Sampler, *args: Any, **kwargs: Any) -> list[list[int]]:
        """Completions drawn through a sampler."""
        with _drawing(self.accelerator.unwrap_model(self.model_wrapped), sampler):
            completions: list[list[int]]
            completions, _ = super()._generate_single_turn(*args, **kwargs)
        return completions

    def _generate_branches(
        self, config: BranchConfig, prompt_ids: list[list[int]], *args: Any, **kwargs: Any
    ) -> tuple[list[list[int]], Any]:
        """Draw the roots of every group, then the rest from where they fork off."""
        rows, size = range(len(prompt_ids)), self.num_generations
        roots = [row for row in rows if is_root(row, size, config.roots)]
        first = Sampler(None, self.temperature)
        drafts = self._drawn(first, [prompt_ids[row] for row in roots], *args, **kwargs)
        completions = dict(zip(roots, drafts, strict=True))
        texts = {row: self._token_texts(draft) for row, draft in completions.items()}
        entropies = dict(zip(roots, first.entropies(drafts), strict=True))
        chance = random.Random(int(torch.randint(2**31, ())))
        found = forks(entropies, texts, len(prompt_ids), size, config, chance)
        prefixes = {row: completions[fork.root][: fork.position] for row, fork in found.items()}
        starts = [[*prompt_ids[row], *prefix] for row, prefix in prefixes.items()]
        rest, _ = super()._generate_single_turn(starts, *args, **kwargs)
        for (row, prefix), more in zip(prefixes.items(), rest, strict=True):
            completions[row] = [*prefix, *more]
        self._branch_mask = [
            [
                int(position >= len(prefixes.get(row, [])))
                for position in range(len(completions[row]))
            ]
            for row in rows
        ]
        return [completions[row] for row in rows], None

    def _token_texts(self, tokens: list[int]) -> list[str]:
        texts: list[str] = self._tokenizer.batch_decode(
            [[token] for token in tokens], skip_special_tokens=True
        )
        return texts

    def _generate(self, prompts: list[Any]) -> Any:
        """TRL's; of forked completions, only what is new is trained on."""
        result = list(super()._generate(prompts))
        if self._branch_mask is not None:
            result[2], self._branch_mask = self._branch_mask, None
        return tuple(result)

    def _sampler(self) -> Sampler:
        hapo = self.objectives.members.get("hapo")
        statistics = hapo.statistics if isinstance(hapo, HapoObjective) else None
        shift = 0.0
        if self.controller is not None and self._drives(Actuator.TEMPERATURE):
            shift = self.controller.output
        if self._extra_temperature is not None:
            shift = self._extra_temperature - self.temperature
        law_statistics = statistics if isinstance(self._law, HapoLaw) else None
        return Sampler(self._law, self.temperature, shift, law_statistics)

    def _calculate_rewards(
        self, inputs: Any, prompts: Any, completions: Any, completion_ids_list: Any
    ) -> Tensor:
        """TRL's; what was said and scored is kept for the objectives."""
        rewards: Tensor = super()._calculate_rewards(
            inputs, prompts, completions, completion_ids_list
        )
        total = (rewards * self.reward_weights.to(rewards)).nansum(1)
        total[rewards.isnan().all(1)] = torch.nan
        texts = [final_text(completion) for completion in completions]
        self._generated = GradedTexts([*inputs], texts, total)
        return rewards

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        """TRL's, and then the objectives shape rewards and advantages of whole groups."""
        training = self.model.training
        self._old, self._awaits_old = None, training and self._scores_old_policy
        output: dict[str, Any] = super()._generate_and_score_completions(inputs)
        self._awaits_old = False
        if not training:
            return output
        measured = self._measure(output)
        if self.objectives.acts_on_groups:
            output["advantages"] = self._shaped(output, measured)
        aepo = self.objectives.members.get("aepo")
        if isinstance(aepo, Aepo):
            return self._with_extra(aepo, inputs, output)
        passed_on = {need: values for need, values in measured.items() if need in ROLLOUT_LOGITS}
        statistics = self._statistics(output, measured)
        return output | {str(need): values for need, values in passed_on.items()} | statistics

    def _statistics(
        self, output: Mapping[str, Any], measured: Mapping[RequiredTensor, Tensor]
    ) -> dict[str, Tensor]:
        """What objectives compute over the rollout batch of all processes, a row per sequence."""
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

    def _with_extra(
        self, aepo: Aepo, inputs: list[dict[str, Any]], output: dict[str, Any]
    ) -> dict[str, Any]:
        """Replace some sequences by rewarded ones that were drawn hotter or colder."""
        size = self.num_generations
        count = aepo.num_prompts(len(inputs) // size) * size
        # TRL logs every rollout; these are not the policy's own.
        kept_metrics = {name: [*values] for name, values in self._metrics["train"].items()}
        self._extra_temperature = aepo.temperature
        try:
            extra = super()._generate_and_score_completions(inputs[:count])
        finally:
            self._extra_temperature = None
            self._metrics["train"].clear()
            self._metrics["train"].update(kept_metrics)
        kept = aepo.kept(extra["advantages"], len(inputs))
        self._metrics["train"]["objective/aepo_replaced"].append(len(kept))
        self._metrics["train"]["objective/aepo_temperature"].append(aepo.temperature)
        result = with_replaced(output, extra, kept, self._tokenizer.pad_token_id)
        mask = result["completion_mask"] * result.get("tool_mask", 1)
        result["num_items_in_batch"] = self.accelerator.gather(mask.sum()).sum()
        return result

    @property
    def _scores_old_policy(self) -> bool:
        """Whether TRL itself scores rollouts under the policy that sampled them."""
        every = self.args.steps_per_generation * self.num_iterations
        return self.args.gradient_accumulation_steps % every != 0 or self._trl_corrects

    def _measure(self, output: Mapping[str, Any]) -> dict[RequiredTensor, Tensor]:
        """What the objectives need to know of this process's completions."""
        needs = self.objectives.needs
        ids = output["completion_ids"]
        mask = (output["completion_mask"] * output.get("tool_mask", 1)).bool()
        measured: dict[RequiredTensor, Tensor] = {}
        if needs & _OLD_POLICY:
            measured |= self._score_old_policy(output, needs & ROLLOUT_LOGITS)
        assert self._generated is not None
        agent = "tool_mask" in output and self._branch is None
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
        """Score the completions under the policy that sampled them, unless TRL just did."""
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
        """Score completions by a forward that keeps the logits, (B, T, vocab), in memory."""
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

    def _shaped(
        self, output: Mapping[str, Any], measured: Mapping[RequiredTensor, Tensor]
    ) -> Tensor:
        """Advantages of this process after the objectives have shaped those of all processes."""
        assert self._generated is not None
        mask = output["completion_mask"] * output.get("tool_mask", 1)
        advantages = output["advantages"]
        if advantages.dim() == 1:
            advantages = advantages[:, None].expand(mask.shape)
        rollout = RolloutBatch(
            rewards=self._generated.rewards,
            advantages=self._gathered(advantages),
            mask=self._gathered(mask).bool(),
            num_generations=self.num_generations,
            scale_rewards=self.scale_rewards,
            measured={need: self._gathered(values) for need, values in measured.items()},
        )
        shaped = self.objectives.shape(rollout)
        if shaped.rewards is not rollout.rewards:
            self._metrics["train"]["reward_shaped"].append(shaped.rewards.nanmean().item())
        start = self.accelerator.process_index * len(mask)
        return shaped.advantages[start : start + len(mask), : mask.shape[1]].to(torch.float32)

    def _gathered(self, values: Tensor) -> Tensor:
        """The rows of all processes, the tokens padded to the longest."""
        if values.dim() > 1:
            values = self.accelerator.pad_across_processes(values.contiguous(), dim=1)
        gathered: Tensor = self.accelerator.gather(values.contiguous())
        return gathered


@contextmanager
def _drawing(model: Any, sampler: Sampler) -> Iterator[None]:
    """Put a sampler into every `generate` of the model."""
    plain = model.generate

    def generate(*args: Any, **kwargs: Any) -> Any:
        return plain(*args, logits_processor=LogitsProcessorList([sampler]), **kwargs)

    model.generate = generate
    try:
        yield
    finally:
        del model.generate
