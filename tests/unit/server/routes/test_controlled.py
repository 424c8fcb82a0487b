"""The route around vLLM's handlers: who is controlled, who is refused, what stays behind."""

import json
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi.responses import JSONResponse
from prometheus_client import REGISTRY
from vllm.sampling_params import RequestOutputKind, SamplingParams

from server.requests.generation import ControlledEngine, current
from server.requests.telemetry import Telemetry
from server.routes.controlled import run_controlled
from server.wire.request import Control
from tests.unit.server.fake_engine import FakeEngine, Json, Step
from tests.unit.server.support import artifacts

STEPS: list[Step] = [[(0, 1)], [(0, 1)], [(0, 1)]]


class Route:
    """vLLM's handler and the HTTP request, as far as `run_controlled` looks at them."""

    def __init__(self, **request: Any) -> None:
        self.telemetry = Telemetry()
        self.engine = FakeEngine(self.telemetry, STEPS)
        self.called = False
        fields = {"model": "m", "entropy": None, "temperature": None, "vllm_xargs": None}
        headers = request.pop("headers", {})
        self.request = SimpleNamespace(**{**fields, **request})
        models = SimpleNamespace(base_model_paths=[SimpleNamespace(name="m")], lora_requests={})
        state = SimpleNamespace(
            telemetry=self.telemetry,
            profiles={"watch": Control(trace="summary")},
            artifacts=artifacts(),
            settings=SimpleNamespace(trace_timeout=0.2),
            admission=None,
            served_names=lambda _: {path.name for path in models.base_model_paths},
        )
        app = SimpleNamespace(state=SimpleNamespace(entrostat=state))
        self.raw = SimpleNamespace(app=app, headers=headers)

    async def handler(self, request: Any, raw_request: Any) -> Any:
        self.called = True
        async for _ in ControlledEngine(self.engine).generate(
            "p", SamplingParams(output_kind=RequestOutputKind.DELTA), "r"
        ):
            pass
        return JSONResponse({"choices": [{"index": 0}]})

    async def run(self, handler: Any = None) -> Any:
        raw: Any = self.raw
        return await run_controlled(self.request, raw, handler or self.handler)


async def test_a_request_that_asks_for_nothing_is_vllms_own() -> None:
    route = Route()
    response = await route.run()
    assert json.loads(bytes(response.body)) == {"choices": [{"index": 0}]}
    assert route.engine.params[0].extra_args is None


@pytest.mark.parametrize(
    "request_fields",
    [
        {"model": "m@watch"},
        {"headers": {"x-entropy-profile": "watch"}},
        {"entropy": Control(profile="watch")},
    ],
)
async def test_a_profile_can_be_named_three_ways_and_vllm_sees_its_own_request(
    request_fields: Json,
) -> None:
    route = Route(**request_fields)
    response = await route.run()
    (choice,) = json.loads(bytes(response.body))["choices"]
    assert (choice["entropy"]["profile"], choice["entropy"]["num_tokens"]) == ("watch", 3)
    assert (route.request.model, route.request.entropy) == ("m", None)
    assert not route.telemetry._open


@pytest.mark.parametrize(
    ("request_fields", "param"),
    [
        ({"model": "m@nope"}, "model"),
        ({"headers": {"x-entropy-profile": "nope"}}, "X-Entropy-Profile"),
        ({"entropy": Control(profile="nope")}, "entropy.profile"),
        ({"vllm_xargs": {"entropy": {"law": 5}}}, "vllm_xargs.entropy"),
        ({"vllm_xargs": {"entropy_target": 1}}, "vllm_xargs.entropy_target"),
        ({"model": "m@watch", "use_beam_search": True}, "use_beam_search"),
        ({"model": "m@watch", "background": True}, "background"),
        ({"vllm_xargs": [1]}, "vllm_xargs"),
        ({"vllm_xargs": "entropy"}, "vllm_xargs"),
    ],
)
async def test_a_mistake_is_a_400_that_never_reaches_vllm(request_fields: Json, param: str) -> None:
    route = Route(**request_fields)
    refused = REGISTRY.get_sample_value("entrostat_refused_total") or 0.0
    response = await route.run()
    assert response.status_code == 400
    assert json.loads(bytes(response.body))["error"]["param"] == param
    assert not route.called
    assert REGISTRY.get_sample_value("entrostat_refused_total") == refused + 1


async def test_a_request_behind_another_one_on_its_connection_is_not_under_its_controls() -> None:
    """Web servers start a pipelined request in a copy of the context of the one before it."""
    first, second = Route(model="m@watch"), Route()
    await first.run()
    assert current.get() is not None, "or this test shows nothing"
    await second.run()
    assert second.engine.params[0].extra_args is None


async def test_without_a_report_a_law_may_answer_in_the_background() -> None:
    route = Route(entropy=Control(trace="none"), background=True)
    assert (await route.run()).status_code == 200
    assert not route.telemetry._open


async def test_a_client_that_left_before_the_answer_leaves_no_trace_open() -> None:
    route = Route(model="m@watch")

    async def left(request: Any, raw_request: Any) -> None:
        await route.handler(request, raw_request)

    assert await route.run(left) is None
    assert not route.telemetry._open


async def test_a_handler_that_raises_leaves_no_trace_open() -> None:
    route = Route(model="m@watch")

    async def raises(request: Any, raw_request: Any) -> None:
        await route.handler(request, raw_request)
        raise RuntimeError("boom")

    with pytest.raises(RuntimeError, match="boom"):
        await route.run(raises)
    assert not route.telemetry._open
