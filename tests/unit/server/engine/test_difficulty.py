"""The worker's side of difficulty, around vLLM's own batch and sampler."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from probes.difficulty.probe import Head
from probes.difficulty.strategies import Difficulty
from probes.laws import TemperatureLaw, law_row
from server.engine import difficulty as module
from server.worker.message import KEY, difficulty_control, engine_control
from tests.unit.server.engine.support import DYNATEMP, STATISTICS, asking, bits, random_logits
from tests.unit.server.engine.test_runner_v1 import Runner

FEATURES = 3
EASY, NORMAL, HARD = Difficulty
TEMPERATURES = (0.5, 0.8, 0.4)
END = 9


def head(sign: float = 1.0) -> Head:
    """Reads the class off the largest of three features."""
    return Head(
        mean=torch.zeros(FEATURES),
        scale=torch.ones(FEATURES),
        weight=sign * 10 * torch.eye(3),
        bias=torch.zeros(3),
        temperature=torch.tensor(1.0),
    )


def state(difficulty: Difficulty) -> Tensor:
    """A hidden state of that class."""
    return torch.eye(3)[difficulty]


def with_probe(
    trace: int = 5,
    probe: str = "m/probe",
    law: TemperatureLaw | None = None,
    temperatures: tuple[float, ...] = TEMPERATURES,
    budgets: tuple[int, ...] = (0, 0, 0),
    choices: int = 1,
    price: float = -1.0,
) -> dict[str, Any]:
    tag, row = law_row(law, STATISTICS)
    control = engine_control(
        law=tag,
        parameters=row,
        trace=trace,
        address="ipc:///nowhere",
        choices=choices,
        difficulty=difficulty_control(
            probe=probe,
            trace=trace,
            temperatures=temperatures,
            budgets=budgets,
            stop=END,
            price=price,
        ),
    )
    return {KEY: dict(control)}


class Model:
    """An output head that hands back what it was given."""

    def compute_logits(self, hidden: Tensor) -> Tensor:
        return hidden


class Bench:
    """A runner with two probes, and the decisions that leave it."""

    def __init__(self) -> None:
        self.runner = Runner()
        self.controller = self.runner.controller
        self.model = Model()
        heads = {"m/probe": head(), "m/other": head(-1.0)}
        self.controller.read_difficulty(self.model, heads)
        self.decisions: dict[tuple[int, int], tuple[int, list[float]]] = {}
        self.runner.record.publish_decisions = self.publish  # type: ignore[attr-defined]

    def publish(self, classes: Tensor, figures: Tensor, slots: Any, directory: Any) -> None:
        for slot, label, row in zip(slots, classes.tolist(), figures.tolist(), strict=True):
            key = (int(directory.traces[slot]), int(directory.choices[slot]))
            assert key not in self.decisions
            self.decisions[key] = (label, row)

    def step(self, hidden: list[Tensor], logits: Tensor | None = None) -> Tensor:
        """One step; returns the logits that the sampler gets."""
        self.runner.refresh()
        logits = random_logits(len(hidden)) if logits is None else logits.clone()
        self.model.compute_logits(torch.stack(hidden))
        self.runner.processor.before_sampling(logits)
        self.runner.processor.after_sampling(torch.zeros(len(hidden), dtype=torch.long))
        batch = self.runner.input_batch
        for row in range(len(hidden)):
            if not self.runner.discard_request_mask.np[row]:
                batch.num_tokens_no_spec[row] += 1
        return logits


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_each_class_draws_at_its_temperature_from_its_first_token_on(bench: Bench) -> None:
    for name, difficulty in zip("abc", Difficulty, strict=True):
        bench.runner.add(name, with_probe(trace=difficulty + 1), temperature=2.0)
    states = [state(difficulty) for difficulty in Difficulty]
    before = random_logits(3)
    for hidden in (states, states[::-1]):  # later states belong to answers and are not read
        after = bench.step(hidden, before)
        expected = before * 2.0 / torch.tensor(TEMPERATURES).unsqueeze(1)
        torch.testing.assert_close(after, expected)
    assert {key[0]: label for key, (label, _) in bench.decisions.items()} == {1: 0, 2: 1, 3: 2}


def test_a_law_works_around_the_temperature_of_the_class(bench: Bench) -> None:
    bench.runner.add("a", with_probe(law=DYNATEMP), temperature=1.0)
    bench.runner.add("b", asking(DYNATEMP, trace=6), temperature=TEMPERATURES[HARD])
    logits = random_logits(1).expand(2, -1).contiguous()
    bench.step([state(HARD), state(EASY)], logits)
    temperatures = {trace: one.temperature for (trace, *_), one in bench.runner.record.items()}
    assert temperatures[5] == pytest.approx(temperatures[6])
    assert temperatures[5] != pytest.approx(TEMPERATURES[HARD])


def test_a_greedy_request_stays_greedy(bench: Bench) -> None:
    bench.runner.add("a", with_probe(), temperature=0.0)
    before = random_logits(1)
    assert torch.equal(bits(bench.step([state(EASY)], before)), bits(before))
    assert bench.decisions[5, 0][0] == EASY


def test_without_temperatures_and_budgets_nothing_changes_but_the_report(bench: Bench) -> None:
    bench.runner.add("a", with_probe(temperatures=(0, 0, 0)), temperature=0.7)
    before = random_logits(1)
    for _ in range(20):
        assert torch.equal(bits(bench.step([state(HARD)], before)), bits(before))
    assert bench.decisions[5, 0][0] == HARD


def test_two_probes_in_one_batch_read_their_own_rows(bench: Bench) -> None:
    bench.runner.add("a", with_probe(trace=1), temperature=1.0)
    bench.runner.add("plain", None, temperature=1.0)
    bench.runner.add("b", with_probe(trace=2, probe="m/other"), temperature=1.0)
    mixed = torch.tensor([1.0, 0.5, 0.0])
    before = random_logits(3)
    after = bench.step([mixed, mixed, mixed], before)
    assert bench.decisions[1, 0][0] == EASY
    assert bench.decisions[2, 0][0] == HARD
    assert torch.equal(bits(after[1]), bits(before[1]))


def test_a_prompt_in_chunks_is_read_at_its_end(bench: Bench) -> None:
    bench.runner.add("a", with_probe(), temperature=1.0)
    bench.runner.discard_request_mask.np[0] = True
    before = random_logits(1)
    assert torch.equal(bits(bench.step([state(HARD)], before)), bits(before))
    assert not bench.decisions
    bench.runner.discard_request_mask.np[0] = False
    torch.testing.assert_close(bench.step([state(EASY)], before), before / TEMPERATURES[EASY])


def test_a_preempted_request_comes_back_as_what_it_was(bench: Bench) -> None:
    bench.runner.add("a", with_probe(), temperature=1.0)
    bench.step([state(HARD)])
    bench.runner.input_batch.remove_request("a")
    bench.runner.refresh()
    bench.runner.add("other", with_probe(trace=6), temperature=1.0)
    bench.step([state(EASY)])
    bench.runner.add("a", with_probe(), temperature=1.0)
    bench.runner.refresh()
    row = bench.runner.input_batch.req_id_to_index["a"]
    bench.runner.input_batch.num_tokens_no_spec[row] += 1  # it has a token already
    before = random_logits(2)
    after = bench.step([state(NORMAL)] * 2, before)
    torch.testing.assert_close(after[row], before[row] / TEMPERATURES[HARD])


def test_the_memory_of_decisions_is_bounded(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_REMEMBERED", 3)
    for trace in range(1, 9):
        bench.runner.add(str(trace), with_probe(trace=trace), temperature=1.0)
        bench.step([state(EASY)])
        bench.runner.input_batch.remove_request(str(trace))
    assert bench.controller.difficulty is not None
    assert len(bench.controller.difficulty.memory) == 3


def test_rows_that_move_keep_their_class(bench: Bench) -> None:
    names = [str(number) for number in range(4)]
    for number, name in enumerate(names):
        bench.runner.add(name, with_probe(trace=number + 1), temperature=1.0)
    classes = [EASY, HARD, NORMAL, HARD]
    bench.step([state(one) for one in classes])
    bench.runner.input_batch.remove_request("0")  # the last row takes its place
    bench.runner.refresh()
    before = random_logits(3)
    after = bench.step([state(EASY)] * 3, before)
    for row, name in enumerate(bench.runner.input_batch.req_ids[:3]):
        expected = before[row] / TEMPERATURES[classes[int(name)]]
        torch.testing.assert_close(after[row], expected)


def test_a_recycled_slot_leaks_nothing(bench: Bench) -> None:
    bench.runner.add("a", with_probe(budgets=(1, 1, 1)), temperature=1.0)
    bench.step([state(HARD)])
    bench.runner.input_batch.remove_request("a")
    bench.runner.add("b", asking(None), temperature=1.0)
    before = random_logits(1)
    assert torch.equal(bits(bench.step([state(EASY)], before)), bits(before))


def test_the_last_token_of_a_budget_can_only_be_the_end(bench: Bench) -> None:
    bench.runner.add("a", with_probe(budgets=(3, 0, 0), temperatures=(0, 0, 0)), temperature=1.0)
    bench.runner.add("b", with_probe(trace=6, budgets=(3, 0, 0)), temperature=1.0)
    bench.runner.add("plain", None, temperature=1.0)
    hidden = [state(EASY), state(NORMAL), state(EASY)]
    before = random_logits(3)
    for token in range(3):
        after = bench.step(hidden, before)
        assert torch.equal(bits(after[2]), bits(before[2]))
        assert after[1].isfinite().all()
        if token < 2:
            assert after[0].isfinite().all()
        else:
            assert after[0].argmax() == END
            assert (after[0] > -math.inf).sum() == 1


def test_logits_are_looked_through_at_the_budgets_of_the_classes_alone(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And not at every step behind the smallest, which a harder question goes on for."""
    looked: list[int] = []
    limit = module.DifficultySlots.limit

    def counted(control: module.DifficultySlots, *arguments: Any) -> None:
        looked.append(int(bench.runner.input_batch.num_tokens_no_spec[0]) - prompt)
        limit(control, *arguments)

    monkeypatch.setattr(module.DifficultySlots, "limit", counted)
    bench.runner.add("a", with_probe(budgets=(2, 0, 4)), temperature=1.0)
    bench.runner.refresh()
    prompt = int(bench.runner.input_batch.num_tokens_no_spec[0])
    for _ in range(6):
        bench.step([state(NORMAL)])
    assert looked == [1, 3]


def test_the_end_is_forced_even_where_a_mask_forbade_it(bench: Bench) -> None:
    bench.runner.add("a", with_probe(budgets=(1, 0, 0)), temperature=1.0)
    logits = random_logits(1)
    logits[0, END] = -math.inf
    after = bench.step([state(EASY)], logits)
    assert torch.softmax(after, -1)[0, END] == 1.0


def test_a_state_that_is_not_finite_is_normal_and_says_so(bench: Bench) -> None:
    bench.runner.add("a", with_probe(), temperature=1.0)
    before = random_logits(1)
    after = bench.step([torch.full((3,), math.nan)], before)
    torch.testing.assert_close(after, before / TEMPERATURES[NORMAL])
    label, probabilities = bench.decisions[5, 0]
    assert label == NORMAL
    assert all(math.isnan(value) for value in probabilities)


def test_a_failing_probe_leaves_the_answer_alone(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("no")

    monkeypatch.setattr(Head, "probabilities", fail)
    bench.runner.add("a", with_probe(), temperature=1.0)
    before = random_logits(1)
    assert torch.equal(bits(bench.step([state(EASY)], before)), bits(before))
    assert bench.controller.failures == 1


def test_completions_of_one_request_are_read_one_by_one(bench: Bench) -> None:
    for choice in range(2):
        bench.runner.add(f"{choice}_a", with_probe(choices=2), temperature=1.0)
    bench.step([state(EASY), state(HARD)])
    assert {key: label for key, (label, _) in bench.decisions.items()} == {
        (5, 0): EASY,
        (5, 1): HARD,
    }


def test_a_muted_rank_decides_like_the_one_that_reports(bench: Bench) -> None:
    bench.controller.report_to(None)
    bench.runner.add("a", with_probe(), temperature=1.0)
    before = random_logits(1)
    torch.testing.assert_close(bench.step([state(EASY)], before), before / TEMPERATURES[EASY])


def test_the_tap_hands_on_what_the_output_head_says() -> None:
    tap, model = module.Tap(), Model()
    tap.attach(model)
    hidden = torch.ones(2, 3)
    assert model.compute_logits(hidden) is hidden
    assert tap.hidden is hidden


def test_nobody_is_asked_where_no_row_has_a_probe(bench: Bench) -> None:
    bench.runner.add("a", asking(), temperature=1.0)
    bench.runner.refresh()
    (group,) = bench.controller.groups(np.arange(1))
    assert not group.has_probe


# -- by worth ----------------------------------------------------------------------------------


def routed(*kept: float) -> Head:
    """Features are the accuracies of the strategies; they take 0.2, 1 and 0.5 normal answers."""
    return head()._replace(
        router_weight=torch.cat([torch.eye(3), torch.zeros(3, 3)]),
        router_bias=torch.tensor([0.0, 0.0, 0.0, 0.2, 1.0, 0.5]),
        router_kept=torch.tensor(kept),
    )


@pytest.mark.parametrize(
    ("price", "expected"),
    [(-1.0, NORMAL), (0.0, NORMAL), (0.1, NORMAL), (0.3, HARD), (2.0, EASY)],
)
def test_the_price_moves_the_choice_from_accurate_to_short(
    bench: Bench, price: float, expected: Difficulty
) -> None:
    """.4 right at 0.2, .7 at 1 and .6 at 0.5 normal answers; the class is the largest of them."""
    bench.controller.read_difficulty(bench.model, {"m/probe": routed(1, 1, 1)})
    bench.runner.add("a", with_probe(price=price), temperature=2.0)
    before = random_logits(1)
    after = bench.step([torch.tensor([0.4, 0.7, 0.6])], before)
    label, figures = bench.decisions[5, 0]
    assert label == expected
    distance = math.sqrt((0.4**2 + 0.7**2 + 0.6**2) / 3)
    assert figures[3:] == pytest.approx([0.4, 0.7, 0.6, 0.2, 1.0, 0.5, distance])
    torch.testing.assert_close(after, before * 2.0 / TEMPERATURES[expected])


def test_requests_of_one_step_have_prices_of_their_own(bench: Bench) -> None:
    bench.controller.read_difficulty(bench.model, {"m/probe": routed(1, 1, 1)})
    for trace, price in ((1, 2.0), (2, 0.0), (3, -1.0)):
        bench.runner.add("abc"[trace - 1], with_probe(trace=trace, price=price))
    bench.step([torch.tensor([0.4, 0.6, 0.7])] * 3)
    assert [bench.decisions[trace, 0][0] for trace in (1, 2, 3)] == [EASY, HARD, HARD]


def test_a_price_leaves_with_its_request(bench: Bench) -> None:
    bench.controller.read_difficulty(bench.model, {"m/probe": routed(1, 1, 1)})
    bench.runner.add("a", with_probe(trace=1, price=2.0))
    bench.step([torch.tensor([0.4, 0.6, 0.7])])
    bench.runner.input_batch.remove_request("a")
    bench.runner.add("b", with_probe(trace=2))
    bench.step([torch.tensor([0.4, 0.6, 0.7])])
    assert [bench.decisions[trace, 0][0] for trace in (1, 2)] == [EASY, HARD]


def test_a_dropped_strategy_is_never_chosen_by_worth(bench: Bench) -> None:
    bench.controller.read_difficulty(bench.model, {"m/probe": routed(1, 1, 0)})
    bench.runner.add("a", with_probe(price=0.0))
    bench.step([torch.tensor([0.4, 0.6, 0.7])])
    assert bench.decisions[5, 0][0] == NORMAL


def test_a_state_that_is_not_finite_is_normal_at_any_price(bench: Bench) -> None:
    bench.controller.read_difficulty(bench.model, {"m/probe": routed(1, 1, 1)})
    bench.runner.add("a", with_probe(price=2.0))
    bench.step([torch.tensor([math.nan, 0.6, 0.7])])
    label, figures = bench.decisions[5, 0]
    assert label == NORMAL
    assert all(math.isnan(value) for value in figures)
