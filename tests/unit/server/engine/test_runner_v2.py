import inspect
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from vllm.sampling_params import SamplingParams
from vllm.v1.worker.gpu.sample.logits_processor import (
    LogitsContext,
    LogitsProcessor,
    LogitsProcRequestState,
)
from vllm.v1.worker.gpu.sample.logits_processor.loader import _load_v2_logitsprocs_by_fqcns

from probes.difficulty.strategies import Difficulty
from probes.entropy import entropy_from_logits
from server.engine.kernels import RowDecision
from server.engine.runner_v1 import EntropyProcessorV1
from server.engine.runner_v2 import EntropyProcessorV2
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
from tests.unit.server.engine.test_difficulty import Model, head, state, with_probe

NUM_SLOTS = 5


class Runner:
    """The slots of a V2 runner around our processor."""

    def __init__(self) -> None:
        self.prompt_len = torch.zeros(NUM_SLOTS, dtype=torch.int32)
        self.lengths: Any = SimpleNamespace(gpu=self.prompt_len, np=self.prompt_len.numpy())
        unused: Any = None
        state = LogitsProcRequestState(
            device=CPU,
            max_num_reqs=NUM_SLOTS,
            vocab_size=VOCAB,
            all_token_ids=unused,
            prompt_len=self.lengths,
            prefill_len=unused,
            total_len=unused,
        )
        config: Any = SimpleNamespace()
        self.processor = EntropyProcessorV2(config, state)
        self.controller = self.processor.controller
        run_eagerly(self.controller)
        self.record = Record()
        self.controller.publisher = self.record  # type: ignore[assignment]
        self.req_states = SimpleNamespace(index_to_req_id={})
        self.sample = self.sample_parts
        self.processor.bind(self)

    def add(
        self, slot: int, extra: dict[str, Any] | None = None, name: str = "r", **sampling: Any
    ) -> bool:
        sampling.setdefault("temperature", 1.0)
        self.prompt_len[slot] = 3
        self.req_states.index_to_req_id[slot] = name
        params = SamplingParams(extra_args=extra, **sampling)
        return self.processor.add_request(slot, params)

    def step(
        self,
        logits: Tensor,
        rows: list[tuple[int, int]],
        *,
        accepted: dict[int, int] | None = None,
        hidden: Tensor | None = None,
        chunk: int | None = None,
        tokens: list[list[int]] | None = None,
        read: list[int] | None = None,
    ) -> Tensor:
        """One step over rows of (slot, position); rows of a slot stand together.

        Args:
            logits: Of every row; returned as the processor leaves them.
            rows: Slot and position of each row.
            accepted: Tokens that slots gain, where that is not one per row.
            hidden: Final states of the step's tokens, one per row if not given.
            chunk: Requests verified at a time; None is all.
            tokens: What every request samples; zeros where it is not said.
            read: Token that each row reads: drafts from the second row of a slot on.
        """
        self.processor.apply_staged_writes()
        slots = [slot for slot, _ in rows]
        requests = list(dict.fromkeys(slots))
        counts = [slots.count(slot) for slot in requests]
        ends = np.cumsum([0, *counts])
        self.tokens = torch.zeros(len(requests), max(counts), dtype=torch.int64)
        if tokens is not None:
            self.tokens = torch.tensor(tokens)
        self.logits, self.rows, self.chunk = logits, rows, chunk or len(requests)
        self.read = torch.tensor(read or [0] * len(rows), dtype=torch.int32)
        self.num_sampled = torch.tensor(
            [
                (accepted or {}).get(slot, count)
                for slot, count in zip(requests, counts, strict=True)
            ]
        )
        batch = SimpleNamespace(
            idx_mapping=torch.tensor(requests, dtype=torch.int32),
            idx_mapping_np=np.array(requests, dtype=np.int32),
            cu_num_logits_np=ends,
            query_start_loc_np=ends.astype(np.int32),
            num_draft_tokens=len(rows) - len(requests),
            seq_lens_cpu_upper_bound=torch.tensor(
                [max(p for s, p in rows if s == slot) + 1 for slot in requests], dtype=torch.int32
            ),
        )
        states = torch.zeros(len(rows), 3) if hidden is None else hidden
        runner: Any = self
        runner.sample(states, batch, None)
        return self.logits

    def sample_parts(self, hidden: Tensor, batch: Any, grammar: Any) -> tuple[Any, Tensor, None]:
        """What `GPUModelRunner.sample` does with a processor: verify some requests at a time."""
        ends, parts = batch.cu_num_logits_np, []
        for first in range(0, len(batch.idx_mapping), self.chunk):
            last = min(first + self.chunk, len(batch.idx_mapping))
            rows = self.rows[ends[first] : ends[last]]
            slots = [slot for slot, _ in rows]
            context = LogitsContext(
                expanded_idx_mapping=torch.tensor(slots, dtype=torch.int32),
                idx_mapping=batch.idx_mapping[first:last],
                idx_mapping_np=batch.idx_mapping_np[first:last],
                expanded_local_pos=torch.tensor(
                    [slots[:at].count(slot) for at, slot in enumerate(slots)], dtype=torch.int32
                ),
                input_ids=self.read[ends[first] : ends[last]],
                pos=torch.tensor([position for _, position in rows], dtype=torch.int64),
                seq_lens_upper_bound_np=batch.seq_lens_cpu_upper_bound.numpy()[first:last],
            )
            whole = last - first == len(batch.idx_mapping)
            part = self.logits if whole else self.logits[ends[first] : ends[last]]
            parts.append(self.processor.apply(part, context))
        self.logits = parts[0] if len(parts) == 1 else torch.cat(parts)
        return SimpleNamespace(sampled_token_ids=self.tokens), self.num_sampled, None


@pytest.fixture
def runner() -> Runner:
    return Runner()


# -- what vLLM makes of the class --------------------------------------------------------------


def test_the_v2_loader_takes_the_v2_class_and_refuses_the_v1_one() -> None:
    name = "server.engine.runner_v2:EntropyProcessorV2"
    assert _load_v2_logitsprocs_by_fqcns([name]) == [EntropyProcessorV2]
    assert issubclass(EntropyProcessorV2, LogitsProcessor)
    with pytest.raises(ValueError, match="is not a subclass"):
        _load_v2_logitsprocs_by_fqcns(["server.engine.runner_v1:EntropyProcessorV1"])
    assert not issubclass(EntropyProcessorV1, LogitsProcessor)


def test_every_method_of_the_interface_has_the_parameters_vllm_passes() -> None:
    for name in ("__init__", "add_request", "apply_staged_writes", "apply", "validate_params"):
        ours = inspect.signature(getattr(EntropyProcessorV2, name))
        theirs = inspect.signature(getattr(LogitsProcessor, name))
        assert list(ours.parameters) == list(theirs.parameters), name


# -- slots -------------------------------------------------------------------------------------


def test_vllm_is_told_which_requests_are_changed(runner: Runner) -> None:
    assert runner.add(0, asking())
    assert runner.add(1, asking(), temperature=0.0)
    assert not runner.add(2)
    assert not runner.add(3, {"other": 1})


def test_a_recycled_slot_leaks_nothing(runner: Runner) -> None:
    runner.add(2, asking(ENTROPY_TARGET))
    runner.step(random_logits(1), [(2, 3)])
    runner.record.clear()
    runner.add(2)
    before = random_logits(1)
    after = runner.step(before.clone(), [(2, 3)])
    assert torch.equal(bits(after), bits(before))
    assert runner.record == {}


def test_a_slot_taken_over_follows_the_new_request(runner: Runner) -> None:
    runner.add(2, asking(ENTROPY_TARGET, 1, choices=4), name="3_a")
    runner.add(2, asking(FIXED, 2), name="b")
    before = random_logits(1)
    after = runner.step(before.clone(), [(2, 2)])
    torch.testing.assert_close(after, before / 0.5)
    assert set(runner.record) == {(2, 0, 0)}


def test_a_request_that_left_costs_the_others_nothing(runner: Runner) -> None:
    runner.add(0, asking())  # V2 says nothing when it leaves
    runner.add(1)
    logits = random_logits(1)
    assert runner.step(logits, [(1, 3)]) is logits
    assert torch.equal(bits(logits), bits(random_logits(1)))
    assert runner.record == {}
    assert runner.controller.steps == 1


def test_completions_are_named_by_the_request_ids_of_vllm(runner: Runner) -> None:
    names = {0: "0_chatcmpl-a", 3: "2_chatcmpl-a", 1: "11_chatcmpl-a"}
    for slot, name in names.items():
        runner.add(slot, asking(None, 5, choices=12), name=name)
    runner.add(2, asking(None, 6), name="chatcmpl-b")
    runner.step(random_logits(4), [(0, 2), (1, 2), (2, 2), (3, 2)])
    assert set(runner.record) == {(5, 0, 0), (5, 2, 0), (5, 11, 0), (6, 0, 0)}


# -- rows --------------------------------------------------------------------------------------


def test_rows_follow_their_slot_in_whatever_order_they_come(runner: Runner) -> None:
    runner.add(0, asking(FIXED, 1))
    runner.add(1)
    runner.add(4, asking(ENTROPY_TARGET, 2))
    before = random_logits(3)
    after = runner.step(before.clone(), [(4, 5), (1, 9), (0, 2)])
    assert torch.equal(bits(after[1]), bits(before[1]))
    torch.testing.assert_close(after[2], before[2] / 0.5)
    assert entropy_from_logits(after[0]).item() == pytest.approx(1.0, abs=0.05)
    assert set(runner.record) == {(1, 0, 0), (2, 0, 3)}
    entropies = entropy_from_logits(before).tolist()
    assert runner.record[1, 0, 0][0] == pytest.approx(entropies[2], abs=1e-5)
    assert runner.record[2, 0, 3][0] == pytest.approx(entropies[0], abs=1e-5)


def test_every_row_of_a_request_with_draft_tokens_is_controlled_and_counted(
    runner: Runner,
) -> None:
    runner.add(3, asking(FIXED, 1))
    runner.add(1)
    before = random_logits(4)
    after = runner.step(before.clone(), [(3, 4), (3, 5), (3, 6), (1, 2)])
    torch.testing.assert_close(after[:3], before[:3] / 0.5)
    assert torch.equal(bits(after[3]), bits(before[3]))
    assert set(runner.record) == {(1, 0, 2), (1, 0, 3), (1, 0, 4)}


def test_rejected_draft_tokens_leave_no_trace(runner: Runner) -> None:
    runner.add(3, asking(FIXED, 1))
    runner.add(1, asking(ENTROPY_TARGET, 2))
    rows = [(3, 4), (3, 5), (3, 6), (1, 2), (1, 3)]
    runner.step(random_logits(5), rows, accepted={3: 2, 1: 1})
    assert set(runner.record) == {(1, 0, 2), (1, 0, 3), (2, 0, 0)}


@pytest.mark.parametrize("chunk", [1, 2, None])
def test_verification_in_chunks_changes_nothing(runner: Runner, chunk: int | None) -> None:
    runner.add(3, asking(FIXED, 1))
    runner.add(1)
    runner.add(0, asking(ENTROPY_TARGET, 2))
    rows = [(3, 4), (3, 5), (1, 2), (1, 3), (0, 6)]
    before = random_logits(5)
    after = runner.step(before.clone(), rows, accepted={3: 1, 1: 2}, chunk=chunk)
    torch.testing.assert_close(after[:2], before[:2] / 0.5)
    assert torch.equal(bits(after[2:4]), bits(before[2:4]))
    assert entropy_from_logits(after[4]).item() == pytest.approx(1.0, abs=0.05)
    assert set(runner.record) == {(1, 0, 2), (2, 0, 4)}


def test_only_rows_that_follow_a_target_are_solved(runner: Runner) -> None:
    runner.add(3, asking(FIXED, 1))
    runner.add(1, asking(ENTROPY_TARGET, 2))
    solved: list[int] = []
    decide = runner.controller.kernels.decide

    def count(
        logits: Tensor, base: Tensor, law: Tensor, parameters: Tensor, *, solve: bool
    ) -> RowDecision:
        solved.append(len(logits) if solve else 0)
        return decide(logits, base, law, parameters, solve=solve)

    runner.controller.kernels.decide = count  # type: ignore[method-assign]
    runner.step(random_logits(5), [(3, 4), (3, 5), (3, 6), (1, 2), (1, 3)])
    assert sum(solved) == 2


def test_every_step_of_the_engine_counts(runner: Runner) -> None:
    runner.add(0)
    runner.step(random_logits(1), [(0, 2)])
    assert runner.controller.steps == 1


def test_rows_of_a_prompt_that_is_still_read_are_not_published(runner: Runner) -> None:
    for slot in range(3):
        runner.add(slot, asking(FIXED, slot + 1))
    runner.prompt_len[:3] = 8
    runner.step(random_logits(3), [(0, 3), (1, 6), (2, 7)])  # the last prompt token is at 7
    assert set(runner.record) == {(3, 0, 0)}


def test_greedy_and_uncontrolled_rows_are_untouched_beside_controlled_ones(
    runner: Runner,
) -> None:
    runner.add(0, asking(ENTROPY_TARGET, 1), temperature=0.0)
    runner.add(1, asking(ENTROPY_TARGET, 2), temperature=0.7)
    runner.add(2, temperature=0.4)
    before = random_logits(3)
    before[:, 7] = -torch.inf
    after = runner.step(before.clone(), [(0, 2), (1, 2), (2, 2)])
    assert torch.equal(bits(after[[0, 2]]), bits(before[[0, 2]]))
    assert entropy_from_logits(after[1] / 0.7).item() == pytest.approx(1.0, abs=0.05)
    assert (after[:, 7] == -torch.inf).all()


def test_an_untraced_batch_is_controlled_and_publishes_nothing(runner: Runner) -> None:
    runner.add(0, asking(FIXED, trace=0))
    before = random_logits(1)
    torch.testing.assert_close(runner.step(before.clone(), [(0, 2)]), before / 0.5)
    assert runner.record == {}


# -- difficulty --------------------------------------------------------------------------------


def test_a_prompt_is_read_at_its_end_and_its_class_rules_the_answer(runner: Runner) -> None:
    model = Model()
    runner.controller.read_difficulty(model, {"m/probe": head()})
    decided: list[tuple[list[int], list[int]]] = []
    runner.record.publish_decisions = (  # type: ignore[attr-defined]
        lambda classes, probabilities, slots, directory: decided.append(
            (classes.tolist(), slots.tolist())
        )
    )
    runner.add(2, with_probe(trace=1), name="a")
    runner.add(0, with_probe(trace=2), name="b")
    before = random_logits(2)

    def step(hidden: list[Difficulty], rows: list[tuple[int, int]]) -> Tensor:
        return runner.step(before.clone(), rows, hidden=torch.stack([state(h) for h in hidden]))

    step([Difficulty.HARD, Difficulty.HARD], [(2, 1), (0, 0)])  # both prompts have three tokens
    assert decided == []
    after = step([Difficulty.EASY, Difficulty.HARD], [(2, 2), (0, 1)])
    assert decided == [([Difficulty.EASY], [2])]
    torch.testing.assert_close(after[0], before[0] / 0.5)
    after = step([Difficulty.HARD, Difficulty.NORMAL], [(0, 2), (2, 3)])
    torch.testing.assert_close(after, before / torch.tensor([[0.4], [0.5]]))


@pytest.mark.parametrize("chunk", [1, None])
def test_a_prompt_is_read_right_beside_draft_tokens(runner: Runner, chunk: int | None) -> None:
    """Row i of a step with drafts is not request i."""
    runner.controller.read_difficulty(Model(), {"m/probe": head()})
    decided: list[tuple[list[int], list[int]]] = []
    runner.record.publish_decisions = (  # type: ignore[attr-defined]
        lambda classes, probabilities, slots, directory: decided.append(
            (classes.tolist(), slots.tolist())
        )
    )
    runner.add(0)
    runner.add(2, with_probe(trace=1))
    drafting, asked = state(Difficulty.HARD), state(Difficulty.EASY)
    rows = [(0, 5), (0, 6), (0, 7), (2, 2)]
    hidden = torch.stack([drafting, drafting, drafting, asked])
    runner.step(random_logits(4), rows, hidden=hidden, accepted={0: 1}, chunk=chunk)
    assert decided == [([Difficulty.EASY], [2])]
