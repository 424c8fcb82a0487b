"""The worker reads the state at the end of a prompt, once, for requests that ask."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from server.worker.message import KEY
from tests.selective_artifacts import state_reader
from tests.unit.server.engine import test_runner_v2 as v2
from tests.unit.server.engine.support import asking, bits, random_logits
from tests.unit.server.engine.test_difficulty import Model, head
from tests.unit.server.engine.test_runner_v1 import Runner

SIZE = 5
READERS = {"m/one": state_reader(SIZE), "m/two": state_reader(SIZE, 2)}


def reading(trace: int = 5, probe: str = "m/one", **control: Any) -> dict[str, Any]:
    return asking(None, trace=trace, state=probe, **control)


class Published(dict[tuple[int, int], list[float]]):
    """What was published: (trace, choice) -> score and distance."""

    def __call__(self, figures: Tensor, slots: Any, directory: Any) -> None:
        for slot, row in zip(slots.tolist(), figures.tolist(), strict=True):
            key = (int(directory.traces[slot]), int(directory.choices[slot]))
            assert key not in self, "read twice"
            self[key] = row


class Bench:
    """A V1 runner with two confidence probes."""

    def __init__(self) -> None:
        self.runner, self.model, self.published = Runner(), Model(), Published()
        self.runner.controller.read_states(self.model, READERS)
        self.runner.record.publish_states = self.published  # type: ignore[attr-defined]

    def step(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """One step; returns the logits before and after."""
        self.runner.refresh()
        before = random_logits(len(hidden))
        after = before.clone()
        self.model.compute_logits(hidden)
        self.runner.processor.before_sampling(after)
        self.runner.processor.after_sampling(torch.zeros(len(hidden), dtype=torch.long))
        batch = self.runner.input_batch
        for row in range(len(hidden)):
            if not self.runner.discard_request_mask.np[row]:
                batch.num_tokens_no_spec[row] += 1
        return before, after


def expected(probe: str, state: Tensor) -> Any:
    return pytest.approx(READERS[probe].read(state[None])[0].tolist(), rel=1e-5, abs=1e-5)


def test_each_request_is_read_by_its_probe_at_its_first_token_only() -> None:
    bench, hidden = Bench(), torch.randn(4, SIZE)
    bench.runner.add("a", reading(1))
    bench.runner.add("plain", None)
    bench.runner.add("b", reading(2, "m/two"))
    bench.runner.add("traced", asking(None, trace=3))
    before, after = bench.step(hidden)
    assert torch.equal(bits(before), bits(after))
    for _ in range(3):
        bench.step(torch.randn(4, SIZE))
    assert bench.published == {
        (1, 0): expected("m/one", hidden[0]),
        (2, 0): expected("m/two", hidden[2]),
    }
    assert bench.runner.controller.failures == 0


def test_a_request_without_a_class_pays_for_no_difficulty_probe(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bench = Bench()
    bench.runner.controller.read_difficulty(bench.model, {"m/probe": head()})
    assert bench.runner.controller.difficulty is not None
    monkeypatch.setattr(bench.runner.controller.difficulty, "base", None)
    bench.runner.add("a", reading())
    for _ in range(2):
        bench.step(torch.randn(1, SIZE))
    assert bench.runner.controller.failures == 0
    assert len(bench.published) == 1


def test_a_prompt_in_chunks_is_read_at_its_end_and_a_resumed_one_not_again() -> None:
    bench, end = Bench(), torch.randn(1, SIZE)
    bench.runner.add("a", reading())
    bench.runner.discard_request_mask.np[0] = True
    bench.step(torch.randn(1, SIZE))
    assert not bench.published
    bench.runner.discard_request_mask.np[0] = False
    bench.step(end)
    assert bench.published == {(5, 0): expected("m/one", end[0])}
    bench.runner.input_batch.remove_request("a")
    bench.runner.refresh()
    bench.runner.add("a", reading())
    bench.runner.refresh()
    bench.runner.input_batch.num_tokens_no_spec[0] += 1
    bench.step(torch.randn(1, SIZE))  # the publisher refuses a second record


def test_a_probe_moves_with_its_request() -> None:
    bench, hidden = Bench(), torch.randn(2, SIZE)
    bench.runner.add("plain", None)
    bench.runner.add("a", reading())
    bench.runner.refresh()
    bench.runner.input_batch.swap_states(0, 1)
    bench.step(hidden)
    assert bench.published == {(5, 0): expected("m/one", hidden[0])}


def test_an_unknown_probe_fails_its_request_alone() -> None:
    bench, hidden = Bench(), torch.randn(2, SIZE)
    bench.runner.add("a", reading(1, "m/none"))
    bench.runner.add("b", reading(2))
    bench.step(hidden)
    assert bench.published == {(2, 0): expected("m/one", hidden[1])}
    assert bench.runner.controller.failures == 1


def test_the_same_on_v2() -> None:
    runner, published = v2.Runner(), Published()
    runner.controller.read_states(Model(), READERS)
    runner.record.publish_states = published  # type: ignore[attr-defined]
    runner.add(2, reading(1), name="a")
    runner.add(0, reading(2), name="b")
    hidden = torch.randn(2, SIZE)
    logits = random_logits(2)
    runner.step(logits.clone(), [(2, 1), (0, 0)], hidden=hidden)  # both prompts have three tokens
    assert published == {}
    after = runner.step(logits.clone(), [(2, 2), (0, 1)], hidden=hidden)
    assert torch.equal(bits(after), bits(logits))
    runner.step(logits.clone(), [(0, 2), (2, 3)], hidden=hidden)
    assert published == {
        (1, 0): expected("m/one", hidden[0]),
        (2, 0): expected("m/one", hidden[0]),
    }


def test_beside_a_difficulty_probe_each_reads_its_own() -> None:
    from tests.unit.server.engine.test_difficulty import Bench as Difficult
    from tests.unit.server.engine.test_difficulty import state, with_probe

    bench, published = Difficult(), Published()
    bench.controller.read_states(bench.model, {"m/one": state_reader(3, 2)})
    bench.runner.record.publish_states = published  # type: ignore[attr-defined]
    both = with_probe()
    both[KEY]["state"] = "m/one"
    bench.runner.add("a", both, temperature=1.0)
    bench.runner.add("b", reading(6), temperature=1.0)
    bench.step([state(0), state(2)])  # type: ignore[arg-type]
    assert set(published) == {(5, 0), (6, 0)}
    assert bench.decisions[5, 0][0] == 0
    assert set(bench.decisions) == {(5, 0)}
    assert not bench.controller.has_probes(np.array([1]))
