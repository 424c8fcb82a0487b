"""What a line says of a request, and what it never says."""

import json
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from fastapi.responses import JSONResponse, StreamingResponse
from vllm.entrypoints.serve.engine.protocol import OpenAIBaseModel
from vllm.sampling_params import RequestOutputKind

from probes.laws import EdtLaw
from server.audit.log import DecisionLog
from server.audit.recorder import token_hash
from server.requests.generation import ControlledEngine
from server.requests.merge import add_reports
from server.wire.request import Control
from tests.unit.server.audit.support import FACTS, read
from tests.unit.server.fake_engine import chat_stream, params
from tests.unit.server.requests.generation_run import Body
from tests.unit.server.routes.test_controlled import Route

SECRET = "the secret prompt"


class Logged(Route):
    """A route of a server with a decision log."""

    def __init__(self, folder: Path, *, prompts: bool = False, **request: Any) -> None:
        super().__init__(**{"messages": [SECRET], "seed": 5, "temperature": 1.0, **request})
        self.path = folder / "log.jsonl"
        self.log = DecisionLog(self.path, 1 << 20, 1, prompts=prompts)
        self.raw.app.state.entrostat.decision_log = self.log
        self.raw.app.state.entrostat.facts = lambda _: FACTS
        self.raw.url = SimpleNamespace(path="/v1/completions")

        async def body() -> bytes:
            return json.dumps({"prompt": SECRET, "seed": 5}).encode()

        self.raw.body = body

    async def lines(self, handler: Any = None) -> list[dict[str, Any]]:
        """Answer the request and return the log."""
        try:
            await self.run(handler)
        finally:
            self.log.close()
        return read(self.path)


async def test_a_line_has_the_control_the_numbers_and_no_text(tmp_path: Path) -> None:
    headers = {"authorization": "Bearer sk-secret", "x-request-id": "r1"}
    route = Logged(tmp_path, model="m@watch", headers=headers)
    (line,) = await route.lines()
    assert (line["model"], line["profile"]) == ("m", "watch")
    assert line["control"] == {"trace": "summary"}
    assert line["parameters"] == {"temperature": 1.0, "seed": 5}
    assert (line["status"], line["request_id"], line["in_flight"]) == (200, "r1", 0)
    (choice,) = line["choices"]
    assert choice["tokens"] == choice["report"]["num_tokens"] == 3
    usage = {"prompt_tokens": 2, "cached_tokens": 1, "completion_tokens": 3, "calls": 1}
    assert line["usage"] == usage
    assert line["server"] == FACTS.model_dump()
    text = route.path.read_text()
    assert SECRET not in text
    assert "sk-secret" not in text
    assert "answer_hash" not in choice
    assert "body" not in line


async def test_the_body_and_a_digest_of_the_answer_are_logged_on_request(tmp_path: Path) -> None:
    control = Control(trace="none", temperature=EdtLaw())
    route = Logged(tmp_path, prompts=True, entropy=control)
    (line,) = await route.lines()
    assert line["body"] == {"prompt": SECRET, "seed": 5}
    (choice,) = line["choices"]
    assert len(choice["answer_hash"]) == len(token_hash([1, 2, 3]))
    assert "report" not in choice


async def test_the_control_of_a_line_lacks_what_was_skipped(tmp_path: Path) -> None:
    route = Logged(tmp_path, model="m@loud", seed=None)
    profile = Control.model_validate(
        {"steering": [{"vector": "nowhere", "strength": 1.0}], "trace": "summary"}
    )
    route.raw.app.state.entrostat.profiles["loud"] = profile
    (line,) = await route.lines()
    assert line["control"] == {"trace": "summary"}
    assert line["fallback"] == "steering_skipped"


async def test_a_request_without_controls_has_no_line(tmp_path: Path) -> None:
    assert await Logged(tmp_path).lines() == []


async def test_a_stream_is_logged_when_it_ends_also_if_nobody_reads_it(tmp_path: Path) -> None:
    route = Logged(tmp_path, entropy=Control(trace="summary"))

    async def handler(request: Any, raw_request: Any) -> Any:
        async def handle() -> Any:
            return chat_stream(ControlledEngine(route.engine), params())

        return StreamingResponse(await add_reports(handle)())

    response = await route.run(handler)
    assert route.log.in_flight == 1

    async def send(message: Any) -> None:
        raise OSError

    async def receive() -> Any:
        return {"type": "http.disconnect"}

    with suppress(Exception):
        await response({"type": "http", "asgi": {"spec_version": "2.4"}}, receive, send)
    route.log.close()
    (line,) = read(route.path)
    assert line["status"] == 200
    assert route.log.in_flight == 0


async def test_a_failed_request_is_logged_with_its_status(tmp_path: Path) -> None:
    route = Logged(tmp_path, entropy=Control(trace="summary"))

    async def handler(request: Any, raw_request: Any) -> Any:
        return JSONResponse({}, status_code=404)

    (line,) = await route.lines(handler)
    assert (line["status"], line["choices"], line["id"]) == (404, [], "")


async def test_a_delta_stream_and_a_whole_answer_have_the_same_digest(tmp_path: Path) -> None:
    found = set()
    for number, kind in enumerate((RequestOutputKind.DELTA, RequestOutputKind.CUMULATIVE)):
        folder = tmp_path / str(number)
        folder.mkdir()
        route = Logged(folder, prompts=True, entropy=Control(trace="summary"))

        async def handler(
            request: Any, raw_request: Any, route: Any = route, kind: Any = kind
        ) -> Any:
            sampled = params(kind=kind)

            async def handle() -> Any:
                async for _ in ControlledEngine(route.engine).generate("p", sampled, "r"):
                    pass
                return Body(choices=[OpenAIBaseModel(index=0)])

            return JSONResponse((await add_reports(handle)()).model_dump())

        (line,) = await route.lines(handler)
        found.add(line["choices"][0]["answer_hash"])
    assert len(found) == 1


async def test_an_answer_in_the_background_has_a_line_without_choices(tmp_path: Path) -> None:
    control = Control(trace="none", temperature=EdtLaw())
    (line,) = await (route := Logged(tmp_path, entropy=control, background=True)).lines()
    assert line["choices"] == []
    assert route.log.in_flight == 0
