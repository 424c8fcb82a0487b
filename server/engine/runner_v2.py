"""Adapter to vLLM's V2 model runner.

V2 calls processors after bias, penalties and grammar and before temperature: the right place. Rows
are not requests (they are reordered every step, and speculative decoding gives a request several),
so everything is looked up by slot on the device.
"""

from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor
from vllm.sampling_params import SamplingParams
from vllm.v1.worker.gpu.sample.logits_processor import (
    LogitsContext,
    LogitsProcessor,
    LogitsProcRequestState,
)

from server.engine.controller import Controller, Group
from server.engine.publisher import Publisher
from server.engine.steering import SteeringControl
from server.worker.message import KEY, refuse_reserved

if TYPE_CHECKING:
    from vllm.config import VllmConfig


class EntropyLogitsProcessor(LogitsProcessor):
    """Entropy control for the V2 runner."""

    def __init__(self, vllm_config: "VllmConfig", req_states: LogitsProcRequestState) -> None:
        self.controller = Controller(
            req_states.max_num_reqs, req_states.vocab_size, req_states.device, Publisher()
        )
        self._req_states = req_states
        self._request_ids: dict[int, str] = {}
        self._runner: Any = None

    @classmethod
    def validate_params(cls, sampling_params: SamplingParams) -> None:
        """Refuse reserved arguments from clients, on every route.

        Raises:
            ValueError: Naming the key.
        """
        refuse_reserved(sampling_params.extra_args)

    def bind(self, runner: Any) -> None:
        """Learn where the runner keeps request ids, which tell the n completions apart."""
        self._runner = runner
        self._request_ids = runner.req_states.index_to_req_id

    def steer(self, steering: SteeringControl) -> None:
        """Mark the tokens of every step before its forward pass."""
        self.controller.steering = steering
        states, prepare = self._runner.req_states, self._runner.prepare_inputs

        def prepare_and_mark(scheduler_output: Any, batch: Any, *args: Any) -> Any:
            slots = batch.idx_mapping_np
            starts, prompts = states.num_computed_tokens_np[slots], states.prompt_len.np[slots]
            steering.mark(slots, starts, batch.num_scheduled_tokens, prompts)
            return prepare(scheduler_output, batch, *args)

        self._runner.prepare_inputs = prepare_and_mark

    def add_request(self, req_idx: int, sampling_params: SamplingParams) -> bool:
        """Seat a request; a recycled slot is wiped whole."""
        self._remove_departed()
        extra_args = sampling_params.extra_args
        if not self.controller.add(req_idx, extra_args, sampling_params.temperature):
            return False
        if extra_args[KEY]["choices"] > 1:
            choice = int(self._request_ids[req_idx].partition("_")[0])
            self.controller.name_choice(req_idx, choice)
        return True

    def _remove_departed(self) -> None:
        """Free the rows of steered requests that left, of which V2 says nothing."""
        steering = self.controller.steering
        for slot in () if steering is None else steering.steered():
            if slot not in self._request_ids:
                self.controller.remove(slot)

    def apply_staged_writes(self) -> None:
        """Bring the device's slots up to date before the forward pass."""
        self.controller.flush()

    def apply(self, logits: Tensor, ctx: LogitsContext) -> Tensor:
        """Control a batch in place, without a host sync."""
        controller = self.controller
        controller.steps += 1
        if not controller.is_active(ctx.idx_mapping_np):
            return logits
        slots = ctx.expanded_idx_mapping.long()
        # The row reads position p and samples the token at p + 1. While the prompt is still being
        # read this is negative, which the publisher drops.
        indices = ctx.pos.long() + 1 - self._req_states.prompt_len.gpu[slots].long()
        batch = ctx.idx_mapping_np
        solve, traced = controller.needs_solver(batch), controller.is_traced(batch)
        if judged := controller.is_judged(batch):
            # A row per request, for vLLM does not draft tokens of a prompt. Host values, no sync.
            drawn = ctx.seq_lens_upper_bound_np - self._req_states.prompt_len.np[batch]
            controller.settle(np.arange(len(batch)), batch.astype(np.int64), drawn)
        controller.control(logits, Group(None, slots, None, solve, traced, judged), indices)
        return logits
