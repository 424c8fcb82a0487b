"""Rows of the tables, and which token reads which: on a layer of one matrix."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from server.engine.steering import Size, SteeringControl, num_rows
from server.engine.steering_hooks import decoder_layers
from server.worker.message import SteeringMessage, steering_control
from tests.unit.server.engine.support import request

HIDDEN, SLOTS, TOKENS = 4, 3, 16
VECTORS = {
    "m/a": {0: torch.tensor([1.0, 0, 0, 0]), 1: torch.tensor([0.0, 2, 0, 0])},
    "m/b": {1: torch.tensor([0.0, 0, 3, 0])},
}


class Layer(nn.Module):
    """Returns the stream in two parts, as vLLM's decoder layers do."""

    def forward(self, hidden: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:
        return hidden, residual


def make(rows: int = SLOTS, slots: int = SLOTS) -> tuple[SteeringControl, dict[int, Layer]]:
    layers = {0: Layer(), 1: Layer()}
    size = Size(slots, rows, TOKENS)
    return SteeringControl(size, layers, VECTORS, torch.zeros(HIDDEN)), layers


def asking(name: str = "m/a", factor: float = 1.0, *, everywhere: bool = False) -> SteeringMessage:
    add = [(name, layer, factor) for layer in VECTORS[name]]
    key = f"{name}:{factor}:{everywhere}"
    return steering_control(key=key, add=add, clamp=[], everywhere=everywhere)


def added(layer: Layer, tokens: int) -> Tensor:
    """What a layer adds to each token."""
    zeros = torch.zeros(tokens, HIDDEN)
    hidden: torch.Tensor
    hidden, residual = layer(zeros, zeros)
    assert residual is zeros
    return hidden


def step(control: SteeringControl, *requests: tuple[int, int, int], prompt: int = 1) -> None:
    """Requests as (slot, tokens computed already, tokens now)."""
    slots, starts, counts = np.array(requests).T
    control.assign_rows(slots, starts, counts, np.full(len(slots), prompt))


def test_only_the_last_token_of_a_prompt_and_the_answer_are_steered() -> None:
    control, layers = make()
    control.add(0, request(asking("m/a", 2.0)))
    step(control, (0, 0, 3), prompt=5)
    assert not added(layers[0], 3).any()
    step(control, (0, 3, 2), prompt=5)
    assert added(layers[0], 2)[:, 0].tolist() == [0, 2]
    assert added(layers[1], 2)[:, 1].tolist() == [0, 4]
    step(control, (0, 5, 1), prompt=5)
    assert added(layers[0], 1)[:, 0].tolist() == [2]
    control.add(1, request(asking(everywhere=True)))
    step(control, (1, 0, 3), prompt=5)
    assert added(layers[0], 3)[:, 0].tolist() == [1, 1, 1]


def test_a_request_that_starts_again_is_steered_where_it_was() -> None:
    """Preempted, its prompt and what it had answered are computed anew, in one step or several."""
    control, layers = make()
    control.add(2, request(asking()))
    step(control, (2, 0, 7), prompt=4)
    assert added(layers[0], 7)[:, 0].tolist() == [0, 0, 0, 1, 1, 1, 1]
    control.remove(2)
    control.add(0, request(asking()))
    step(control, (0, 0, 5), prompt=4)
    assert added(layers[0], 5)[:, 0].tolist() == [0, 0, 0, 1, 1]
    step(control, (0, 5, 2), prompt=4)
    assert added(layers[0], 2)[:, 0].tolist() == [1, 1]


def test_draft_tokens_are_steered_like_those_they_stand_for() -> None:
    control, layers = make()
    control.add(0, request(asking()))
    control.add(1, request(asking("m/b")))
    step(control, (0, 9, 4), (2, 3, 3), (1, 5, 1), prompt=4)
    assert added(layers[1], 8).any(-1).tolist() == [True] * 4 + [False] * 3 + [True]


def test_a_mixed_batch_keeps_its_rows_apart() -> None:
    control, layers = make()
    control.add(0, request(asking("m/a")))
    control.add(2, request(asking("m/b", -1.0)))
    step(control, (2, 4, 1), (1, 0, 3), (0, 9, 1))
    assert added(layers[1], 5).tolist() == [
        [0, 0, -3, 0],
        *[[0, 0, 0, 0]] * 3,
        [0, 2, 0, 0],
    ]
    assert added(layers[0], 5)[:, 0].tolist() == [0, 0, 0, 0, 1]


def test_padding_and_later_steps_find_nothing_left_over() -> None:
    control, layers = make()
    control.add(0, request(asking()))
    step(control, (0, 1, 6))
    assert added(layers[0], 8)[:, 0].tolist() == [1] * 6 + [0] * 2
    control.remove(0)
    step(control, (0, 7, 2))
    assert not added(layers[0], 8).any()


def test_nothing_is_written_while_nobody_is_steered(monkeypatch: pytest.MonkeyPatch) -> None:
    control, _ = make()
    monkeypatch.setattr(torch, "from_numpy", lambda _: pytest.fail("wrote to the device"))
    step(control, (0, 0, 4), (1, 3, 1))


def test_the_stream_is_held_inside_a_band() -> None:
    control, layers = make()
    band = steering_control(key="c", add=[], clamp=[("m/b", 1, -1.0, 0.5)], everywhere=True)
    control.add(0, request(band))
    step(control, (0, 0, 3))
    residual = torch.zeros(3, HIDDEN)
    residual[:, 2] = torch.tensor([-4.0, 0.2, 4.0])
    hidden, _ = layers[1](torch.ones(3, HIDDEN) * 0.1, residual)
    assert (hidden + residual)[:, 2].tolist() == pytest.approx([-1.0, 0.3, 0.5])
    assert torch.allclose(hidden[:, [0, 1, 3]], torch.tensor(0.1))


@given(st.data())
@settings(deadline=None, max_examples=60)
def test_any_coming_and_going_leaves_everybody_with_their_own(data: st.DataObject) -> None:
    """Also with fewer rows than slots, while no more kinds are there than were admitted."""
    rows = data.draw(st.integers(1, SLOTS))
    control, layers = make(rows)
    steered_slots: dict[int, tuple[float, bool]] = {}
    for _ in range(data.draw(st.integers(1, 30))):
        slot, other = data.draw(st.integers(0, 2)), data.draw(st.integers(0, 2))
        match data.draw(st.sampled_from(["add", "plain", "remove", "swap"])):
            case "add":
                kind = float(data.draw(st.integers(1, 4))), data.draw(st.booleans())
                others = {kind for place, kind in steered_slots.items() if place != slot}
                if len(others | {kind}) > rows:
                    continue
                steered_slots[slot] = kind
                control.add(slot, request(asking("m/a", kind[0], everywhere=kind[1])))
            case "plain":
                control.add(slot, request(None))
                steered_slots.pop(slot, None)
            case "remove":
                control.remove(slot)
                steered_slots.pop(slot, None)
            case "swap":
                control.swap(slot, other)
                one, two = steered_slots.pop(slot, None), steered_slots.pop(other, None)
                if slot == other:
                    one = two = one or two
                steered_slots |= {k: v for k, v in ((other, one), (slot, two)) if v is not None}
        kinds = [steered_slots.get(place, (0.0, False)) for place in range(SLOTS)]
        step(control, *[(place, 7, 1) for place in range(SLOTS)], prompt=5)
        assert added(layers[0], SLOTS)[:, 0].tolist() == [factor for factor, _ in kinds]
        step(control, *[(place, 2, 1) for place in range(SLOTS)], prompt=5)
        assert added(layers[0], SLOTS)[:, 0].tolist() == [f * everywhere for f, everywhere in kinds]
        assert control.steered() == sorted(steered_slots)


def test_a_row_is_written_once_for_all_of_a_kind_and_kept_for_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    control, layers = make(rows=2)
    written: list[int] = []
    write = SteeringControl.write_row

    def counting(self: SteeringControl, row: Any, kind: Any) -> None:
        written.append(row)
        write(self, row, kind)

    monkeypatch.setattr(SteeringControl, "write_row", counting)
    for slot in (0, 1):
        control.add(slot, request(asking("m/a", 3.0)))
    control.remove(0)
    control.remove(1)
    control.add(2, request(asking("m/a", 3.0)))
    assert len(written) == 1
    control.add(0, request(asking("m/b")))
    control.remove(2)
    control.add(2, request(asking("m/a", 4.0)))  # takes the idle row, not that of m/b
    step(control, (2, 7, 1), (0, 7, 1))
    assert added(layers[0], 2)[:, 0].tolist() == [4, 0]
    assert added(layers[1], 2)[1].tolist() == [0, 0, 3, 0]


def test_a_request_for_which_no_row_is_free_raises() -> None:
    """The controller then says that it is not steered."""
    control, _ = make(rows=1)
    control.add(0, request(asking("m/a")))
    with pytest.raises(RuntimeError, match="admitted"):
        control.add(1, request(asking("m/b")))


@pytest.mark.parametrize(("admitted", "rows"), [(None, 8), (1, 2), (3, 6), (4, 8), (100, 8)])
def test_there_are_rows_for_all_that_may_be_there_at_once(admitted: int | None, rows: int) -> None:
    assert num_rows(8, admitted) == rows


def test_a_model_of_another_family_is_refused_by_name() -> None:
    class Mystery(nn.Module):
        pass

    with pytest.raises(ValueError, match="Mystery"):
        decoder_layers(Mystery(), [3])


def test_a_layer_that_the_model_lacks_is_named() -> None:
    class LlamaForCausalLM(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            model: Any = nn.Module()
            model.layers = nn.ModuleList([Layer(), Layer()])
            model.start_layer, model.end_layer = 0, 2
            self.model = model

    model = LlamaForCausalLM()
    assert list(decoder_layers(model, [1])) == [1]
    with pytest.raises(ValueError, match="no layer 2"):
        decoder_layers(model, [0, 2])
