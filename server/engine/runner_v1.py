"""Adapter to vLLM's V1 model runner.

V1 calls logits processors before the penalties or after the temperature, and not at all after the
penalties when every request is greedy. The entropy is that of the distribution after penalties and
before temperature, so the work happens where the sampler enters `sample`, for every kind of batch;
the processor interface says which request is in which row.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from vllm.sampling_params import SamplingParams
from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessor, MoveDirectionality

from server.engine.controller import Controller
from server.engine.publisher import Publisher
from server.engine.steering import SteeringControl
from server.engine.step import Group, Measured, PromptRows
from server.worker.message import KEY, refuse_reserved

if TYPE_CHECKING:
    from vllm.config import VllmConfig
    from vllm.v1.worker.gpu_model_runner import GPUModelRunner


class EntropyProcessorV1(LogitsProcessor):
    """Entropy control for the V1 runner; a row of the batch is a slot."""

    def __init__(
        self, vllm_config: "VllmConfig", device: torch.device, is_pin_memory: bool
    ) -> None:
        self.controller = Controller(
            vllm_config.scheduler_config.max_num_seqs,
            vllm_config.model_config.get_vocab_size(),
            device,
            Publisher(),
        )
        self._groups: list[Group] | None = None
        self._measured: list[Measured] = []
        """What this step measured and needs the sampled tokens for."""
        self._unnamed: set[int] = set()
        self._runner: GPUModelRunner | None = None

    @classmethod
    def validate_params(cls, sampling_params: SamplingParams) -> None:
        """Refuse reserved arguments from clients, on every route.

        Raises:
            ValueError: Naming the key.
        """
        refuse_reserved(sampling_params.extra_args)

    def is_argmax_invariant(self) -> bool:
        """A positive factor per row never changes the greedy token."""
        return True

    def apply(self, logits: Tensor) -> Tensor:
        """Do nothing: by this stage the logits are divided by the temperature already."""
        return logits

    def bind(self, runner: "GPUModelRunner") -> None:
        """Hook into a loaded runner: act where its sampler starts to sample."""
        self._runner = runner
        sample: Callable[..., Any] = runner.sampler.sample

        def controlled_sample(logits: Tensor, *args: Any, **kwargs: Any) -> Any:
            self.before_sampling(logits)
            sampled = sample(logits, *args, **kwargs)
            self.after_sampling(sampled[0])
            return sampled

        runner.sampler.sample = controlled_sample

    def steer(self, steering: SteeringControl) -> None:
        """Mark the tokens of every step before its forward pass."""
        assert self._runner is not None
        self.controller.steering = steering
        runner: Any = self._runner
        prepare: Callable[..., Any] = runner._prepare_inputs

        def prepare_and_mark(scheduler_output: Any, counts: Any) -> Any:
            with self.controller.contain_step_failures():
                batch = runner.input_batch  # vLLM may replace it after loading
                rows = slice(batch.num_reqs)  # views: this runs at every step, steered or not
                starts, prompts = batch.num_computed_tokens_cpu[rows], batch.num_prompt_tokens[rows]
                steering.assign_rows(np.arange(batch.num_reqs), starts, counts, prompts)
            return prepare(scheduler_output, counts)

        runner._prepare_inputs = prepare_and_mark

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        """Follow requests that join, leave or move."""
        if batch_update is None:
            return
        with self.controller.contain_step_failures():
            self._follow_batch(batch_update)
        self._groups = None

    def _follow_batch(self, batch_update: BatchUpdate) -> None:
        for slot in batch_update.removed:
            self.controller.remove(slot)
        # `added` reuses a slot without `removed` when one request replaces another. All leave
        # before any joins, for what they occupy may be what the others need.
        for slot, *_ in batch_update.added:
            self.controller.remove(slot)
            self._unnamed.discard(slot)
        for slot, params, *_ in batch_update.added:
            if self.controller.add(slot, params.extra_args, params.temperature):
                with self.controller.contain_failures(slot):
                    if params.extra_args[KEY]["choices"] > 1:
                        self._unnamed.add(slot)
        for source, target, direction in batch_update.moved:
            if direction == MoveDirectionality.SWAP:
                self.controller.swap(source, target)
            else:
                self.controller.move(source, target)
            self._follow(source, target, direction)
        self._name_choices()

    def _follow(self, source: int, target: int, direction: MoveDirectionality) -> None:
        moved = self._unnamed & {source, target}
        self._unnamed -= moved
        if source in moved:
            self._unnamed.add(target)
        if target in moved and direction == MoveDirectionality.SWAP:
            self._unnamed.add(source)

    def _name_choices(self) -> None:
        """Completions of one request share their parameters; their request ids differ."""
        if self._unnamed and self._runner is not None:
            for slot in self._unnamed:
                with self.controller.contain_failures(slot):
                    self.controller.name_choice(slot, self._runner.input_batch.req_ids[slot])
            self._unnamed.clear()

    def before_sampling(self, logits: Tensor) -> None:
        """Control a batch in place. Called once per step, after penalties and masks."""
        self.controller.steps += 1
        self._measured.clear()
        with self.controller.contain_step_failures():
            self._control(logits)

    def after_sampling(self, sampled: Tensor) -> None:
        """Publish what the step measured.

        Args:
            sampled: Token of every row of the batch, shape (rows,).
        """
        with self.controller.contain_step_failures():
            for measured in self._measured:
                rows = measured.group.rows
                own = sampled if rows is None else sampled[rows]
                self.controller.publish(measured, self.controller.learn(measured, own))
        self._measured.clear()

    def _control(self, logits: Tensor) -> None:
        controller = self.controller
        if self._groups is None or controller.laws.stale:
            controller.flush()
            self._groups = controller.groups(np.arange(len(logits)))
        for group in self._groups:
            indices = self._token_indices(group)
            if group.has_probe:
                hidden, slots = controller.tap.hidden, group.host_slots
                assert hidden is not None
                assert slots is not None
                controller.read_prompts(PromptRows(hidden, slots, slots, indices))
            measured = controller.control(logits, group, indices)
            if measured.awaits_token:
                self._measured.append(measured)

    def _token_indices(self, group: Group) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Token index per row, -1 where the prompt is not read to the end yet."""
        assert self._runner is not None
        assert group.host_slots is not None
        rows, batch = group.host_slots, self._runner.input_batch
        produced = batch.num_tokens_no_spec[rows] - batch.num_prompt_tokens[rows]
        return np.where(self._runner.discard_request_mask.np[rows], -1, produced)
