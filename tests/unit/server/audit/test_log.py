"""The file of the decision log: whole lines, bounded, and never an exception for a request."""

import math
import stat
from collections.abc import Callable
from functools import partial
from pathlib import Path
from threading import Event

import pytest

from server.audit import log as log_module
from server.audit.files import file_of_server, refuse_unwritable
from server.audit.lines import DecisionLine
from server.audit.log import DecisionLog
from tests.unit.server.audit.support import line, read
from tests.unit.server.metrics.support import value


def lost(reason: str) -> float:
    return value("entrostat_decision_log_lost_lines_total", reason=reason)


def test_lines_are_whole_in_order_and_readable_by_their_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    before = value("entrostat_decision_log_lines_total")
    log = DecisionLog(path, 1 << 20, 2, prompts=False)
    for number in range(50):
        log.write(partial(line, f"ß{number}\n"))
    log.close()
    assert [one["id"] for one in read(path)] == [f"ß{number}\n" for number in range(50)]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert value("entrostat_decision_log_lines_total") == before + 50


def test_a_number_that_is_not_finite_is_written_as_null(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    log = DecisionLog(path, 1 << 20, 2, prompts=False)
    log.write(lambda: line("a", entropy=math.nan, nested={"list": [math.inf, 1.0]}))
    log.close()
    (report,) = [one["report"] for one in read(path)[0]["choices"]]
    assert report == {"entropy": None, "nested": {"list": [None, 1.0]}}


def test_the_file_is_rotated_by_size_and_old_files_go(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    log = DecisionLog(path, 2048, 2, prompts=False)
    for number in range(40):
        log.write(partial(line, str(number)))
    log.close()
    files = [path.with_name("log.jsonl.2"), path.with_name("log.jsonl.1"), path]
    assert sorted(tmp_path.iterdir()) == sorted(files)
    assert all(one.stat().st_size <= 2048 for one in files)
    kept = [int(found["id"]) for one in files for found in read(one)]
    assert kept == list(range(kept[0], 40))


def test_a_full_queue_loses_lines_and_counts_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_module, "MAX_LINES", 3)
    path = tmp_path / "log.jsonl"
    log = DecisionLog(path, 1 << 20, 2, prompts=False)
    begun, go = Event(), Event()

    def slow() -> DecisionLine:
        begun.set()
        go.wait()
        return line("slow")

    before = lost("queue_full")
    log.write(slow)
    begun.wait()
    for number in range(5):
        log.write(partial(line, str(number)))
    go.set()
    log.close()
    assert [one["id"] for one in read(path)] == ["slow", "0", "1", "2"]
    assert lost("queue_full") == before + 2


def test_waiting_bodies_are_bounded_in_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_module, "MAX_BYTES", 100)
    path = tmp_path / "log.jsonl"
    log = DecisionLog(path, 1 << 20, 2, prompts=True)
    go, before = Event(), lost("queue_full")

    def waits(name: str) -> Callable[[], DecisionLine]:
        def make() -> DecisionLine:
            go.wait()
            return line(name)

        return make

    for name, size in (("a", 60), ("b", 60), ("c", 40), ("d", 0)):
        log.write(waits(name), size)
    go.set()
    log.close()
    assert [one["id"] for one in read(path)] == ["a", "c", "d"]
    assert lost("queue_full") == before + 1


def test_a_line_that_cannot_be_built_is_counted_and_the_next_is_written(tmp_path: Path) -> None:
    path, before = tmp_path / "log.jsonl", lost("error")
    log = DecisionLog(path, 1 << 20, 2, prompts=False)

    def broken() -> DecisionLine:
        raise ValueError("broken")

    log.write(broken)
    log.write(lambda: line("surrogate \ud800"))
    log.write(lambda: line("whole"))
    log.close()
    assert [one["id"] for one in read(path)] == ["whole"]
    assert lost("error") == before + 2


def test_a_full_disk_is_counted_and_raises_nothing() -> None:
    before = lost("file")
    log = DecisionLog(Path("/dev/full"), 1 << 20, 2, prompts=False)
    for number in range(3):
        log.write(partial(line, str(number)))
    log.close()
    assert lost("file") == before + 3


def test_what_a_failed_write_left_ends_before_the_next_line(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text('{"id": "half')
    log = DecisionLog(path, 1 << 20, 2, prompts=False)
    log.write(lambda: line("whole"))
    log.close()
    half, whole = path.read_text().splitlines()
    assert half == '{"id": "half'
    assert '"whole"' in whole


@pytest.mark.parametrize("path", ["/dev/full", "/", "missing/log.jsonl", "log.jsonl/log.jsonl"])
def test_a_file_that_cannot_be_written_is_refused(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("log.jsonl").touch()
    with pytest.raises(OSError, match=r".+"):
        refuse_unwritable(Path(path))
    assert [one.name for one in tmp_path.iterdir()] == ["log.jsonl"]


def test_every_api_server_has_a_file_of_its_own() -> None:
    path = Path("logs/decisions.jsonl")
    assert file_of_server(path, 0, 1) == path
    assert {str(file_of_server(path, rank, 2)) for rank in range(2)} == {
        "logs/decisions.0.jsonl",
        "logs/decisions.1.jsonl",
    }


def test_a_closed_log_counts_what_comes_late(tmp_path: Path) -> None:
    log, before = DecisionLog(tmp_path / "log.jsonl", 1 << 20, 2, prompts=False), lost("queue_full")
    log.close()
    log.write(partial(line, "late"))
    log.close()
    assert lost("queue_full") == before + 1
