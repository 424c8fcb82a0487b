"""The controlled routes: which requests get controls or are refused, and cleanup."""

import asyncio
import json
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.datastructures import Headers
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.entrypoints.serve.engine.protocol import OpenAIBaseModel
from vllm.sampling_params import RequestOutputKind, SamplingParams

from server.errors import BadControl
from server.feedback.store import KeptAnswer
from server.requests.generation import ControlledEngine, current_generation
from server.requests.merge import add_reports
from server.requests.telemetry import Telemetry
from server.routes.controlled import profile_header, run_controlled
from server.wire.request import Control
from tests.unit.server.fake_engine import FakeEngine, Json, Step, chat_stream
from tests.unit.server.requests.generation_run import Body
from tests.unit.server.support import artifacts, nothing_uploaded, save_inquiry

STEPS: list[Step] = [[(0, 1)], [(0, 1)], [(0, 1)]]


class Route:
    """vLLM's handler and the HTTP request, reduced to what `run_controlled` uses."""

    def __init__(self, **request: Any) -> None:
        self.telemetry = Telemetry()
        self.engine = FakeEngine(self.telemetry, STEPS)
        self.called = False
        self.kept: list[KeptAnswer] = []
        fields = {"model": "m", "entropy": None, "temperature": None, "vllm_xargs": None}
        headers = request.pop("headers", {})
        self.request = SimpleNamespace(**{**fields, **request})
        models = SimpleNamespace(
            base_model_paths=[SimpleNamespace(name="m")],
            lora_requests={},
            model_config=SimpleNamespace(max_model_len=2048),
        )
        state = SimpleNamespace(
            telemetry=self.telemetry,
            profiles={"watch": Control(trace="summary")},
            artifacts=artifacts(),
            settings=SimpleNamespace(trace_timeout=0.2, max_samples=32, baseline_share=0.0),
            admission=None,
            decision_log=None,
            switched_off=(),
            sync_artifacts=nothing_uploaded,
            feedback=SimpleNamespace(keep=self.kept.extend),
            speculative=False,
            thinking=None,
            served_names=lambda _: {path.name for path in models.base_model_paths},
        )
        app = SimpleNamespace(
            state=SimpleNamespace(
                entrostat=state, openai_serving_models=models, args=SimpleNamespace(api_key=None)
            )
        )
        self.raw = SimpleNamespace(app=app, headers=Headers(headers))

    async def handler(self, request: Any, raw_request: Any) -> Any:
        """vLLM's route, which serializes its handler's result."""
        self.called = True
        params = SamplingParams(output_kind=RequestOutputKind.DELTA)

        async def handle() -> Any:
            async for _ in ControlledEngine(self.engine).generate("p", params, "r"):
                pass
            return Body(choices=[OpenAIBaseModel(index=0)])

        return JSONResponse((await add_reports(handle)()).model_dump())

    async def run(self, handler: Any = None) -> Any:
        raw: Any = self.raw
        return await run_controlled(self.request, raw, handler or self.handler)


async def test_a_request_without_controls_is_passed_to_vllm_unchanged() -> None:
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
async def test_a_profile_can_be_named_in_three_ways_that_vllm_never_sees(
    request_fields: Json,
) -> None:
    route = Route(**request_fields)
    response = await route.run()
    (choice,) = json.loads(bytes(response.body))["choices"]
    assert (choice["entropy"]["profile"], choice["entropy"]["num_tokens"]) == ("watch", 3)
    assert (route.request.model, route.request.entropy) == ("m", None)
    assert route.telemetry.num_open == 0


async def test_the_share_of_answers_that_are_left_alone_is_drawn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    drawn: list[bool] = []

    def spy(*arguments: Any) -> None:
        drawn.append(arguments[3].is_baseline)

    monkeypatch.setattr("server.routes.controlled.make_plan", spy)
    for share in (0.0, 0.3, 1.0):
        route = Route(entropy=Control())
        route.raw.app.state.entrostat.settings.baseline_share = share
        for _ in range(400):
            route.request.entropy = Control()
            await route.run()
    assert sum(drawn[:400]) == 0
    assert 70 < sum(drawn[400:800]) < 170  # 120, and 5 standard deviations
    assert sum(drawn[800:]) == 400


async def test_many_unknown_keys_cost_as_little_as_some(monkeypatch: pytest.MonkeyPatch) -> None:
    """A body may have 100,000 keys, and their comparison holds up all other requests."""
    compared = list[str]()
    monkeypatch.setattr(
        "server.routes.controlled.get_close_matches", lambda key, *_, **__: compared.append(key)
    )
    await Route(model_extra={f"ent{n:06d}": 0 for n in range(100_000)}).run()
    assert len(compared) == 1_000


@pytest.mark.parametrize(
    ("request_fields", "param"),
    [
        ({"model": "m@nope"}, "model"),
        ({"headers": {"x-entropy-profile": "nope"}}, "X-Entropy-Profile"),
        ({"entropy": Control(profile="nope")}, "entropy.profile"),
        ({"vllm_xargs": {"entropy": {"law": 5}}}, "vllm_xargs.entropy"),
        ({"vllm_xargs": {"entropy_target": 1}}, "vllm_xargs.entropy_target"),
        ({"entropy": Control(), "use_beam_search": True}, "use_beam_search"),
        ({"entropy": Control(), "background": True}, "background"),
        ({"model_extra": {"Entropy": {}}}, "Entropy"),
        ({"model_extra": {"x": 1, "entropy_": {}}}, "entropy_"),
        ({"model_extra": {"e\u043dtropy": {}}}, "e\u043dtropy"),
        ({"vllm_xargs": [1]}, "vllm_xargs"),
        ({"vllm_xargs": "entropy"}, "vllm_xargs"),
    ],
)
async def test_an_invalid_request_never_reaches_vllm(request_fields: Json, param: str) -> None:
    route = Route(**request_fields)
    with pytest.raises(BadControl) as refused:
        await route.run()
    assert refused.value.param == param
    assert not route.called


@pytest.mark.parametrize(
    ("request_fields", "skipped"),
    [
        ({"use_beam_search": True}, "all_skipped"),
        ({"background": True}, "report_skipped"),
    ],
)
@pytest.mark.parametrize(
    "named", [{"model": "m@watch"}, {"headers": {"x-entropy-profile": "watch"}}]
)
async def test_a_control_of_a_profile_that_cannot_act_is_skipped_and_reported_in_a_header(
    request_fields: Json, skipped: str, named: Json
) -> None:
    route = Route(**request_fields, **named)
    response = await route.run()
    assert response.status_code == 200
    assert response.headers["x-entropy-fallback"] == skipped
    assert json.loads(bytes(response.body)) == {"choices": [{"index": 0}]}


async def test_a_conversation_that_is_not_an_inquiry_is_answered_without_it_under_a_profile_by_name(
    tmp_path: Path,
) -> None:
    save_inquiry(tmp_path)
    game = Control.model_validate({"inquiry": {"task": "m/pets"}})
    fields = ChatCompletionRequest(
        model="m", messages=[{"role": "tool", "tool_call_id": "1", "content": "4"}]
    )
    route = Route(headers={"x-entropy-profile": "game"})
    route.request = fields.model_copy(update={"entropy": None})
    state = route.raw.app.state
    state.entrostat.profiles = {"game": game}
    state.entrostat.artifacts = artifacts(tmp_path)
    state.openai_serving_chat = SimpleNamespace(_check_model=_knows_every_model)
    route.raw.is_disconnected = _stays
    response = await route.run()
    assert response.headers["x-entropy-fallback"] == "inquiry_skipped"
    (choice,) = json.loads(bytes(response.body))["choices"]
    assert choice["entropy"]["fallback"] == "inquiry_skipped"


async def _knows_every_model(request: Any) -> None:
    return None


async def _stays() -> bool:
    return False


async def test_a_pipelined_request_does_not_inherit_the_controls_of_the_previous_one() -> None:
    """Web servers run a pipelined request in a copy of the previous request's context."""
    first, second = Route(model="m@watch"), Route()
    await first.run()
    assert current_generation() is None
    await second.handler(None, None)  # a vLLM route that is not replaced
    assert second.engine.params[0].extra_args is None


async def test_a_stream_resets_the_plan_between_its_events() -> None:
    route = Route(model="m@watch")

    async def streams(request: Any, raw_request: Any) -> Any:
        async def handle() -> Any:
            params = SamplingParams(output_kind=RequestOutputKind.DELTA)
            return chat_stream(ControlledEngine(route.engine), params)

        return StreamingResponse(await add_reports(handle)())

    response = await route.run(streams)
    async for _ in response.body_iterator:
        assert current_generation() is None
    assert route.engine.params[0].extra_args is not None


@pytest.mark.parametrize("left", [None, Response()], ids=["vLLM 0.32", "vLLM 0.33"])
async def test_a_disconnected_client_leaves_no_trace_open(left: Any) -> None:
    """On a disconnect, the route returns None in vLLM 0.32 and an empty response in 0.33."""
    route = Route(model="m@watch")

    async def leaves(request: Any, raw_request: Any) -> Any:
        with suppress(TimeoutError):
            async with asyncio.timeout(0):
                await route.handler(request, raw_request)
        return left

    found = await route.run(leaves)
    assert found is left
    assert route.telemetry.num_open == 0


async def test_a_law_without_a_report_is_allowed_in_the_background() -> None:
    route = Route(entropy=Control(trace="none"), background=True)
    assert (await route.run()).status_code == 200
    assert route.telemetry.num_open == 0


async def test_a_handler_that_raises_leaves_no_trace_open() -> None:
    route = Route(model="m@watch")

    async def raises(request: Any, raw_request: Any) -> None:
        await route.handler(request, raw_request)
        raise RuntimeError("boom")

    with pytest.raises(RuntimeError, match="boom"):
        await route.run(raises)
    assert route.telemetry.num_open == 0


@pytest.mark.parametrize(
    ("values", "profile"),
    [
        ([], None),
        ([b"steady"], "steady"),
        ([b"\tsteady "], "steady"),
        ([b""], ""),
        ([b"steady", b"thrifty"], "steady, thrifty"),  # unknown, so neither is chosen silently
    ],
)
def test_whitespace_around_a_profile_is_no_part_of_it(
    values: list[bytes], profile: str | None
) -> None:
    raw = [(b"x-entropy-profile", value) for value in values]
    assert profile_header(Headers(raw=raw)) == profile
