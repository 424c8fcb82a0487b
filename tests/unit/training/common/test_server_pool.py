from collections.abc import Iterator

import pytest

from tests.unit.training.fake import Fake, answer, running
from training.common.errors import TrainingError
from training.common.server_pool import (
    RolloutRecord,
    SampleRequest,
    Sampling,
    ServerPool,
    request_seed,
)


def asks(count: int) -> list[SampleRequest]:
    return [
        SampleRequest(
            number, [{"role": "user", "content": f"prompt {number}"}], request_seed(0, number)
        )
        for number in range(count)
    ]


def fleet(*fakes: Fake, concurrency: int = 4, attempts: int = 3) -> ServerPool:
    urls = [fake.url for fake in fakes]
    return ServerPool(urls, Sampling(), concurrency=concurrency, attempts=attempts, pause=0.001)


async def drawn(fleet: ServerPool, count: int) -> list[RolloutRecord]:
    async with fleet:
        await fleet.connect()
        return [rollout async for rollout in fleet.run(asks(count))]


async def test_a_rollout_carries_text_entropies_and_temperatures(fake: Fake) -> None:
    (rollout,) = await drawn(fleet(fake), 1)
    tokens = answer(request_seed(0, 0))["entropy"]["tokens"]
    assert rollout.text == f"answer {request_seed(0, 0)}"
    assert rollout.entropies == [token["entropy"] for token in tokens]
    assert rollout.temperatures == [1.0] * len(tokens)


async def test_requests_say_seed_length_temperature_and_trace(fake: Fake) -> None:
    servers = ServerPool([f"{fake.url}/v1/"], Sampling(temperature=0.7, max_tokens=9))
    await drawn(servers, 1)
    (body,) = fake.asked
    assert body["seed"] == request_seed(0, 0)
    assert (body["temperature"], body["max_completion_tokens"]) == (0.7, 9)
    assert body["entropy"] == {"trace": "tokens"}


def test_seeds_are_the_same_every_time_and_differ_between_requests_and_jobs() -> None:
    assert [request_seed(7, number) for number in range(3)] == [2063577323, 1808820083, 1187467706]
    all_seeds = {request_seed(seed, number) for seed in range(30) for number in range(30)}
    assert len(all_seeds) == 900
    assert max(all_seeds) < 2**31  # a signed 32-bit field takes it


async def test_servers_take_turns(fake: Fake) -> None:
    with running() as other:
        other.root = fake.root
        await drawn(fleet(fake, other), 10)
        assert (len(fake.asked), len(other.asked)) == (5, 5)
        assert set(fake.seeds).isdisjoint(other.seeds)


async def test_no_more_requests_are_under_way_than_allowed(fake: Fake) -> None:
    fake.delay = 0.2  # long beside the start of a request on a busy machine
    assert len(await drawn(fleet(fake, concurrency=3), 6)) == 6
    assert fake.busiest == 3


async def test_requests_are_drawn_from_their_source_only_when_there_is_room(fake: Fake) -> None:
    given = 0

    def source() -> Iterator[SampleRequest]:
        nonlocal given
        for ask in asks(20):
            given += 1
            yield ask

    async with fleet(fake, concurrency=2) as servers:
        await servers.connect()
        rollouts = servers.run(source())
        await anext(rollouts)
        assert given == 2
        await rollouts.aclose()


async def test_a_dead_server_is_passed_over(fake: Fake) -> None:
    with running() as mortal:
        mortal.root = fake.root
        servers = fleet(fake, mortal)
        await servers.connect()
    async with servers:
        rollouts = [rollout async for rollout in servers.run(asks(6))]
    assert sorted(rollout.number for rollout in rollouts) == list(range(6))
    assert len(fake.asked) == 6


@pytest.mark.parametrize("status", [429, 500, 503])
async def test_a_busy_server_is_asked_again(fake: Fake, status: int) -> None:
    fake.refusals = [(status, "later")] * 2
    assert len(await drawn(fleet(fake, concurrency=1), 1)) == 1
    assert fake.seeds == [request_seed(0, 0)] * 3


async def test_a_lost_trace_is_drawn_again(fake: Fake) -> None:
    fake.fallbacks = ["trace_lost"]
    (rollout,) = await drawn(fleet(fake), 1)
    assert rollout.entropies
    assert len(fake.asked) == 2


async def test_retries_end_with_a_sentence(fake: Fake) -> None:
    fake.refusals = [(503, "overloaded")] * 9
    with pytest.raises(TrainingError, match=r"answers 503: overloaded \(3 attempts\)"):
        await drawn(fleet(fake), 1)
    assert len(fake.asked) == 3


async def test_a_refused_request_is_not_repeated(fake: Fake) -> None:
    fake.refusals = [(400, "too long")]
    with pytest.raises(TrainingError, match="answers 400: too long"):
        await drawn(fleet(fake, concurrency=1), 3)
    assert len(fake.asked) == 1


async def test_what_finished_before_a_failure_is_not_lost(fake: Fake) -> None:
    got = []
    async with fleet(fake, concurrency=1) as servers:
        await servers.connect()
        rollouts = servers.run(asks(5))
        for _ in range(3):
            got.append((await anext(rollouts)).number)
        fake.refusals = [(400, "no")]
        with pytest.raises(TrainingError):
            await anext(rollouts)
    assert got == [0, 1, 2]


async def test_servers_of_different_models_are_no_fleet(fake: Fake) -> None:
    with running() as other:
        other.model = "large"
        with pytest.raises(TrainingError, match="the servers differ"):
            await drawn(fleet(fake, other), 1)


def test_tokens_without_an_entropy_are_kept_apart() -> None:
    rollout = RolloutRecord(
        number=0,
        messages=[{"role": "user", "content": "prompt"}],
        seed=7,
        text="",
        finish_reason="stop",
        entropies=[1.0, None, 2.0],
        temperatures=[1.0, 1.0, 1.0],
    )
    assert rollout.finite_entropies == [1.0, 2.0]
    assert RolloutRecord.model_validate_json(rollout.model_dump_json()) == rollout
