"""Rows of the tables, and which token reads which: on a layer of one matrix."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from server.control import steering_control
from server.engine.steering import SteeringControl, decoder_layers

HIDDEN, SLOTS, TOKENS = 4, 3, 16
VECTORS = {
    "m/a": {0: torch.tensor([1.0, 0, 0, 0]), 1: torch.tensor([0.0, 2, 0, 0])},
    "m/b": {1: torch.tensor([0.0, 0, 3, 0])},
}


class Layer(nn.Module):
    """Returns the stream in two parts, as vLLM's decoder layers do."""

    def forward(self, hidden: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:
        return hidden, residual


def make() -> tuple[SteeringControl, dict[int, Layer]]:
    layers = {0: Layer(), 1: Layer()}
    return SteeringControl(SLOTS, TOKENS, layers, VECTORS, torch.zeros(HIDDEN)), layers


def asking(name: str = "m/a", factor: float = 1.0, *, everywhere: bool = False) -> dict[str, Any]:
    add = [(name, layer, factor) for layer in VECTORS[name]]
    key = f"{name}:{factor}:{everywhere}"
    return steering_control(key=key, add=add, clamp=[], everywhere=everywhere)


def added(layer: Layer, tokens: int) -> Tensor:
    """What a layer adds to each token."""
    zeros = torch.zeros(tokens, HIDDEN)
    hidden, residual = layer(zeros, zeros)
    assert residual is zeros
    return hidden


def step(control: SteeringControl, *requests: tuple[int, int, int]) -> None:
    """Requests as (slot, tokens computed already, tokens now)."""
    slots, starts, counts = np.array(requests).T
    control.mark(slots, starts, counts)


def test_only_the_last_token_of_a_prompt_and_the_answer_are_steered() -> None:
    control, layers = make()
    control.add(0, asking("m/a", 2.0), prompt_tokens=5)
    step(control, (0, 0, 3))
    assert not added(layers[0], 3).any()
    step(control, (0, 3, 2))
    assert added(layers[0], 2)[:, 0].tolist() == [0, 2]
    assert added(layers[1], 2)[:, 1].tolist() == [0, 4]
    step(control, (0, 5, 1))
    assert added(layers[0], 1)[:, 0].tolist() == [2]
    control.add(1, asking(everywhere=True), prompt_tokens=5)
    step(control, (1, 0, 3))
    assert added(layers[0], 3)[:, 0].tolist() == [1, 1, 1]


def test_a_mixed_batch_keeps_its_rows_apart() -> None:
    control, layers = make()
    control.add(0, asking("m/a"), 1)
    control.add(2, asking("m/b", -1.0), 1)
    step(control, (2, 4, 1), (1, 0, 3), (0, 9, 1))
    assert added(layers[1], 5).tolist() == [
        [0, 0, -3, 0],
        *[[0, 0, 0, 0]] * 3,
        [0, 2, 0, 0],
    ]
    assert added(layers[0], 5)[:, 0].tolist() == [0, 0, 0, 0, 1]


def test_padding_and_later_steps_find_nothing_left_over() -> None:
    control, layers = make()
    control.add(0, asking(), 1)
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
    control.add(0, band, 1)
    step(control, (0, 0, 3))
    residual = torch.zeros(3, HIDDEN)
    residual[:, 2] = torch.tensor([-4.0, 0.2, 4.0])
    hidden, _ = layers[1](torch.ones(3, HIDDEN) * 0.1, residual)
    assert (hidden + residual)[:, 2].tolist() == pytest.approx([-1.0, 0.3, 0.5])
    assert torch.allclose(hidden[:, [0, 1, 3]], torch.tensor(0.1))


@given(st.data())
@settings(deadline=None, max_examples=60)
def test_any_coming_and_going_leaves_everybody_with_their_own(data: st.DataObject) -> None:
    control, layers = make()
    seated: dict[int, float] = {}
    for _ in range(data.draw(st.integers(1, 30))):
        slot, other = data.draw(st.integers(0, 2)), data.draw(st.integers(0, 2))
        match data.draw(st.sampled_from(["add", "plain", "remove", "swap"])):
            case "add":
                seated[slot] = float(data.draw(st.integers(1, 6)))
                control.add(slot, asking("m/a", seated[slot]), 1)
            case "plain":
                control.add(slot, None, 1)
                seated.pop(slot, None)
            case "remove":
                control.remove(slot)
                seated.pop(slot, None)
            case "swap":
                control.swap(slot, other)
                one, two = seated.pop(slot, None), seated.pop(other, None)
                if slot == other:
                    one = two = one or two
                seated |= {k: v for k, v in ((other, one), (slot, two)) if v is not None}
        step(control, *[(place, 7, 1) for place in range(SLOTS)])
        got = added(layers[0], SLOTS)[:, 0].tolist()
        assert got == [seated.get(place, 0.0) for place in range(SLOTS)]


def test_a_model_of_another_family_is_refused_by_name() -> None:
    class Mystery(nn.Module):
        pass

    with pytest.raises(ValueError, match="Mystery"):
        decoder_layers(Mystery(), [3])


def test_a_layer_that_the_model_lacks_is_named() -> None:
    class LlamaForCausalLM(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model: Any = nn.Module()
            self.model.layers = nn.ModuleList([Layer(), Layer()])
            self.model.start_layer, self.model.end_layer = 0, 2

    model = LlamaForCausalLM()
    assert list(decoder_layers(model, [1])) == [1]
    with pytest.raises(ValueError, match="no layer 2"):
        decoder_layers(model, [0, 2])
