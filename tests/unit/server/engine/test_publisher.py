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
from torch.utils._python_dispatch import TorchDispatchMode

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


class Copies(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Copies from tensors without data to the host, which the test fills later."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.started: list[Tensor] = []
        self.recorded = 0
        """How many of them the last event waits for."""
        self.ended = threading.Event()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if not str(func).startswith("aten._to_copy"):
            return func(*args, **kwargs)
        assert kwargs["device"].type == "cpu"
        assert kwargs["non_blocking"]
        self.started.append(torch.zeros(args[0].shape, dtype=args[0].dtype))
        return self.started[-1]


@pytest.fixture
def copies(monkeypatch: pytest.MonkeyPatch) -> Iterator[Copies]:
    """A device whose copies end when the test says so: `ended.set()`."""
    copies = Copies()

    class Event:
        def __init__(self, *, blocking: bool) -> None:
            assert blocking, "the sender's thread sleeps instead of spinning"

        def record(self) -> None:
            copies.recorded = len(copies.started)

        def synchronize(self) -> None:
            copies.ended.wait()

    monkeypatch.setattr(torch, "Event", Event)
    with copies:
        yield copies
    copies.ended.set()


def on_device(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.zeros(shape, dtype=dtype, device="meta")


def test_records_of_a_device_are_sent_once_their_two_copies_have_ended(
    publisher: Publisher, receivers: list[Receiver], copies: Copies
) -> None:
    """One of slots and indices, one of all that was measured; the engine goes on meanwhile."""
    one = receivers[0]
    slots, indices = on_device(2, 2, dtype=torch.int64)
    values = on_device(7, 2).unbind()
    publisher.publish(values, slots, indices, directory([(1, 0, one.address), (2, 1, one.address)]))
    assert one.is_quiet()
    assert copies.recorded == 2
    whole, numbers = copies.started
    whole.copy_(torch.tensor([[1, 0], [4, 9]]))
    numbers.copy_(torch.tensor([measured(1), measured(3)]).T)
    copies.ended.set()
    assert one.frames(1) == [[(2, 1, 4, *measured(1)), (1, 0, 9, *measured(3))]]


def test_decisions_and_states_of_a_device_need_no_copy_for_each_column(
    publisher: Publisher, receivers: list[Receiver], copies: Copies
) -> None:
    one = receivers[0]
    occupants, figures = directory([(1, 5, one.address)]), [float(n) for n in range(10)]
    classes = on_device(1, dtype=torch.int64)
    publisher.publish_decisions(classes, on_device(1, 10), np.array([0]), occupants)
    publisher.publish_states(on_device(1, 2), np.array([0]), occupants)
    assert copies.recorded == 3
    chosen, ten, two = copies.started
    chosen.fill_(2)
    ten.copy_(torch.tensor([figures]).T)
    two.copy_(torch.tensor([[0.5], [3.0]]))
    copies.ended.set()
    assert one.frames(2) == [[(1, 5, 2, *figures)], [(1, 5, 0.5, 3.0)]]


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
