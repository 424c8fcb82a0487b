"""Writes the decision log: a bounded queue, a thread, a file that is rotated by size.

Each line is written and handed to the operating system before the next one; it is not synced to the
disk, so that a crash of the server loses no written line, a crash of the machine the last ones.
"""

import logging
import queue
from collections.abc import Callable
from contextlib import suppress
from io import TextIOWrapper
from logging.handlers import QueueHandler, QueueListener, RotatingFileHandler
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple, cast

from server.audit.files import is_torn, private
from server.audit.lines import AuditLine
from server.metrics import observe

logger = logging.getLogger("vllm.entrostat")

MAX_LINES = 10_000
"""Lines that wait for the thread; further ones are lost."""
MAX_BYTES = 64 << 20
"""Bytes of request bodies that wait for the thread."""


class _Entry(NamedTuple):
    make: Callable[[], AuditLine]
    """Builds the line, in the thread."""
    size: int
    """Bytes that it holds while it waits."""


class DecisionLog:
    """The decision log of one API server."""

    def __init__(self, path: Path, max_bytes: int, files: int, *, prompts: bool) -> None:
        """Open the file and start the thread.

        Args:
            path: The file; appended to if it exists.
            max_bytes: Size at which it is rotated.
            files: Rotated files that are kept, `path.1` the newest.
            prompts: Whether lines have the body of the request.

        Raises:
            OSError: The file cannot be written.
        """
        self.prompts = prompts
        self.in_flight = 0
        """Controlled requests whose line is not complete yet."""
        self._waiting = 0
        self._closed = False
        self._lock = Lock()
        lines: queue.Queue[logging.LogRecord] = queue.Queue(MAX_LINES)
        self._queue = _LineQueue(lines)
        self._file = _LineFile(path, max_bytes, files)
        self._thread = _LineThread(lines, self._file, self._release)
        self._thread.start()

    def write(self, make: Callable[[], AuditLine], size: int = 0) -> None:
        """Write a line later. Returns at once and never raises; a line that is lost is counted.

        Args:
            make: Builds the line; called in the thread, so it must own what it reads.
            size: Bytes that it holds until then.
        """
        with self._lock:
            if self._closed or (size and self._waiting + size > MAX_BYTES):
                observe.count_lost_line("queue_full")
                return
            self._waiting += size
        record = logging.makeLogRecord({"msg": _Entry(make, size)})
        if not self._queue.offer(record):
            self._release(size)

    def close(self) -> None:
        """Write what waits and close the file; again does nothing."""
        if self._closed:
            return
        self._closed = True
        self._thread.stop()
        self._file.close()

    def _release(self, size: int) -> None:
        with self._lock:
            self._waiting -= size


class _LineQueue(QueueHandler):
    def offer(self, record: logging.LogRecord) -> bool:
        try:
            self.enqueue(record)  # does not wait
        except queue.Full:
            observe.count_lost_line("queue_full")
            return False
        return True


class _LineThread(QueueListener):
    def __init__(
        self,
        lines: "queue.Queue[Any]",
        file: logging.Handler,
        release: Callable[[int], None],
    ) -> None:
        super().__init__(lines, file)
        self._lines, self._release = lines, release

    def enqueue_sentinel(self) -> None:
        self._lines.put(None)  # waits for a place, unlike the standard library's

    def handle(self, record: logging.LogRecord) -> None:
        """Build a line and write it."""
        entry = record.msg
        assert isinstance(entry, _Entry)
        try:
            line = entry.make().model_dump_json(exclude_none=True)
        except Exception:  # whatever a request holds, the next line is written
            observe.count_lost_line("error")
            logger.exception("entrostat: a line of the decision log could not be built")
            return
        finally:
            self._release(entry.size)
        super().handle(logging.makeLogRecord({"msg": line}))


class _LineFile(RotatingFileHandler):
    """A file of whole lines: what a failed write left of a line ends before the next one."""

    def __init__(self, path: Path, max_bytes: int, files: int) -> None:
        super().__init__(path, maxBytes=max_bytes, backupCount=files, encoding="utf-8")
        self._lost = self._complained = False

    def _open(self) -> TextIOWrapper:
        stream = open(self.baseFilename, "a", encoding="utf-8", opener=private)  # noqa: SIM115
        if is_torn(Path(self.baseFilename)):
            stream.write("\n")
        return stream

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line; count it, or that it is lost."""
        self._lost = False
        super().emit(record)
        if not self._lost:
            observe.count_written_line()

    def handleError(self, record: logging.LogRecord) -> None:
        """Count a line that could not be written, and open the file again for the next one."""
        self._lost = True
        observe.count_lost_line("file")
        if not self._complained:
            self._complained = True
            logger.exception("entrostat: a line of the decision log is lost; others are counted")
        stream: TextIOWrapper | None = self.stream
        self.stream = cast(TextIOWrapper, None)  # the next line opens it
        with suppress(OSError, ValueError):  # the rest of the line is lost too
            if stream is not None:
                stream.close()
