"""Status checks of the workers: every engine is asked, and updates of the weights are noticed."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client import REGISTRY

from server.artifacts import Artifacts
from server.inquiry.engine_reads import ReadCache
from server.requests import workers
from server.requests.workers import WorkerWatch, merge_status, on_all_workers
from server.routes.state import ServerState
from tests.unit.server.support import artifacts, save_vector


class Engines:
    """vLLM's client of several engines, which returns the first engine's results."""

    def __init__(self, *statuses: dict[str, Any]) -> None:
        usual: dict[str, Any] = {"steps": 1, "failures": 0, "lost": {}, "weight_updates": 0}
        self.statuses = [{**usual, **one} for one in statuses]
        self.engine_core = SimpleNamespace(call_utility_all_async=self.everywhere)
        self.called: list[str] = []
        self.asked = 0
        """Status calls."""
        self.turns = 0
        """Of the watch, whether it makes a call or not."""
        self.unfinished = 0

    async def add_request(self, request_id: str) -> str:
        return request_id

    def get_num_unfinished_requests(self) -> int:
        self.turns += 1
        return self.unfinished

    async def everywhere(self, utility: str, method: str, *_: Any) -> list[list[dict[str, Any]]]:
        assert (utility, method) == ("collective_rpc", "entrostat_status")
        self.asked += 1
        return [[one] for one in self.statuses]

    async def collective_rpc(self, method: str, *_: Any, **__: Any) -> list[dict[str, Any]]:
        self.called.append(method)
        if method == "fails":
            raise RuntimeError("boom")
        return self.statuses[:1]


def state(engine: Any, found: Artifacts) -> Any:
    """The part of the server's state that the checks use."""
    server: Any = object.__new__(ServerState)
    server.engine, server.artifacts, server.readings = engine, found, ReadCache()
    server.worker_status = None
    return server


def metric(name: str, **labels: str) -> float | None:
    return REGISTRY.get_sample_value(name, labels)


async def test_every_engine_is_asked_and_not_only_the_first() -> None:
    engine = Engines({"steps": 3, "failures": 1}, {"steps": 9, "failures": 2, "lost": {"error": 4}})
    answers = await on_all_workers(engine, "entrostat_status")
    assert merge_status(answers) == {
        "steps": 9,
        "failures": 3,
        "lost": {"error": 4},
        "weight_updates": 0,
    }
    alone: Any = SimpleNamespace(collective_rpc=engine.collective_rpc)
    assert await on_all_workers(alone, "entrostat_status") == engine.statuses[:1]


async def test_a_vector_that_the_second_engine_lacks_is_not_offered(tmp_path: Path) -> None:
    save_vector(tmp_path / "one", "m/kept")
    save_vector(tmp_path / "two", "m/kept")
    save_vector(tmp_path / "one", "m/lost")
    by_engine = [artifacts(tmp_path / name).for_workers() for name in ("one", "two")]

    async def everywhere(*_: Any) -> list[list[Any]]:
        return [[one] for one in by_engine]

    engine: Any = SimpleNamespace(engine_core=SimpleNamespace(call_utility_all_async=everywhere))
    mine = artifacts(tmp_path / "one")
    mine.keep_common(await on_all_workers(engine, "entrostat_artifacts"))
    assert set(mine.steering_vectors()) == {"m/kept"}


@pytest.mark.parametrize("method", ["start_weight_update", "my_extension", "fails"])
async def test_an_update_through_this_server_refuses_artifacts_before_the_call_returns(
    method: str, tmp_path: Path
) -> None:
    save_vector(tmp_path, "m/v")
    engine = Engines({}, {})
    server = state(engine, artifacts(tmp_path))
    server.readings.put(b"key", [1.0])
    WorkerWatch(engine, server.ask_workers, alone=True)
    await server.ask_workers()
    assert len(server.artifacts) == 1
    engine.statuses[1]["weight_updates"] = 1
    if method == "fails":
        with pytest.raises(RuntimeError, match="boom"):
            await engine.collective_rpc(method)
    else:
        await engine.collective_rpc(method)
    assert engine.called == [method]
    assert len(server.artifacts) == 0
    assert server.readings.get(b"key") is None
    assert metric("entrostat_weight_updates") == 1


async def test_an_update_through_another_server_is_noticed_by_the_watch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_vector(tmp_path, "m/v")
    monkeypatch.setattr(workers, "STATUS_SECONDS", 0.001)
    engine = Engines({"weight_updates": 2, "failures": 7, "lost": {"error": 5}})
    server = state(engine, artifacts(tmp_path))
    failed: list[int] = []

    async def check() -> None:
        if not failed:
            failed.append(1)
            raise RuntimeError("the engine does not answer")
        await server.ask_workers()

    task = asyncio.create_task(WorkerWatch(engine, check, alone=False).run())
    while len(server.artifacts):
        await asyncio.sleep(0.001)
    task.cancel()
    assert metric("entrostat_worker_failures", cause="control") == 7
    assert metric("entrostat_worker_failures", cause="trace_error") == 5


async def further(engine: Engines, counter: str, count: int) -> None:
    """Wait until a counter of the engine has grown so far."""
    wanted = getattr(engine, counter) + count
    while getattr(engine, counter) < wanted:
        await asyncio.sleep(0.001)


@pytest.fixture
async def watched(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Callable[..., Any]]:
    """Starts the watch over an engine, with a turn every millisecond."""
    monkeypatch.setattr(workers, "STATUS_SECONDS", 0.001)
    tasks: list[asyncio.Task[None]] = []

    def start(engine: Any, *, alone: bool, fails: int = 0) -> None:
        async def check() -> None:
            answers = await on_all_workers(engine, "entrostat_status")
            if engine.asked <= fails:
                raise RuntimeError("the engine does not answer")
            merge_status(answers)

        watch = WorkerWatch(engine, check, alone=alone)
        tasks.append(asyncio.create_task(watch.run()))

    yield start
    for task in tasks:
        task.cancel()


async def test_idle_workers_are_left_alone_until_the_next_request(
    watched: Callable[..., Any],
) -> None:
    """A call to an idle worker costs a second of CPU: vLLM's reader spins."""
    engine: Any = Engines({})
    watched(engine, alone=True, fails=2)
    await further(engine, "asked", 3)  # until they answered once
    await further(engine, "turns", 20)
    assert engine.asked == 3
    await engine.add_request("a")
    engine.unfinished = 1
    await further(engine, "asked", 5)  # again and again while it runs
    engine.unfinished = 0
    await further(engine, "turns", 3)
    asked = engine.asked
    await further(engine, "turns", 20)
    assert engine.asked == asked
    await engine.collective_rpc("update_weights")  # checks at once; the watch once more
    await further(engine, "turns", 20)
    assert engine.asked == asked + 2


async def test_behind_several_api_servers_workers_are_asked_at_every_interval(
    watched: Callable[..., Any],
) -> None:
    engine = Engines({})
    watched(engine, alone=False)
    await further(engine, "asked", 5)
