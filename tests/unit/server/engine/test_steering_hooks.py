"""A steered request writes finite states, whatever the wire allows: the hooks on tiny layers."""

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from probes.artifact import Artifact, Manifest
from probes.steering import SteeringSpec, stream_limit, tensor_name
from server.artifacts import Artifacts
from server.engine.steering import Size, SteeringControl
from server.engine.steering_hooks import LayerSteering, LayerTable, guard_attention
from server.errors import BadControl
from server.planning.steering import plan_steering
from server.served_model import ModelFacts
from server.wire.request import Steer
from tests.unit.server.engine.support import bits, request
from tests.unit.server.engine.test_steering import Layer
from tests.unit.server.support import SERVED

HIDDEN, TOKENS, LAYERS = 16, 6, 3
DTYPES = [torch.float16, torch.bfloat16, torch.float32]
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)


class Attention(nn.Module):
    """Keeps the keys and values that it would write into the KV cache."""

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        self.key, self.value = key, value
        return value


class Decoder(nn.Module):
    """Norm, attention and an MLP without a norm before it, which multiplies two projections."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self_attn: Any = nn.Module()
        self_attn.attn = Attention()
        self.self_attn = self_attn
        self.weights = nn.ParameterList(
            nn.Parameter(torch.randn(HIDDEN, HIDDEN).to(dtype)) for _ in range(5)
        )

    def forward(self, hidden: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:
        query, key, value, up, gate = self.weights
        residual = hidden + residual
        wide = residual.float()
        x = (wide * (wide.square().mean(-1, keepdim=True) + 1e-6).rsqrt()).to(hidden.dtype)
        seen = self.self_attn.attn(x @ query, x @ key, x @ value)
        residual = residual + seen
        # Nothing bounds this product: a stream far away overflows here in float16.
        return (residual @ up) * torch.sigmoid(residual @ gate), residual


class Model(nn.Module):
    """Three decoder layers at the place where vLLM's models have them."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        torch.manual_seed(0)
        model: Any = nn.Module()
        model.layers = nn.ModuleList(Decoder(dtype) for _ in range(LAYERS))
        model.start_layer, model.end_layer = 0, LAYERS
        self.model = model

    def forward(self, hidden: Tensor) -> Tensor:
        residual = torch.zeros_like(hidden)
        for layer in self.model.layers:
            hidden, residual = layer(hidden, residual)
        return hidden + residual

    @property
    def cached(self) -> list[Tensor]:
        """Keys and values of every layer, shape (tokens, hidden)."""
        attentions = [layer.self_attn.attn for layer in self.model.layers]
        return [part for one in attentions for part in (one.key, one.value)]


def save(root: Path, name: str, entry: float, norm: float) -> None:
    """A vector for the first two layers; the artifact keeps float64."""
    layers = (0, 1)
    manifest = Manifest(
        kind="steering-vector",
        model="m",
        identity=SERVED,
        data_hash="d",
        seed=0,
        steering=SteeringSpec(features=HIDDEN, norms=dict.fromkeys(layers, norm)),
    )
    signs = torch.ones(HIDDEN, dtype=torch.float64)
    signs[::2] = -1.0
    tensors = {tensor_name(layer): signs * entry for layer in layers}
    Artifact(id=name, manifest=manifest, tensors=tensors).save(root)


ENTRIES = [1e-300, 1e-30, 1e-7, 1.0, 60.0, 6e4, 1e37, 1e300]
NORMS = [0.0, 1e-300, 1.0, 6e4, 3e38, 1e308]
AMOUNTS: list[dict[str, Any]] = [
    *({"strength": value} for value in (-1000.0, -1.0, 5e-324, 1.0, 1000.0)),
    *({"strength_relative": value} for value in (-10.0, 1e-300, 1.0, 10.0)),
    *({"clamp": band} for band in ((1e6, 1e6), (-1e6, -1e6), (6e4, 6e4), (-1e6, 1e6), (0.0, 0.0))),
]


class Bench:
    """A model whose first three tokens are steered; the other three are another request's."""

    def __init__(self, dtype: torch.dtype, artifacts: Artifacts) -> None:
        self.artifacts = artifacts
        self.model = Model(dtype)
        layers = dict(enumerate(self.model.model.layers[:2]))
        stream = torch.zeros(HIDDEN, dtype=dtype)
        vectors = artifacts.steering_vectors()
        self.control = SteeringControl(Size(2, 2, TOKENS), layers, vectors, stream)
        guard_attention(self.model, 0)
        draw = torch.Generator().manual_seed(1)
        self.start = torch.randn(TOKENS, HIDDEN, generator=draw).to(dtype)

    @torch.inference_mode()
    def run(self, wanted: list[Steer]) -> list[Tensor]:
        """Keys and values of all layers, and the stream at the end."""
        self.control.add(
            0, request(plan_steering(wanted, self.artifacts).control if wanted else None)
        )
        zeros = np.array([0, 0])
        self.control.assign_rows(np.array([0, 1]), zeros, zeros + 3, zeros + 1)
        output = self.model(self.start)
        return [*self.model.cached, output]


@each_dtype
def test_every_accepted_amount_writes_finite_states_and_leaves_the_neighbor_alone(
    dtype: torch.dtype, tmp_path: Path
) -> None:
    """A grid of vectors, norms, amounts and sums; what is refused is refused by name."""
    for number, (entry, norm) in enumerate(itertools.product(ENTRIES, NORMS)):
        save(tmp_path, f"m/{number}", entry, norm)
    artifacts = Artifacts([tmp_path], SERVED, ModelFacts(HIDDEN, dtype))
    bench = Bench(dtype, artifacts)
    unsteered = bench.run([])
    usable = [card.id for card in artifacts.cards if card.usable]
    ran, refused = 0, dict[str, int]()
    for name, amount, positions in itertools.product(usable, AMOUNTS, ("answer", "all")):
        repeats = 1 if "clamp" in amount else int(ran % 2 * 7) + 1
        try:
            found = bench.run([Steer(vector=name, positions=positions, **amount)] * repeats)
        except BadControl as error:
            refused[error.param] = refused.get(error.param, 0) + 1
            continue
        ran += 1
        assert all(part.isfinite().all() for part in found[:-1]), (name, amount)
        for now, before in zip(found, unsteered, strict=True):
            assert torch.equal(raw(now[3:]), raw(before[3:])), (name, amount)
    assert ran > 100
    assert "entropy.steering.0.strength" in refused
    assert all(param.startswith("entropy.steering.") for param in refused)


def raw(values: Tensor) -> Tensor:
    """For comparisons bit by bit."""
    return bits(values.float().contiguous())


@each_dtype
def test_a_vector_that_the_type_cannot_hold_is_listed_with_the_reason(
    dtype: torch.dtype, tmp_path: Path
) -> None:
    for number, (entry, norm) in enumerate(((1e300, 1.0), (1.0, 1e308), (math.nan, 1.0))):
        save(tmp_path, f"m/{number}", entry, norm)
    cards = Artifacts([tmp_path], SERVED, ModelFacts(HIDDEN, dtype)).cards
    assert [card.usable for card in cards] == [False] * 3
    assert "entry" in str(cards[0].reason)
    assert "stream norm" in str(cards[1].reason)
    assert "no finite numbers" in str(cards[2].reason)


@each_dtype
@pytest.mark.parametrize("odd", [math.nan, math.inf, -math.inf])
def test_a_stream_that_is_not_finite_before_steering_is_finite_behind_it(
    dtype: torch.dtype, odd: float
) -> None:
    """And an unsteered one passes unchanged: stock vLLM's result is not ours to repair."""
    layer = Layer()
    rows = torch.tensor([1, 0])
    table = LayerTable(layer, 2, torch.zeros(HIDDEN, dtype=dtype), rows)
    table.write(1, LayerSteering(torch.ones(HIDDEN), torch.eye(HIDDEN)[0], 5.0, 5.0))
    hidden = torch.ones(2, HIDDEN, dtype=dtype)
    hidden[:, 3] = odd
    after, residual = layer(hidden, torch.ones_like(hidden))
    assert (after + residual)[0].isfinite().all()
    assert (after + residual)[0].abs().max() <= stream_limit(dtype)
    assert (after + residual)[0, 0] == 5.0
    assert torch.equal(raw(after[1]), raw(hidden[1]))


def test_a_row_never_holds_a_number_that_is_not_finite() -> None:
    layer: Any = Layer()
    table = LayerTable(layer, 2, torch.zeros(HIDDEN, dtype=torch.float16), torch.zeros(4).long())
    with pytest.raises(ValueError, match="not finite"):
        table.write(1, LayerSteering(torch.full((HIDDEN,), 1e5)))
    assert not layer.steering_sum.any()


def test_keys_and_values_are_finite_where_a_layer_between_overflows() -> None:
    """Steering alone cannot bound what a layer makes of a stream at the end of its range."""
    model = Model(torch.float16)
    guard_attention(model, 0)
    model(torch.full((2, HIDDEN), 3e4, dtype=torch.float16))
    assert all(part.isfinite().all() for part in model.cached[2:])
