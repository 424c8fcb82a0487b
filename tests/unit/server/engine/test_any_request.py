"""Whatever passes validation does no harm in the worker, where an exception ends the engine."""

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import nullcontext
from dataclasses import astuple
from random import Random
from types import NoneType, SimpleNamespace, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, TypeAdapter, ValidationError
from torch import Tensor
from vllm.sampling_params import SamplingParams
from vllm.v1.serial_utils import MsgpackDecoder, MsgpackEncoder

from server.artifacts import Artifacts
from server.engine.steering import Size, SteeringControl
from server.errors import BadControl
from server.planning.plan import ControlSources, make_plan
from server.planning.refusals import RequestParams
from server.planning.thinking import ThinkingMarks
from server.requests.generation import ControlledEngine, Generation
from server.requests.telemetry import Telemetry
from server.wire.request import Control
from tests.unit.server.engine import test_runner_v1 as v1
from tests.unit.server.engine import test_runner_v2 as v2
from tests.unit.server.engine.support import VOCAB, bits, random_logits
from tests.unit.server.engine.test_difficulty import END, Model
from tests.unit.server.engine.test_steering import Layer
from tests.unit.server.support import (
    HIDDEN_SIZE,
    artifacts,
    save_probe,
    save_statistics,
    save_vector,
)

ROWS, PROMPT = v2.NUM_SLOTS, 3  # requests at once, tokens of a prompt
ODD = [sign * odd for odd in (0.0, 5e-324, 1e-45, 1.0, 1e39, math.inf) for sign in (1, -1)]
KNOWN: dict[str, list[Any]] = {  # by field: hardly anything else that its type allows has a plan
    "vector": ["m/a", "m/b"],
    "layers": [[1], [2], [1, 2], [2] * 9, [-(2**70)]],
    "probe": ["m/probe"],
    "statistics": ["m/statistics"],
    "prompt": ["", "", "Think."],
    "profile": [None],  # is a body itself
    "temperatures": [[0.01], [100.0, 0.01], [0.7] * 64],
    "weights": [[5e-324, 1e9], [1.0]],
    "inquiry": [None],  # asks vLLM without a control
}
AMOUNTS = ("clamp", "strength_relative", "strength")  # one of them is given
SAMPLING: dict[str, list[Any]] = {
    "temperature": [0.01, 0.7, 2.0],
    "top_k": [1, 10**6],
    "repetition_penalty": [1e-30, 1e30],
    "seed": [-(2**63), 2**63 - 1],
    "max_tokens": [1, 15, 17, 10**5],
    "min_tokens": [1],
    "allowed_token_ids": [[END]],
}


def anything(kind: Any) -> st.SearchStrategy[Any]:
    """Values of a type; numbers at its bounds, or such as float32 cannot hold."""
    origin, parts = get_origin(kind), get_args(kind)
    if kind is float or (origin is Annotated and parts[0] is float):
        bounds = [x for one in parts[1:] for limit in one.metadata for x in astuple(limit)]
        near = [math.nextafter(x, way) for x in bounds for way in (-math.inf, x, math.inf)]
        return st.sampled_from([x for x in [*ODD, math.nan, *near] if is_valid(kind, x)])
    if origin is Annotated:
        return anything(parts[0])
    if origin in (Union, UnionType):
        return st.one_of([anything(part) for part in parts if part is not NoneType])
    if origin is tuple:
        several = parts[-1] is Ellipsis
        return st.lists(anything(parts[0])) if several else st.tuples(*map(anything, parts))
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return bodies(kind)
    return st.sampled_from(parts if origin is Literal else [False, True])


def bodies(kind: type[BaseModel]) -> st.SearchStrategy[dict[str, Any]]:
    """What validates as a model."""
    fields: dict[bool, dict[str, Any]] = {True: {}, False: {}}
    for name, field in kind.model_fields.items():
        of_type = Annotated[field.annotation, field] if field.metadata else field.annotation
        values = st.sampled_from(KNOWN[name]) if name in KNOWN else anything(of_type)
        fields[field.is_required() or name == "type"][name] = values
    whole = st.fixed_dictionaries(fields[True], optional=fields[False])
    spare = whole.map(lambda body: (body, [name for name in AMOUNTS if name in body][1:]))
    bodies = spare.map(lambda pair: {key: pair[0][key] for key in pair[0] if key not in pair[1]})
    return bodies.filter(lambda body: is_valid(kind, body))


def is_valid(kind: Any, value: Any) -> bool:
    try:
        return TypeAdapter(kind).validate_python(value) is not None
    except ValidationError:
        return False


class Worker:
    """Two steered layers and an output head around a runner, and the engine in front of it."""

    runner_type: Any

    def __init__(self, using: Artifacts, dtype: torch.dtype, end: int) -> None:
        self.renderer = SimpleNamespace(get_eos_token_id=lambda: end)
        cache = SimpleNamespace(block_size=16, prefix_match_unit=None, enable_prefix_caching=True)
        self.vllm_config = SimpleNamespace(cache_config=cache)
        self.runner, self.dtype = self.runner_type(), dtype
        self.controller, self.model, self.layers = (
            self.runner.controller,
            Model(),
            (Layer(), Layer()),
        )
        heads = using.heads().items()
        sure = {name: head._replace(weight=9 * torch.eye(3, HIDDEN_SIZE)) for name, head in heads}
        self.controller.read_difficulty(self.model, sure)
        self.runner.record.publish_decisions = lambda *columns: None
        size, stream = Size(v1.NUM_ROWS, ROWS, 3 * ROWS), torch.zeros(HIDDEN_SIZE, dtype=dtype)
        layers, vectors = dict(enumerate(self.layers, 1)), using.steering_vectors()
        self.controller.steering = SteeringControl(size, layers, vectors, stream)
        self.decide, self.controller.kernels.decide = self.controller.kernels.decide, self.decided
        self.plain: dict[str, bool] = {}  # of every request, by name
        self.tokens: dict[str, list[int]] = {}  # how many are computed and how many known

    def join(self, name: str, extra: Any, **odd: Any) -> None:
        raise NotImplementedError

    def occupied(self) -> dict[str, int]:
        raise NotImplementedError

    def sample(self, logits: Tensor, ends: Any, known: Any) -> Tensor:
        raise NotImplementedError

    def decided(self, logits: Tensor, base: Tensor, *rest: Any, **options: Any) -> Any:
        decision = self.decide(logits, base, *rest, **options)  # or it counts as a failure
        chosen = decision.temperature
        assert torch.where(base > 0, chosen.isfinite() & (chosen > 0), chosen == 0).all()
        return decision

    async def generate(self, prompt: Any, params: Any, name: str) -> AsyncIterator[Any]:
        wire = MsgpackEncoder().encode(params)
        for choice in range(min(params.n, ROWS - len(self.tokens))):
            own, occupant = MsgpackDecoder(SamplingParams).decode(wire), f"{choice}_{name}"
            self.plain[occupant], self.tokens[occupant] = own.extra_args is None, [0, PROMPT]
            self.join(occupant, own.extra_args, **{key: getattr(own, key) for key in SAMPLING})
        answer = SimpleNamespace(index=0, text="", token_ids=[], finish_reason="length")
        yield SimpleNamespace(
            outputs=[answer], prompt_token_ids=[1] * PROMPT, num_cached_tokens=None
        )

    def step(self, logits: Tensor, most: int, drawn: int) -> None:
        names, slots = zip(*self.occupied().items(), strict=True)
        plain = np.array([self.plain[name] for name in names])
        computed, known = np.array([self.tokens[name] for name in names]).T
        counts = np.minimum(known - computed, most)
        self.controller.steering.assign_rows(np.array(slots), computed, counts, 0 * counts + PROMPT)
        hidden = before = torch.randn(int(counts.sum()), HIDDEN_SIZE).to(self.dtype)
        for layer in self.layers:
            hidden, _ = layer(hidden, torch.ones_like(hidden))
        assert torch.equal(hidden[plain.repeat(counts)], before[plain.repeat(counts)])
        self.last = hidden[counts.cumsum() - 1]
        self.model.compute_logits(self.last)
        after = self.sample(logits[: len(names)].clone(), computed + counts, known)
        assert torch.equal(bits(after)[plain], bits(logits[: len(names)])[plain])
        assert self.controller.failures == 0
        for name, end, last in zip(names, (computed + counts).tolist(), known, strict=True):
            self.tokens[name] = [end, last] if end < last else [last + drawn - 1, last + drawn]


class OnV1(Worker):
    runner_type = v1.Runner

    def join(self, name: str, extra: Any, **odd: Any) -> None:
        self.runner.add(name, extra, **odd)

    def leave(self, name: str) -> None:
        self.runner.input_batch.remove_request(name)

    def occupied(self) -> dict[str, int]:
        self.runner.refresh()
        return {name: row for row, name in enumerate(self.runner.input_batch.req_ids)}

    def sample(self, logits: Tensor, ends: Any, known: Any) -> Tensor:
        self.runner.input_batch.num_tokens_no_spec[: len(known)] = known
        self.runner.discard_request_mask.np[: len(known)] = ends < known
        self.runner.sampler(logits.clone(), self.runner.input_batch.sampling_metadata)
        self.runner.processor.before_sampling(logits)  # once more, to see what it does
        return logits


class OnV2(Worker):
    runner_type = v2.Runner

    def join(self, name: str, extra: Any, **odd: Any) -> None:
        slot = min(set(range(ROWS)) - set(self.occupied().values()))
        self.runner.add(slot, extra, name, **odd)

    def leave(self, name: str) -> None:
        del self.runner.req_states.index_to_req_id[self.occupied()[name]]

    def occupied(self) -> dict[str, int]:
        return {name: slot for slot, name in self.runner.req_states.index_to_req_id.items()}

    def sample(self, logits: Tensor, ends: Any, known: Any) -> Tensor:
        rows = zip(self.occupied().values(), (ends - 1).tolist(), strict=True)
        after: Tensor = self.runner.step(logits, list(rows), hidden=self.last)
        return after


async def ask(worker: Any, body: Any, name: str, chance: Random, using: Artifacts) -> None:
    """As a route does; a request that is refused goes nowhere."""
    odd = {key: chance.choice(some) for key, some in SAMPLING.items() if chance.random() < 0.1}
    request_params = RequestParams(
        odd.get("temperature"),
        chance.choice([None, "low", "high"]),
        last_message={"role": "user", "content": "hi"},
        thinking=chance.choice([None, ThinkingMarks(1, END)]),
    )
    several: dict[str, Any] = chance.choice([{}, {}, {"n": 3}, {"temperature": 0.0}])
    params = SamplingParams(**{"max_tokens": 40, **odd, **several})
    control = None if body is None else Control.model_validate(body)
    try:
        plan = make_plan(ControlSources(control, None, None), {}, using, request_params)
    except BadControl:
        return
    prompt = {"prompt_token_ids": [1] * PROMPT}
    under = Generation(plan, Telemetry(), timeout=0.0).activate() if plan else nullcontext()
    with under:
        async for _ in ControlledEngine(worker).generate(prompt, params, name):
            pass


@pytest.mark.parametrize("kind", [OnV1, OnV2])
def test_no_valid_request_raises_or_touches_another(kind: Any, tmp_path: Any) -> None:
    save_statistics(tmp_path, "m/statistics")
    save_probe(tmp_path, "m/probe")
    for seed, name in enumerate(KNOWN["vector"]):
        save_vector(tmp_path, name, seed=seed)
    using = artifacts(tmp_path)

    @given(st.lists(bodies(Control), min_size=1, max_size=6), st.integers(0, 2**32))
    @settings(deadline=None, derandomize=True, max_examples=200)
    def examples(wanted: list[dict[str, Any]], seed: int) -> None:
        chance = Random(seed)
        dtype = chance.choice([torch.float32, torch.bfloat16, torch.float16])
        worker = kind(using, dtype, end=chance.choice([END, END, VOCAB]))
        for number in range(8):
            for name in [name for name in worker.tokens if chance.random() < 0.2]:
                worker.leave(name)
                del worker.tokens[name]
            for place in range(chance.choice([0, 1, 3])):
                body = chance.choice([None, *wanted])
                asyncio.run(ask(worker, body, f"{number}.{place}", chance, using))
            logits = random_logits(ROWS)
            for row in logits:
                end = chance.choice([-math.inf, -math.inf, math.nan, math.inf, 0.0, 1e38])
                row[chance.choice([0, 1, 5, 64, 64]) :] = end
            if worker.tokens:
                worker.step(logits, chance.randint(1, 3), chance.choice([1, 1, 15]))

    examples()
