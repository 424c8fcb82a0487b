import inspect
import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from vllm.sampling_params import SamplingParams
from vllm.v1.sample.logits_processor import (
    BatchUpdate,
    LogitsProcessor,
    LogitsProcessors,
    MoveDirectionality,
    _load_logitsprocs_by_fqcns,
)
from vllm.v1.sample.sampler import Sampler
from vllm.v1.worker.gpu_input_batch import CachedRequestState, InputBatch
from vllm.v1.worker.gpu_model_runner import GPUModelRunner

from probes.entropy import entropy_from_logits
from probes.laws import TemperatureLaw
from server.engine.runner_v1 import EntropyProcessorV1
from server.engine.runner_v2 import EntropyProcessorV2
from server.worker.message import KEY
from tests.unit.server.engine.support import (
    CPU,
    ENTROPY_TARGET,
    FIXED,
    VOCAB,
    Record,
    asking,
    bits,
    random_logits,
    run_eagerly,
)
from tests.unit.server.engine.test_steering import added, make
from tests.unit.server.engine.test_steering import asking as steered

NUM_ROWS = 6
SWAP, ONE_WAY = MoveDirectionality.SWAP, MoveDirectionality.UNIDIRECTIONAL


class Runner:
    """vLLM's own batch and sampler around our processor, without a model."""

    def __init__(self) -> None:
        config: Any = SimpleNamespace(
            scheduler_config=SimpleNamespace(max_num_seqs=NUM_ROWS),
            model_config=SimpleNamespace(get_vocab_size=lambda: VOCAB),
        )
        self.processor = EntropyProcessorV1(config, CPU, False)
        self.controller = self.processor.controller
        run_eagerly(self.controller)
        self.record = Record()
        self.controller.publisher = self.record  # type: ignore[assignment]
        self.sampler = Sampler()
        self.input_batch = InputBatch(
            max_num_reqs=NUM_ROWS,
            max_model_len=32,
            max_num_batched_tokens=64,
            device=CPU,
            vocab_size=VOCAB,
            block_sizes=[16],
            max_num_blocks_per_req=[2],
            logitsprocs=LogitsProcessors([self.processor]),
        )
        self.model_config: Any = None
        self.model: Any = None
        self.discard_request_mask = SimpleNamespace(np=np.zeros(NUM_ROWS, dtype=bool))
        self.processor.bind(self)

    def add(self, name: str, extra: dict[str, Any] | None = None, **sampling: Any) -> None:
        seed = sampling.get("seed")
        state = CachedRequestState(
            req_id=name,
            prompt_token_ids=[1, 2, 3],
            mm_features=[],
            sampling_params=SamplingParams(extra_args=extra, **sampling),
            generator=None if seed is None else torch.Generator().manual_seed(seed),
            block_ids=([0],),
            num_computed_tokens=0,
            output_token_ids=[],
        )
        self.input_batch.add_request(state)

    def refresh(self) -> None:
        """What the runner does between taking requests in and out and the forward pass."""
        self.input_batch.condense()
        self.input_batch.refresh_metadata()

    def sample(self, logits: Tensor) -> list[int]:
        """One step of vLLM's sampler on these logits."""
        self.refresh()
        output = self.sampler(logits.clone(), self.input_batch.sampling_metadata)
        sampled: list[int] = output.sampled_token_ids.flatten().tolist()
        return sampled

    def traces(self) -> list[tuple[int, int]]:
        """Trace and choice of each row."""
        directory = self.controller.traces.directory
        return list(zip(directory.traces.tolist(), directory.choices.tolist(), strict=True))


@pytest.fixture
def runner() -> Runner:
    return Runner()


def params(trace: int, law: TemperatureLaw | None = FIXED, choices: int = 1) -> SamplingParams:
    return SamplingParams(extra_args=asking(law, trace, choices=choices))


def update(
    runner: Runner,
    removed: list[int] | None = None,
    added: list[tuple[int, SamplingParams]] | None = None,
    moved: list[tuple[int, int, MoveDirectionality]] | None = None,
) -> None:
    """A batch update as vLLM hands it to its processors."""
    runner.processor.update_state(
        BatchUpdate(
            batch_size=NUM_ROWS,
            removed=removed or [],
            added=[(slot, own, [1], []) for slot, own in added or []],
            moved=moved or [],
        )
    )


# -- what vLLM makes of the class --------------------------------------------------------------


def test_the_v1_loader_takes_the_v1_class_and_refuses_the_v2_one() -> None:
    name = "server.engine.runner_v1:EntropyProcessorV1"
    assert _load_logitsprocs_by_fqcns([name]) == [EntropyProcessorV1]
    assert issubclass(EntropyProcessorV1, LogitsProcessor)
    with pytest.raises(ValueError, match="must be a subclass of LogitsProcessor"):
        _load_logitsprocs_by_fqcns(["server.engine.runner_v2:EntropyProcessorV2"])
    assert not issubclass(EntropyProcessorV2, LogitsProcessor)


def test_the_processor_stage_itself_changes_nothing(runner: Runner) -> None:
    update(runner, added=[(0, params(1))])
    logits = random_logits(1)
    assert runner.processor.is_argmax_invariant()
    assert runner.processor.apply(logits) is logits
    assert torch.equal(logits, random_logits(1))


# -- batch updates -----------------------------------------------------------------------------


def test_a_request_added_over_an_occupied_slot_replaces_it(runner: Runner) -> None:
    update(runner, added=[(0, params(1)), (1, params(2))])
    update(runner, added=[(0, params(3)), (1, SamplingParams())])
    assert runner.traces()[:2] == [(3, 0), (0, 0)]
    assert not runner.controller.is_active(slice(1, NUM_ROWS))


def test_moves_and_swaps_carry_requests_along(runner: Runner) -> None:
    update(runner, added=[(0, params(1)), (1, params(2)), (2, params(3))])
    update(runner, removed=[0], moved=[(2, 0, ONE_WAY)])
    assert runner.traces()[:3] == [(3, 0), (2, 0), (0, 0)]
    update(runner, moved=[(0, 1, SWAP), (1, 4, ONE_WAY)])
    assert runner.traces()[:5] == [(2, 0), (0, 0), (0, 0), (0, 0), (3, 0)]


def test_no_update_changes_nothing(runner: Runner) -> None:
    update(runner, added=[(0, params(1))])
    runner.processor.update_state(None)
    assert runner.traces()[0] == (1, 0)


@pytest.mark.parametrize("added_and_moved", [False, True])
def test_completions_are_named_by_the_request_ids_of_vllm(
    runner: Runner, added_and_moved: bool
) -> None:
    ids = ["0_chatcmpl-a", "2_chatcmpl-a", "1_chatcmpl-a", "chatcmpl-b", "11_cmpl_9_c"]
    runner.input_batch = SimpleNamespace(req_ids=ids)
    several = params(5, choices=12)
    start = [(0, several), (1, several), (2, several), (3, params(6)), (4, several)]
    expected = [(5, 0), (5, 2), (5, 1), (6, 0), (5, 11)]
    if added_and_moved:  # the ids are those after the moves
        start = [(0, params(6)), (1, several), (5, several), (3, several), (4, several)]
        moves = [(0, 3, SWAP), (5, 2, ONE_WAY)]
        update(runner, added=start, moved=moves)
    else:
        update(runner, added=start)
    assert runner.traces()[:5] == expected


@given(
    rounds=st.lists(
        st.tuples(
            st.sets(st.integers(0, NUM_ROWS - 1)),
            st.lists(st.sampled_from(["plain", "one", "several"]), max_size=NUM_ROWS),
            st.lists(st.tuples(st.integers(0, 99), st.integers(0, 99)), max_size=3),
        ),
        min_size=1,
        max_size=8,
    )
)
@settings(deadline=None, max_examples=60)
def test_every_row_of_vllms_batch_keeps_its_own_trace_whoever_joins_or_leaves(
    rounds: list[tuple[set[int], list[str], list[tuple[int, int]]]],
) -> None:
    runner = Runner()
    batch = runner.input_batch
    expected: dict[str, tuple[int, int]] = {}
    number = 0
    for leaving, joining, swaps in rounds:
        for name in [batch.req_ids[row] for row in leaving if row < batch.num_reqs]:
            batch.remove_request(name)
        for kind in joining[: NUM_ROWS - batch.num_reqs]:
            number += 1
            name, choice = f"r{number}", 0
            if kind == "several":
                choice = number % 4
                name = f"{choice}_{name}"
            choices = 4 if kind == "several" else 1
            runner.add(name, None if kind == "plain" else asking(trace=number, choices=choices))
            expected[name] = (0, 0) if kind == "plain" else (number, choice)
        batch.condense()
        for one, two in swaps:
            if batch.num_reqs >= 2 and one % batch.num_reqs != two % batch.num_reqs:
                batch.swap_states(one % batch.num_reqs, two % batch.num_reqs)
        batch.refresh_metadata()
        traces = runner.traces()
        assert traces[: batch.num_reqs] == [expected[name] for name in batch.req_ids]
        assert set(traces[batch.num_reqs :]) <= {(0, 0)}
        assert not runner.controller.is_active(slice(batch.num_reqs, NUM_ROWS))


# -- sampling ----------------------------------------------------------------------------------


def test_without_a_controlled_request_nothing_is_touched(runner: Runner) -> None:
    runner.add("a", temperature=0.7)
    runner.refresh()
    before = random_logits(1)
    after = before.clone()
    runner.processor.before_sampling(after)
    assert torch.equal(bits(after), bits(before))
    assert runner.record == {}
    assert runner.controller.steps == 1


def test_the_step_sees_penalised_and_masked_logits_for_every_kind_of_batch(
    runner: Runner,
) -> None:
    runner.add("a", asking(None, 1), temperature=0.0, frequency_penalty=1.5)
    runner.add("b", asking(None, 2), temperature=0.5, allowed_token_ids=[3, 4, 5])
    runner.add("c", asking(None, 3), temperature=0.5)
    for row in range(3):
        runner.input_batch.req_output_token_ids[row] = [9, 9, 8]
    logits = random_logits(3)
    runner.sample(logits)
    expected = logits.clone()
    expected[0, 9] -= 3.0
    expected[0, 8] -= 1.5
    allowed = torch.zeros(VOCAB, dtype=torch.bool)
    allowed[[3, 4, 5]] = True
    expected[1] = expected[1].masked_fill(~allowed, -math.inf)
    got = [runner.record[trace, 0, 0] for trace in (1, 2, 3)]
    assert [one.entropy for one in got] == pytest.approx(
        entropy_from_logits(expected).tolist(), abs=1e-5
    )
    assert [one.temperature for one in got] == pytest.approx([0.0, 0.5, 0.5])


def test_an_all_greedy_batch_is_measured_and_decoded_as_ever(runner: Runner) -> None:
    logits = random_logits(2)
    laws: list[TemperatureLaw] = [ENTROPY_TARGET, FIXED]
    for row, law in enumerate(laws):
        runner.add(f"r{row}", asking(law, row + 1), temperature=0.0)
    assert runner.sample(logits) == logits.argmax(-1).tolist()
    assert [runner.record[trace, 0, 0][1] for trace in (1, 2)] == [0.0, 0.0]


def test_uncontrolled_requests_draw_the_same_tokens_beside_controlled_ones() -> None:
    logits = random_logits(4)

    def tokens(extra: dict[str, Any] | None) -> list[int]:
        runner = Runner()
        for row in range(4):
            own = extra if row % 2 else None
            runner.add(f"r{row}", own, temperature=0.9, seed=row, top_p=0.9)
        return [token for _ in range(8) for token in runner.sample(logits)[::2]]

    assert tokens(None) == tokens(asking(ENTROPY_TARGET)) == tokens(asking(FIXED))


def test_a_controlled_request_draws_what_its_temperature_would(runner: Runner) -> None:
    # A fixed temperature of 0.5 under a request that says 0.9 draws as a request that says 0.5.
    logits = random_logits(1, scale=1.0)
    plain = Runner()
    plain.add("a", temperature=0.5, seed=3)
    runner.add("a", asking(FIXED), temperature=0.9, seed=3)
    expected = [plain.sample(logits) for _ in range(20)]
    assert [runner.sample(logits) for _ in range(20)] == expected
    assert len({token for (token,) in expected}) > 1


def test_token_indices_count_the_answer_and_discarded_rows_are_not_published(
    runner: Runner,
) -> None:
    for row in range(3):
        runner.add(f"r{row}", asking(None, row + 1))
    runner.refresh()
    batch = runner.input_batch
    batch.num_tokens_no_spec[:3] = [3, 7, 5]  # prompts of three tokens
    runner.discard_request_mask.np[2] = True
    runner.sample(random_logits(3))
    assert set(runner.record) == {(1, 0, 0), (2, 0, 4)}


def test_a_batch_that_grows_or_shrinks_is_grouped_anew(runner: Runner) -> None:
    runner.add("a", asking(FIXED, 1))
    runner.sample(random_logits(1))
    runner.add("b", asking(FIXED, 2))
    runner.sample(random_logits(2))
    assert set(runner.record) == {(1, 0, 0), (2, 0, 0)}
    runner.record.clear()
    runner.input_batch.remove_request("a")
    runner.sample(random_logits(1))
    assert set(runner.record) == {(2, 0, 0)}


# -- steering ----------------------------------------------------------------------------------


def steering(kind: str, factor: float = 1.0) -> dict[str, Any]:
    return {KEY: {**asking(trace=0)[KEY], "steering": steered(kind, factor)}}


def host(rows: int) -> tuple[Runner, Any]:
    """A runner with few rows; what it returns for a step is what the first layer adds to tokens."""
    runner, (control, layers) = Runner(), make(rows, NUM_ROWS)
    counts: Any = np.ones(NUM_ROWS, dtype=np.int32)
    runner._prepare_inputs = lambda scheduled, counts: "inputs"  # type: ignore[attr-defined]
    runner.processor.steer(control)

    def step() -> dict[str, float]:
        runner.refresh()
        number = runner.input_batch.num_reqs
        assert runner._prepare_inputs("scheduled", counts[:number]) == "inputs"  # type: ignore[attr-defined]
        runner.input_batch.num_computed_tokens_cpu[:number] += 1
        found = added(layers[0], number)[:, 0].tolist()
        return dict(zip(runner.input_batch.req_ids, found, strict=True))

    return runner, step


def test_tokens_are_marked_by_the_rows_of_vllms_own_batch() -> None:
    names = list(inspect.signature(GPUModelRunner._prepare_inputs).parameters)
    assert names == ["self", "scheduler_output", "num_scheduled_tokens"]
    runner, step = host(rows=2)
    runner.add("a", steering("m/a", 2.0))
    runner.add("plain")
    runner.add("b", steering("m/a", 3.0))
    for _ in range(2):  # of prompts of three tokens, one at a time
        assert step() == {"a": 0, "plain": 0, "b": 0}
    assert step() == {"a": 2, "plain": 0, "b": 3}
    runner.input_batch.remove_request("a")
    assert step() == {"plain": 0, "b": 3}  # b has the slot of a


def test_who_leaves_makes_room_for_who_joins_in_the_same_step() -> None:
    """The new configuration gets the slot of a plain request; the old one's is freed later."""
    runner, step = host(rows=1)
    runner.add("plain")
    runner.add("old", steering("m/a", 2.0))
    for _ in range(3):
        step()
    runner.input_batch.remove_request("plain")
    runner.input_batch.remove_request("old")
    runner.add("new", steering("m/a", 4.0))
    runner.add("other")
    runner.input_batch.num_computed_tokens_cpu[:2] = 2
    assert step() == {"new": 4, "other": 0}
