"""The host does not wait for the device: a step on tensors that have no data.

Whatever reads a number of such a tensor raises: `item`, `bool` or a mask as an index, for which the
host of a GPU waits. Copies are watched: it waits for one that is not `non_blocking`, for a tensor
of the host among the device's, and for a copy from memory that is not pinned.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from vllm.sampling_params import SamplingParams
from vllm.v1.worker.gpu.sample.logits_processor import LogitsContext, LogitsProcRequestState

import server.engine
from server.engine.runner_v2 import EntropyProcessorV2
from server.engine.steering import Size, SteeringControl
from server.worker.message import KEY
from tests.selective_artifacts import state_reader
from tests.unit.server.engine.support import (
    ALL_LAWS,
    EDT,
    ENTROPY_TARGET,
    MIROSTAT,
    P_LESS,
    SHUFFLED,
    VOCAB,
    asking,
    run_eagerly,
    while_thinking,
)
from tests.unit.server.engine.test_difficulty import FEATURES, Model, head, with_probe
from tests.unit.server.engine.test_steering import VECTORS, Layer
from tests.unit.server.engine.test_steering import asking as steered

DEVICE = torch.device("meta")
PROMPT = 3
BUDGETS = (2, 2, 2)
REQUESTS: list[dict[str, Any]] = [
    *(asking(law) for law in ALL_LAWS),
    asking(SHUFFLED, seed=3),
    asking(EDT, truncation=MIROSTAT, confidence=True),
    asking(EDT, truncation=P_LESS),
    asking(None, phases=while_thinking(ENTROPY_TARGET, (1, 2), thinking=True)),
    asking(None, state="m/state"),
    asking(EDT, confidence=True, weak={"window": 2, "threshold": 1.0, "stop": 3}),
    with_probe(law=ENTROPY_TARGET, budgets=BUDGETS),
    with_probe(budgets=BUDGETS, price=0.5),
    {KEY: {**asking(None)[KEY], "steering": steered("m/b")}},
    {},
]
SLOTS = len(REQUESTS)


class Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Collects the operations for which the host of a GPU would wait."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.waits: list[str] = []
        self.copies = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        leaves = tree_leaves((args, kwargs))
        held = [leaf.device.type for leaf in leaves if isinstance(leaf, Tensor) and leaf.dim()]
        name = str(func)
        if name.startswith(("aten._to_copy", "aten.copy_")):
            crossed = {*held, *(leaf.type for leaf in leaves if isinstance(leaf, torch.device))}
            if len(crossed) > 1:
                self.copies += 1
                if not (kwargs.get("non_blocking") or (len(args) > 2 and args[2])):
                    self.waits.append(name)
        elif len(set(held)) > 1:
            self.waits.append(name)
        return func(*args, **kwargs)


class Nobody:
    """Takes what is published."""

    lost: ClassVar[dict[str, int]] = {}

    def __init__(self) -> None:
        self.published: list[str] = []

    def publish(self, *values: Any) -> None:
        self.published.append("tokens")

    def publish_decisions(self, *values: Any) -> None:
        self.published.append("decisions")

    def publish_states(self, *values: Any) -> None:
        self.published.append("states")


class Runner:
    """The slots of a V2 runner on the device, every kind of request in one batch."""

    def __init__(self) -> None:
        lengths: Any = SimpleNamespace(
            gpu=torch.full((SLOTS,), PROMPT, dtype=torch.int32, device=DEVICE),
            np=np.full(SLOTS, PROMPT, dtype=np.int32),
        )
        self.req_states = SimpleNamespace(
            index_to_req_id={slot: f"{slot}_r" for slot in range(SLOTS)},
            num_computed_tokens_np=np.zeros(SLOTS, dtype=np.int32),
            prompt_len=lengths,
        )
        unused: Any = None
        state = LogitsProcRequestState(
            device=DEVICE,
            max_num_reqs=SLOTS,
            vocab_size=VOCAB,
            all_token_ids=unused,
            prompt_len=lengths,
            prefill_len=unused,
            total_len=unused,
        )
        self.processor = EntropyProcessorV2(unused, state)
        self.controller, self.publisher = self.processor.controller, Nobody()
        run_eagerly(self.controller)
        self.controller.publisher = self.publisher  # type: ignore[assignment]
        self.sample: Any = self.sample_parts
        self.prepare_inputs: Any = lambda scheduled, batch: None
        self.processor.bind(self)
        routed = head()._replace(
            router_weight=torch.ones(6, FEATURES),
            router_bias=torch.zeros(6),
            router_kept=torch.ones(3),
        )
        self.controller.read_difficulty(Model(), {"m/probe": routed})
        self.controller.read_states(Model(), {"m/state": state_reader(FEATURES)})
        size = Size(SLOTS, SLOTS, 4 * SLOTS)
        layers = {0: Layer(), 1: Layer()}
        stream = torch.zeros(4, device=DEVICE)
        self.processor.steer(SteeringControl(size, layers, VECTORS, stream))

    def add_all(self) -> None:
        for slot, extra in enumerate(REQUESTS):
            params = SamplingParams(extra_args=extra or None, temperature=0.8)
            self.processor.add_request(slot, params)
        self.processor.apply_staged_writes()

    def step(self, position: int, drafts: int = 0, chunk: int = SLOTS) -> None:
        """Every request reads the token at a position, and as many drafts behind it."""
        rows = 1 + drafts
        ends = np.arange(SLOTS + 1) * rows
        slots = np.arange(SLOTS)
        batch = SimpleNamespace(
            idx_mapping=torch.zeros(SLOTS, dtype=torch.int64, device=DEVICE),
            idx_mapping_np=slots,
            cu_num_logits_np=ends,
            query_start_loc_np=ends.astype(np.int32),
            num_draft_tokens=drafts * SLOTS,
            num_scheduled_tokens=np.full(SLOTS, rows, dtype=np.int32),
            seq_lens_cpu_upper_bound=torch.full((SLOTS,), position + rows, dtype=torch.int32),
        )
        self.req_states.num_computed_tokens_np[:] = position
        self.rows, self.chunk = rows, chunk
        self.prepare_inputs(None, batch)
        self.sample(torch.zeros(SLOTS * rows, FEATURES, device=DEVICE), batch)

    def sample_parts(self, hidden: Tensor, batch: Any) -> tuple[Any, Tensor]:
        for first in range(0, SLOTS, self.chunk):
            part = min(self.chunk, SLOTS - first)
            whole = torch.zeros(part * self.rows, dtype=torch.int32, device=DEVICE)
            context = LogitsContext(
                expanded_idx_mapping=whole,
                idx_mapping=batch.idx_mapping[first : first + part],
                idx_mapping_np=batch.idx_mapping_np[first : first + part],
                expanded_local_pos=whole,
                input_ids=whole,
                pos=whole.long(),
                seq_lens_upper_bound_np=batch.seq_lens_cpu_upper_bound.numpy(),
            )
            self.processor.apply(torch.zeros(len(whole), VOCAB, device=DEVICE), context)
        shape = (SLOTS, self.rows)
        tokens = torch.zeros(shape, dtype=torch.int64, device=DEVICE)
        sampled = torch.ones(SLOTS, dtype=torch.int32, device=DEVICE)
        return SimpleNamespace(sampled_token_ids=tokens), sampled


@pytest.fixture
def watch() -> Iterator[Watch]:
    with torch.no_grad(), Watch() as watch:
        yield watch


def test_no_step_waits_for_the_device(watch: Watch) -> None:
    """Joining, the end of a prompt, decoding, drafts verified at once and in parts, coming back."""
    runner = Runner()
    built = len(watch.waits)  # nothing waits for a start
    runner.add_all()
    runner.step(PROMPT - 1)
    assert {*runner.publisher.published} == {"tokens", "decisions", "states"}
    runner.step(PROMPT)
    runner.step(PROMPT + 1, drafts=2)
    runner.step(PROMPT + 1, drafts=2, chunk=4)
    before = watch.copies
    runner.add_all()
    runner.step(PROMPT)
    assert watch.copies > before, "the watch sees copies"
    assert watch.waits[built:] == []
    assert runner.controller.failures == 0


@pytest.mark.parametrize(
    "wait",
    [
        lambda rows: rows.copy_(torch.ones(2)),
        lambda rows: rows.add_(torch.ones(2)),
        lambda rows: rows[torch.tensor([0])],
        lambda rows: torch.ones(2).to(rows.device),
    ],
)
def test_the_watch_sees_what_waits(watch: Watch, wait: Any) -> None:
    wait(torch.zeros(2, device=DEVICE))
    assert len(watch.waits) == 1


@pytest.mark.parametrize(
    "read", [Tensor.item, bool, Tensor.tolist, Tensor.cpu, lambda one: one[one > 0]]
)
def test_a_tensor_without_data_cannot_be_read(read: Any) -> None:
    with pytest.raises(RuntimeError):  # NotImplementedError is one
        read(torch.zeros(1, device=DEVICE))


def test_copies_go_through_pinned_memory() -> None:
    """By vLLM's function to the device, by the publisher from it."""
    found = {
        (path.stem, number)
        for path in Path(server.engine.__path__[0]).glob("*.py")
        for number in range(len(re.findall(r"non_blocking|from_numpy", path.read_text())))
    }
    assert found == {("publisher", 0)}
