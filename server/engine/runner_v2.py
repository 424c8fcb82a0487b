"""Adapter to vLLM's V2 model runner.

V2 calls processors after bias, penalties and grammar and before temperature: the right place. Rows
are not requests: they are reordered every step, and speculative decoding gives a request one row
per draft token, of which the rejection sampler accepts some. So rows are looked up by slot, and
traces wait until the runner knows how many tokens each request accepted.
"""

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from vllm.sampling_params import SamplingParams
from vllm.v1.worker.gpu.sample.logits_processor import (
    LogitsContext,
    LogitsProcessor,
    LogitsProcRequestState,
)

from server.engine.controller import Controller
from server.engine.phases import Fed
from server.engine.publisher import Publisher
from server.engine.steering import SteeringControl
from server.engine.step import Group, Measured, PromptRows, on_device
from server.worker.message import KEY, refuse_reserved

if TYPE_CHECKING:
    from vllm.config import VllmConfig


class EntropyProcessorV2(LogitsProcessor):
    """Entropy control for the V2 runner."""

    def __init__(self, vllm_config: "VllmConfig", req_states: LogitsProcRequestState) -> None:
        self.controller = Controller(
            req_states.max_num_reqs, req_states.vocab_size, req_states.device, Publisher()
        )
        self._req_states = req_states
        self._request_ids: dict[int, str] = {}
        self._runner: Any = None
        # Rows of each slot in this step, on the host. Only the slots of the batch are up to date.
        self._num_rows = np.zeros(req_states.max_num_reqs, dtype=np.int64)
        self._num_requests = 0
        """Requests of this step."""
        self._measured: list[tuple[Measured, Tensor]] = []
        """What this step measured and needs the sampled tokens for, and each row's offset among
        the rows of its request."""

    @classmethod
    def validate_params(cls, sampling_params: SamplingParams) -> None:
        """Refuse reserved arguments from clients, on every route.

        Raises:
            ValueError: Naming the key.
        """
        refuse_reserved(sampling_params.extra_args)

    def bind(self, runner: Any) -> None:
        """Hook into a loaded runner, around its sampling step.

        The runner also keeps the request ids, which tell the n completions of a request apart.
        """
        self._runner = runner
        self._request_ids = runner.req_states.index_to_req_id
        sample = runner.sample

        def controlled_sample(hidden: Tensor, batch: Any, *args: Any, **kwargs: Any) -> Any:
            self.controller.steps += 1
            with self.controller.contain_step_failures():
                self._before_sampling(hidden, batch)
            outputs = sample(hidden, batch, *args, **kwargs)
            with self.controller.contain_step_failures():
                self._after_sampling(outputs[0].sampled_token_ids, outputs[1], batch)
            return outputs

        runner.sample = controlled_sample

    def steer(self, steering: SteeringControl) -> None:
        """Mark the tokens of every step before its forward pass."""
        self.controller.steering = steering
        states, prepare = self._runner.req_states, self._runner.prepare_inputs

        def prepare_and_mark(scheduler_output: Any, batch: Any, *args: Any) -> Any:
            with self.controller.contain_step_failures():
                slots = batch.idx_mapping_np
                starts, prompts = states.num_computed_tokens_np[slots], states.prompt_len.np[slots]
                steering.assign_rows(slots, starts, batch.num_scheduled_tokens, prompts)
            return prepare(scheduler_output, batch, *args)

        self._runner.prepare_inputs = prepare_and_mark

    def add_request(self, req_idx: int, sampling_params: SamplingParams) -> bool:
        """Assign a request to a slot and reset all its state."""
        with self.controller.contain_step_failures():
            self._remove_departed()
        with self.controller.contain_step_failures():
            extra_args = sampling_params.extra_args
            if not self.controller.add(req_idx, extra_args, sampling_params.temperature):
                return False
            with self.controller.contain_failures(req_idx):
                if extra_args[KEY]["choices"] > 1:
                    self.controller.name_choice(req_idx, self._request_ids[req_idx])
        return True

    def _remove_departed(self) -> None:
        """Free the table rows of steered requests that ended; V2 does not report these."""
        steering = self.controller.steering
        for slot in () if steering is None else steering.steered():
            if slot not in self._request_ids:
                self.controller.remove(slot)

    def apply_staged_writes(self) -> None:
        """Bring the device's slots up to date before the forward pass."""
        self.controller.flush()

    def _before_sampling(self, hidden: Tensor, batch: Any) -> None:
        """Let probes read the prompts that end in this step, before any row is decided.

        Args:
            hidden: Final hidden states of every token of the step, shape (tokens, hidden size).
            batch: vLLM's `InputBatch`.
        """
        controller, slots = self.controller, batch.idx_mapping_np
        self._measured.clear()
        self._num_requests = len(slots)
        self._num_rows[slots] = np.diff(batch.cu_num_logits_np)
        if controller.has_probes(slots):
            # A prompt's last token is the last token of its request: vLLM drafts nothing for
            # requests whose prompt is not complete.
            last = batch.query_start_loc_np[1 : len(slots) + 1].astype(np.int64) - 1
            seen = batch.seq_lens_cpu_upper_bound.numpy()[: len(slots)]
            drawn = seen - self._req_states.prompt_len.np[slots]
            controller.read_prompts(PromptRows(hidden, last, slots.astype(np.int64), drawn))

    def apply(self, logits: Tensor, ctx: LogitsContext) -> Tensor:
        """Control a batch, or a part of one, in place and without a host sync."""
        with self.controller.contain_step_failures():
            self._control(logits, ctx)
        return logits

    def _control(self, logits: Tensor, ctx: LogitsContext) -> None:
        controller = self.controller
        if not controller.is_active(ctx.idx_mapping_np):
            return
        slots = ctx.expanded_idx_mapping.long()
        # The row reads position p and samples the token at p + 1. While the prompt is still being
        # read this is negative, which the publisher drops.
        indices = ctx.pos.long() + 1 - self._req_states.prompt_len.gpu[slots].long()
        whole = len(ctx.idx_mapping_np) == self._num_requests
        drafts = len(slots) > len(ctx.idx_mapping_np)
        for group in self._groups(ctx, slots):
            rows = slice(None) if group.rows is None else group.rows
            own, offsets = indices[rows], ctx.expanded_local_pos[rows]
            fed = Fed(ctx.input_ids[rows], offsets) if drafts and group.phased else None
            measured = controller.control(logits, group, own, fed)
            if not measured.awaits_token:
                continue
            if not whole:  # a large step is verified in parts, to hold the logits of one at a time
                measured = measured._replace(odds=None)
            self._measured.append((measured, offsets))

    def _groups(self, ctx: LogitsContext, slots: Tensor) -> list[Group]:
        requests: NDArray[np.int64] = ctx.idx_mapping_np.astype(np.int64)
        slot_of_row = np.repeat(requests, self._num_rows[requests])
        if len(slot_of_row) == len(slots):
            # Budgets are looked up on the device: draft rows have indices that the host lacks.
            return [
                group._replace(host_slots=None) for group in self.controller.groups(slot_of_row)
            ]
        # Adaptive verification drops rows on the device alone: all rows are decided together.
        return [self.controller.group(None, slots, requests)._replace(host_slots=None)]

    def _after_sampling(self, sampled: Tensor, num_sampled: Tensor, batch: Any) -> None:
        """Publish the rows whose tokens were accepted.

        Args:
            sampled: Tokens that each request of the batch gained, shape (requests, most tokens).
            num_sampled: How many of them count, shape (requests,).
            batch: vLLM's `InputBatch`.
        """
        if not self._measured:
            return
        requests = batch.idx_mapping.long()
        place = torch.zeros(len(self._num_rows), dtype=torch.long, device=num_sampled.device)
        place[requests] = torch.arange(len(requests), device=place.device)
        for measured, offsets in self._measured:
            own, column = place[measured.group.slots], offsets.long()
            if batch.num_draft_tokens:
                kept = column < num_sampled.long()[own]
                indices = torch.where(kept, on_device(measured.indices, kept.device), -1)
                measured = measured._replace(indices=indices)
            logprob = self.controller.learn(measured, sampled[own, column])
            self.controller.publish(measured, logprob)
        self._measured.clear()
