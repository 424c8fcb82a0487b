import shutil
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zmq
from torch import Tensor

from server.engine import publisher as module
from server.engine.publisher import Directory, Publisher
from server.worker.records import read_frame

NUM_SLOTS = 4


@pytest.fixture
def folder() -> Iterator[Path]:
    """A short path, for a Unix socket takes 107 characters."""
    path = Path(tempfile.mkdtemp(prefix="es-"))
    yield path
    shutil.rmtree(path)


@pytest.fixture
def publisher(monkeypatch: pytest.MonkeyPatch) -> Iterator[Publisher]:
    """A publisher whose ZeroMQ context ends with the test, however its thread ended."""
    contexts: list[zmq.Context[zmq.Socket[bytes]]] = []

    class Recorded(zmq.Context):  # type: ignore[type-arg]
        def __init__(self) -> None:
            super().__init__()
            contexts.append(self)

    monkeypatch.setattr(zmq, "Context", Recorded)
    made = Publisher()
    yield made
    made.close()
    for context in contexts:
        context.destroy(linger=0)


class Receiver:
    """One API server's end."""

    def __init__(self, folder: Path, name: str) -> None:
        self.context = zmq.Context()
        self.socket = self.context.socket(zmq.PULL)
        self.socket.setsockopt(zmq.RCVTIMEO, 120_000)
        self.address = f"ipc://{folder / name}"
        self.socket.bind(self.address)

    def frames(self, count: int) -> list[list[tuple[float, ...]]]:
        """The next frames, as records."""
        return [read_frame(self.socket.recv()).tolist() for _ in range(count)]

    def is_quiet(self) -> bool:
        return self.socket.poll(50) == 0

    def close(self) -> None:
        self.context.destroy(linger=0)


@pytest.fixture
def receivers(folder: Path) -> Iterator[list[Receiver]]:
    made = [Receiver(folder, name) for name in ("one", "two")]
    yield made
    for receiver in made:
        receiver.close()


def directory(occupants: list[tuple[int, int, str]]) -> Directory:
    """A directory with (trace, choice, address) of each slot, from slot 0 on."""
    empty = [(0, 0, "")] * (NUM_SLOTS - len(occupants))
    traces, choices, addresses = zip(*occupants, *empty, strict=True)
    return Directory(
        np.array(traces, np.uint64),
        np.array(choices, np.uint32),
        np.array(addresses, object),
    )


def measured(slot: int) -> tuple[float, ...]:
    """A value of its own for each of the fields that follow the index."""
    return (slot / 2, slot / 4, float(slot), -float(slot), 2.0 * slot, slot / 8, 3.0 * slot)


def publish(
    publisher: Publisher, slots: list[int], indices: list[int], occupants: Directory
) -> None:
    """A step in which the row of slot s has the values `measured(s)`."""
    rows = torch.tensor([measured(slot) for slot in slots])
    publisher.publish(rows.unbind(1), np.array(slots), np.array(indices), occupants)


def test_records_arrive_complete_and_in_order_at_every_receiver(
    publisher: Publisher, receivers: list[Receiver]
) -> None:
    one, two = receivers
    occupants = directory([(1, 0, one.address), (2, 0, two.address), (1, 3, one.address)])
    for step in range(200):
        publish(publisher, [0, 1, 2], [step, step, step + 5], occupants)
    for step, records in enumerate(one.frames(200)):
        assert records == [(1, 0, step, *measured(0)), (1, 3, step + 5, *measured(2))]
    for step, records in enumerate(two.frames(200)):
        assert records == [(2, 0, step, *measured(1))]
    assert one.is_quiet()
    assert two.is_quiet()
    assert not any(publisher.lost.values())


def test_device_slots_and_indices_are_read_like_those_of_the_host(
    publisher: Publisher, receivers: list[Receiver]
) -> None:
    one = receivers[0]
    occupants = directory([(1, 0, one.address), (9, 2, one.address)])
    publisher.publish(
        torch.tensor([measured(1), [torch.nan] * 7]).unbind(1),
        torch.tensor([1, 0]),
        torch.tensor([4, -1]),
        occupants,
    )
    assert one.frames(1) == [[(9, 2, 4, *measured(1))]]


def test_records_of_a_device_are_sent_once_their_copies_have_ended(
    publisher: Publisher, receivers: list[Receiver], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine goes on meanwhile, and the sender's thread sleeps instead of spinning."""
    one, copies, ended = receivers[0], list[Tensor](), threading.Event()

    def start_copy(values: Any) -> Any:
        if not isinstance(values, Tensor):
            return values
        copies.append(torch.zeros(values.shape, dtype=values.dtype))
        return copies[-1]

    class Event:
        def __init__(self, *, blocking: bool) -> None:
            assert blocking

        def record(self) -> None:
            assert len(copies) == 8, "it is recorded behind all copies"

        def synchronize(self) -> None:
            ended.wait()

    monkeypatch.setattr(module, "_to_host", start_copy)
    monkeypatch.setattr(torch, "Event", Event)
    columns = torch.zeros(7, 1, device="meta").unbind()
    indices = torch.zeros(1, dtype=torch.int64, device="meta")
    publisher.publish(columns, np.array([0]), indices, directory([(1, 0, one.address)]))
    assert one.is_quiet()
    for copy in copies:
        copy.fill_(1)
    ended.set()
    assert one.frames(1) == [[(1, 0, 1, *[1.0] * 7)]]


def test_unsampled_rows_and_empty_slots_are_dropped(
    publisher: Publisher, receivers: list[Receiver]
) -> None:
    one = receivers[0]
    occupants = directory([(1, 0, one.address), (0, 0, ""), (3, 0, one.address)])
    publish(publisher, [0, 1, 2], [-1, 0, -7], occupants)  # nothing left of this step
    publish(publisher, [0, 1, 2, 3], [-1, 0, 6, 0], occupants)
    assert one.frames(1) == [[(3, 0, 6, *measured(2))]]
    assert one.is_quiet()


def test_a_step_keeps_the_directory_it_was_published_with(
    publisher: Publisher, receivers: list[Receiver]
) -> None:
    one = receivers[0]
    for trace in range(1, 50):
        publish(publisher, [0], [0], directory([(trace, 0, one.address)]))
    assert [records[0][0] for records in one.frames(49)] == list(range(1, 50))


def test_a_receiver_that_is_gone_loses_records_which_are_counted_and_blocks_nobody(
    folder: Path, receivers: list[Receiver]
) -> None:
    publisher, alive = Publisher(), receivers[0]
    occupants = directory([(1, 0, f"ipc://{folder / 'gone'}"), (2, 0, alive.address)])
    for step in range(1500):  # would never end if a receiver could hold it up
        publish(publisher, [0, 1], [step, step], occupants)
    received = [records[0][2] for records in alive.frames(1500)]
    assert received == list(range(1500))
    publisher.close()
    # ZeroMQ keeps the first 1000 frames for a late receiver
    assert publisher.lost["no_receiver"] == 500


def test_closing_sends_what_is_queued(receivers: list[Receiver]) -> None:
    publisher, one = Publisher(), receivers[0]
    for step in range(100):
        publish(publisher, [0], [step], directory([(1, 0, one.address)]))
    publisher.close()
    assert [records[0][2] for records in one.frames(100)] == list(range(100))


def test_closing_what_never_published_is_harmless() -> None:
    Publisher().close()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_an_address_that_cannot_be_reached_at_all_costs_only_its_own_records(
    publisher: Publisher, receivers: list[Receiver]
) -> None:
    one = receivers[0]
    one.socket.setsockopt(zmq.RCVTIMEO, 500)
    publish(publisher, [0], [0], directory([(1, 0, "no such transport")]))
    publish(publisher, [0], [0], directory([(2, 0, one.address)]))
    assert one.frames(1) == [[(2, 0, 0, *measured(0))]]
